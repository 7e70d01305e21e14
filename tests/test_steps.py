import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmkg.errors import InputError
from cmkg.features import FeatureTap
from cmkg.meta import unrolled_gradient
from cmkg.prior import Prior
from cmkg.steps import distil_step, meta_step, supervised_step
from tests.conftest import LAYERS, small_net
from tests.meta_reference import ALPHA, closed_form, losses, parts, relative

from .test_prior import random_prior


def one_meta_step(wrap=lambda net: net, context=None):
    student, teacher = (small_net(c, s, torch.float32) for c, s in ((3, 0), (1, 7)))
    taps = FeatureTap(student, LAYERS), FeatureTap(teacher, LAYERS)
    prior = Prior.constant(student)
    g = torch.Generator().manual_seed(3)
    x, depth, y = (torch.randn(s, generator=g) for s in ((16, 3, 8, 8), (16, 1, 8, 8), (16, 6)))
    more = {"context": context} if context else {}
    for _ in range(3):
        meta_step(
            wrap(student),
            taps[0],
            teacher,
            taps[1],
            torch.optim.SGD(student.parameters(), 1e-3),
            [prior],
            x,
            depth,
            y,
            1e-3,
            1.0,
            attention_weight=1.0,
            **more,
        )
    return student, prior


def test_the_meta_step_of_a_compiled_student_agrees():
    compiled = {}

    def wrap(net):
        return compiled.setdefault(id(net), torch.compile(net, backend="aot_eager"))

    (a, p), (b, q) = one_meta_step(), one_meta_step(wrap)
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        torch.testing.assert_close(t, u, rtol=1e-4, atol=1e-6)
    for n, t in p.phi.items():
        torch.testing.assert_close(t, q.phi[n], rtol=1e-3, atol=1e-6)


def test_the_meta_step_in_bfloat16_agrees_and_keeps_phi_in_float32():
    (a, p), (b, q) = (
        one_meta_step(),
        one_meta_step(context=lambda: torch.autocast("cpu", torch.bfloat16)),
    )
    for n, t in p.phi.items():
        assert q.phi[n].dtype == torch.float32
        assert F.cosine_similarity(t.flatten(), q.phi[n].flatten(), dim=0) > 0.98, n
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        assert u.dtype == torch.float32
        torch.testing.assert_close(t, u, rtol=0.05, atol=5e-3)


def test_adams_inner_step_needs_adam(batch):
    with pytest.raises(InputError, match="inner_optimizer 'rmsprop': expected sgd or adam"):
        closed_form(*parts(2), batch, inner_optimizer="rmsprop")
    with pytest.raises(InputError, match="expected Adam or AdamW for the student, got SGD"):
        closed_form(*parts(2), batch, inner_optimizer="adam")


def test_buffers_after_a_meta_step_are_those_of_its_first_pass_only(batch):
    student, tap, teacher, teacher_tap, prior = parts(2)
    once = copy.deepcopy(student)
    once(batch[0])
    closed_form(student, tap, teacher, teacher_tap, prior, batch)
    for (name, a), b in zip(student.named_buffers(), once.buffers(), strict=False):
        assert torch.equal(a, b), name


def test_several_priors_learn_side_by_side_what_each_learns_alone(batch):
    student, tap, teacher, teacher_tap, one = parts(1)
    two = random_prior(student, 2)
    alone = [copy.deepcopy(q) for q in (one, two)]
    x, x_superior, y = batch

    def step(priors):
        return meta_step(
            student,
            tap,
            teacher,
            teacher_tap,
            torch.optim.SGD(student.parameters(), 0.0),
            priors,
            x,
            x_superior,
            y,
            0.01,
            0.1,
        )

    step([one, two])
    for q in alone:
        step([q])
    torch.testing.assert_close([one.phi, two.phi], [alone[0].phi, alone[1].phi])


def test_a_loss_that_is_not_finite_is_one_sentence(batch):
    from cmkg.errors import InputError

    net, (x, _, y) = small_net(), batch
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match="the regression loss is nan"):
        supervised_step(net, torch.optim.SGD(net.parameters(), 0.1), x, y * float("nan"))
    assert all(torch.equal(t, before[n]) for n, t in net.named_parameters())


def test_distillation_moves_the_student_towards_the_teacher(batch):
    """Each term of L_DIST alone falls when it alone counts."""
    x, x_superior, y = batch
    for term, weight in (("activation", 1e-9), ("attention", 1e4)):
        student, tap, teacher, teacher_tap, _ = parts(2)
        optimizer = torch.optim.Adam(student.parameters(), 0.01)

        step = partial(
            distil_step, student, tap, teacher, teacher_tap, optimizer, attention_weight=weight
        )
        losses = [step(x, x_superior, y)[term] for _ in range(60)]
        assert losses[-1] < 0.6 * losses[0], term


def test_a_prior_of_zero_changes_nothing(batch):
    a, b, (x, _, y) = small_net(), small_net(), batch
    supervised_step(a, torch.optim.Adam(a.parameters(), 0.01), x, y)
    supervised_step(b, torch.optim.Adam(b.parameters(), 0.01), x, y, prior=Prior.constant(b, 0.0))
    assert all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=False)
    )


def test_a_split_batch_moves_theta_on_both_halves_and_learns_phi_on_the_second(batch):
    student, tap, teacher, teacher_tap, prior = parts(2)
    moved, oracle = copy.deepcopy(student), copy.deepcopy(student)
    first, second = (tuple(t[rows] for t in batch) for rows in (slice(0, 2), slice(2, 4)))
    before = {n: t.clone() for n, t in prior.phi.items()}
    meta_step(
        moved,
        FeatureTap(moved, LAYERS),
        teacher,
        teacher_tap,
        torch.optim.SGD(moved.parameters(), 0.01),
        [prior],
        *first,
        alpha=ALPHA,
        beta=1.0,
        attention_weight=3.0,
        outer=second,
    )
    oracle_tap = FeatureTap(oracle, LAYERS)
    inner = losses(oracle_tap, teacher, teacher_tap, first)[0]
    outer = losses(oracle_tap, teacher, teacher_tap, second)[1]
    exact = unrolled_gradient(oracle, Prior(before), inner, outer, ALPHA)
    assert relative({n: before[n] - t for n, t in prior.phi.items()}, exact) < 1e-12
    gradients = []
    for half in (first, second):
        G = losses(oracle_tap, teacher, teacher_tap, half)[1]
        gradients.append(torch.autograd.grad(G(oracle), list(oracle.parameters())))
    for t, start, a, b in zip(moved.parameters(), oracle.parameters(), *gradients, strict=False):
        torch.testing.assert_close(t, start - 0.01 * (a + b) / 2)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x):
        return self.a(x)


def test_a_weight_that_the_loss_does_not_see_is_not_decayed():
    net = Unused()
    before = net.b.weight.clone()
    optimizer = torch.optim.AdamW(net.parameters(), 0.1, weight_decay=0.5)
    for _ in range(3):
        supervised_step(net, optimizer, torch.randn(8, 3), torch.randn(8, 1))
    assert torch.equal(net.b.weight, before)


def test_accumulated_gradients_are_added_to():
    whole, parts = nn.Linear(3, 1), nn.Linear(3, 1)
    parts.load_state_dict(whole.state_dict())
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    sgd = torch.optim.SGD(parts.parameters(), 0.1)
    (F.mse_loss(parts(x[:4]), y[:4]) / 2).backward()
    supervised_step(parts, sgd, x[4:], y[4:], lambda p, t: F.mse_loss(p, t) / 2)
    supervised_step(whole, torch.optim.SGD(whole.parameters(), 0.1), x, y, F.mse_loss)
    torch.testing.assert_close(list(whole.parameters()), list(parts.parameters()))


def test_a_frozen_layer_stays_in_every_step():
    net, teacher = (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in "ab")
    prior = Prior.constant(net, 0.5)
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    optimizer = torch.optim.SGD(net[2].parameters(), 0.1)
    for coupled in (False, True):
        supervised_step(net, optimizer, x, y, F.mse_loss, prior, coupled)
    taps = FeatureTap(net, ["1"]), FeatureTap(teacher, ["1"])
    phi = prior.phi["0.weight"].clone()
    meta_step(
        *(net, taps[0], teacher, taps[1], optimizer, [prior], x, x, y, 0.5, 1.0),
        distillation=lambda a, b: {"d": F.mse_loss(a[0], b[0])},
    )
    assert torch.equal(net[0].weight, before)
    assert torch.equal(prior.phi["0.weight"], phi)
