import copy

import pytest
import torch
from torch.func import functional_call

from cmkg.distillation.features import FeatureTap
from cmkg.prior.meta_gradient import adam_scales, unrolled_gradient
from cmkg.prior.prior import Prior
from tests.conftest import LAYERS
from tests.meta_reference import (
    ALPHA,
    closed_form,
    distil_step,
    distiller_of,
    losses,
    parts,
    relative,
)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("centred", [False, True])
def test_closed_form_equals_unrolled_without_teacher_to_rounding(p, centred, batch):
    student, tap, _, _, prior = parts(p, centred)
    inner, outer = losses(tap, None, None, batch)
    exact = unrolled_gradient(copy.deepcopy(student), prior, inner, outer, ALPHA)
    assert relative(closed_form(student, None, prior, batch), exact) < 1e-12


@pytest.mark.parametrize("p", [1, 2])
def test_closed_form_equals_unrolled_with_distillation(p, batch):
    student, _, teacher, teacher_tap, prior = parts(p)
    oracle = copy.deepcopy(student)
    inner, outer = losses(FeatureTap(oracle, LAYERS), teacher, teacher_tap, batch)
    exact = unrolled_gradient(oracle, prior, inner, outer, ALPHA)
    assert relative(closed_form(student, teacher, prior, batch), exact) < 1e-12


def test_adams_inner_step_has_the_same_closed_form(batch):
    """Against finite differences of G(theta - alpha s (grad L_REG + 2 phi theta)), s of an Adam
    that has stepped before."""
    student, tap, teacher, teacher_tap, prior = parts(2)
    adam, distiller = torch.optim.Adam(student.parameters(), 1e-3), distiller_of(student, teacher)
    distil_step(distiller, adam, batch)
    inner, G = losses(tap, teacher, teacher_tap, batch)

    def gradients_of(loss):
        return torch.autograd.grad(loss(student), list(student.parameters()))

    scales = []
    for t, g in zip(student.parameters(), gradients_of(G), strict=False):
        v = (0.999 * adam.state[t]["exp_avg_sq"] + 0.001 * g**2) / (1 - 0.999**2)
        scales.append(1e-3 / (v.sqrt() + 0.1 * v.sqrt().mean() + 1e-8))
    step = {
        n: (s, d)
        for (n, _), s, d in zip(
            student.named_parameters(), scales, gradients_of(inner), strict=False
        )
    }
    theta = {n: t.detach().clone() for n, t in student.named_parameters()}
    alpha = 1.0

    def value(phi):
        moved = {
            n: t - alpha * step[n][0] * (step[n][1] + (2 * phi[n] * t if n in phi else 0))
            for n, t in theta.items()
        }
        buffers = {n: b.clone() for n, b in student.named_buffers()}
        return float(G(lambda *inputs: functional_call(student, (moved, buffers), inputs)))

    before = {n: t.clone() for n, t in prior.phi.items()}
    distil_step(distiller, adam, batch, [prior], alpha=alpha, beta=1.0, inner_optimizer="adam")
    for name in ("0.0.0.weight", "2.weight"):
        index = (0,) * before[name].dim()
        up, down = ({n: t.clone() for n, t in before.items()} for _ in range(2))
        up[name][index] += 1e-4
        down[name][index] -= 1e-4
        assert float((before[name] - prior.phi[name])[index]) == pytest.approx(
            (value(up) - value(down)) / 2e-4, rel=1e-4
        )


def test_several_inner_steps_are_summed_to_first_order(batch):
    errors = {}
    for alpha in (ALPHA, ALPHA / 10):
        student, tap, teacher, teacher_tap, prior = parts(2)
        exact = unrolled_gradient(
            student, prior, *losses(tap, teacher, teacher_tap, batch), alpha, steps=3
        )
        for n in (1, 3):
            errors[n, alpha] = relative(
                closed_form(*parts(2)[:3:2], prior, batch, alpha, inner_steps=n), exact
            )
    small, large = sorted(alpha for _, alpha in errors)[::2]
    assert errors[3, small] < errors[3, large] / 5 < 0.05
    assert errors[1, small] > 0.5


@pytest.mark.parametrize("p", [1, 2])
def test_unrolled_equals_finite_differences(p, batch):
    student, tap, teacher, teacher_tap, prior = parts(p)
    inner, outer = losses(tap, teacher, teacher_tap, batch)
    exact = unrolled_gradient(student, prior, inner, outer, ALPHA, steps=2)
    _, _, _, _, fresh = parts(p)

    def G(phi):
        return value_after(student, phi, prior.p, inner, outer, steps=2)

    for name in ("0.0.0.weight", "2.weight"):
        index = (0,) * fresh.phi[name].dim()
        up, down = ({n: t.clone() for n, t in fresh.phi.items()} for _ in range(2))
        up[name][index] += 1e-3
        down[name][index] -= 1e-3
        assert float(exact[name][index]) == pytest.approx((G(up) - G(down)) / 2e-3, rel=1e-5)


def value_after(student, phi, p, inner, outer, steps):
    """G after `steps` plain inner updates, by hand."""
    theta = {n: t.detach().clone() for n, t in student.named_parameters()}
    for _ in range(steps):
        theta = {n: t.requires_grad_() for n, t in theta.items()}

        def run(*x, theta=theta):
            return functional_call(
                student, (theta, {n: b.clone() for n, b in student.named_buffers()}), x
            )

        g = torch.autograd.grad(inner(run), list(theta.values()))
        moved = {}
        for (n, t), d in zip(theta.items(), g, strict=False):
            pull = phi[n] * (2 * t if p == 2 else t.sign()) if n in phi else 0.0
            moved[n] = (t - ALPHA * d - ALPHA * pull).detach()
        theta = moved

    def run(*x):
        return functional_call(
            student, (theta, {n: b.clone() for n, b in student.named_buffers()}), x
        )

    return float(outer(run))


def test_the_look_ahead_leaves_weights_and_batchnorm_bit_for_bit(batch):
    """A meta-step moves theta and the running statistics exactly as a plain distillation step
    does."""
    student, _, teacher, _, prior = parts(2)
    plain = copy.deepcopy(student)
    distiller, alone = distiller_of(student, teacher), distiller_of(plain, teacher)
    teacher_before = copy.deepcopy(teacher.state_dict())
    sgd, other = (torch.optim.SGD(net.parameters(), 0.01) for net in (student, plain))
    for _ in range(3):
        distil_step(distiller, sgd, batch, [prior], alpha=0.5, beta=1e-3)
        distil_step(alone, other, batch)
    for (name, a), b in zip(student.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    still = copy.deepcopy(student.state_dict())
    sgd = torch.optim.SGD(student.parameters(), 0.0)
    distil_step(distiller, sgd, batch, [prior], alpha=0.5, beta=1e-3)
    for name, t in student.named_parameters():
        assert torch.equal(t, still[name]), name
    assert (
        student.state_dict()["0.0.1.num_batches_tracked"] == still["0.0.1.num_batches_tracked"] + 1
    )
    for name, t in teacher.state_dict().items():
        assert torch.equal(t, teacher_before[name]), f"the teacher's {name} moved"


def test_adams_scales_at_its_first_step_and_later():
    """lr / (root of v + a tenth of its mean + eps), v as Adam corrects it."""
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], 0.1, betas=(0.9, 0.5), eps=0.25)
    gradient = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    (scale,) = adam_scales(optimizer, {"w": weight}, {"w": gradient}).values()
    torch.testing.assert_close(scale, 0.1 / (gradient.abs() + 0.1 * 2.0 + 0.25))
    weight.grad = gradient.clone()
    optimizer.step()
    (scale,) = adam_scales(optimizer, {"w": weight}, {"w": 2 * gradient}).values()
    v = (0.5 * (2 * gradient) ** 2 + 0.5 * 0.5 * gradient**2) / (1 - 0.5**2)
    torch.testing.assert_close(scale, 0.1 / (v.sqrt() + 0.1 * v.sqrt().mean() + 0.25))


def test_a_branch_that_a_batch_does_not_take_and_a_frozen_layer_have_no_gradient():
    class Branches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
            self.frozen = torch.nn.Linear(1, 1).requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.a(x))

    torch.manual_seed(0)
    net, x = Branches(), torch.randn(5, 3)
    prior = Prior({name: torch.ones_like(w) for name, w in net.named_parameters() if w.dim() > 1})

    def loss(run):
        return run(x).square().mean()

    found = unrolled_gradient(net, prior, loss, loss, 0.1)
    assert set(found) == {"a.weight", "b.weight"}
    assert found["a.weight"].abs().sum() > 0
    assert found["b.weight"].abs().sum() == 0
    twice = unrolled_gradient(net, prior, loss, loss, 0.1, steps=2)
    assert not torch.allclose(found["a.weight"], twice["a.weight"])
