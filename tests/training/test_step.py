import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmkg.batch import Batch
from cmkg.distillation.losses import regression_loss
from cmkg.errors import Diverged, InputError
from cmkg.prior.learner import MetaConfig, PriorLearner
from cmkg.prior.prior import Prior
from cmkg.training.step import take_step
from tests.conftest import small_net
from tests.meta_reference import closed_form, distil_step, distiller_of, parts, random_prior


def three_meta_steps(wrap=lambda net: net, context=nullcontext):
    student, teacher = (small_net(c, s, torch.float32) for c, s in ((3, 0), (1, 7)))
    distiller = distiller_of(wrap(student), teacher, 1.0)
    learner = PriorLearner(distiller, MetaConfig(alpha=1e-3, beta=1.0))
    g = torch.Generator().manual_seed(3)
    batch = Batch(*(torch.randn(s, generator=g) for s in ((16, 3, 8, 8), (16, 1, 8, 8), (16, 6))))
    sgd = torch.optim.SGD(student.parameters(), 1e-3)
    for _ in range(3):
        learn = partial(learner.backward, batch)
        take_step(student, sgd, lambda: distiller(batch), context, learn)
    return student, learner.prior


def supervised_step(net, optimizer, x, y, loss=regression_loss):
    return take_step(net, optimizer, lambda: {"regression": loss(net(x), y)})


@pytest.mark.long
def test_the_meta_step_of_a_compiled_student_agrees():
    compiled = {}

    def wrap(net):
        return compiled.setdefault(id(net), torch.compile(net, backend="aot_eager"))

    (a, p), (b, q) = three_meta_steps(), three_meta_steps(wrap)
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        torch.testing.assert_close(t, u, rtol=1e-4, atol=1e-6)
    for n, t in p.phi.items():
        torch.testing.assert_close(t, q.phi[n], rtol=1e-3, atol=1e-6)


def test_the_meta_step_in_bfloat16_agrees_and_keeps_phi_in_float32():
    (a, p), (b, q) = (
        three_meta_steps(),
        three_meta_steps(context=lambda: torch.autocast("cpu", torch.bfloat16)),
    )
    for n, t in p.phi.items():
        assert q.phi[n].dtype == torch.float32
        assert F.cosine_similarity(t.flatten(), q.phi[n].flatten(), dim=0) > 0.98, n
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        assert u.dtype == torch.float32
        torch.testing.assert_close(t, u, rtol=0.05, atol=5e-3)


def test_adams_inner_step_needs_adam(batch, unchecked):
    with pytest.raises(InputError, match="inner_optimizer 'rmsprop': expected sgd or adam"):
        closed_form(*parts(2)[::2], batch, inner_optimizer="rmsprop")
    with pytest.raises(InputError, match="expected Adam or AdamW for the student, got SGD"):
        closed_form(*parts(2)[::2], batch, inner_optimizer="adam")


def test_buffers_after_a_meta_step_are_those_of_its_first_pass_only(batch):
    student, _, teacher, _, prior = parts(2)
    once = copy.deepcopy(student)
    once(batch[0])
    closed_form(student, teacher, prior, batch)
    for (name, a), b in zip(student.named_buffers(), once.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_several_priors_learn_side_by_side_what_each_learns_alone(batch):
    student, _, teacher, _, one = parts(1)
    two = random_prior(student, 2)
    alone = [copy.deepcopy(q) for q in (one, two)]
    distiller, still = distiller_of(student, teacher), torch.optim.SGD(student.parameters(), 0.0)
    for priors in ([one, two], *([q] for q in alone)):
        distil_step(distiller, still, batch, priors, alpha=0.01, beta=0.1)
    torch.testing.assert_close([one.phi, two.phi], [alone[0].phi, alone[1].phi])


def test_a_loss_that_is_not_finite_is_one_sentence(batch):
    net, (x, _, y) = small_net(), batch
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(Diverged, match="the regression loss is nan"):
        supervised_step(net, torch.optim.SGD(net.parameters(), 0.1), x, y * float("nan"))
    assert all(torch.equal(t, before[n]) for n, t in net.named_parameters())


def test_distillation_moves_the_student_towards_the_teacher(batch):
    """Each term of L_DIST alone falls when it alone counts."""
    for term, weight in (("activation", 1e-9), ("attention", 1e4)):
        student, _, teacher, _, _ = parts(2)
        optimizer = torch.optim.Adam(student.parameters(), 0.01)
        distiller = distiller_of(student, teacher, weight)
        losses = [distil_step(distiller, optimizer, batch)[term] for _ in range(60)]
        assert losses[-1] < 0.6 * losses[0], term


def test_a_prior_of_zero_changes_nothing(batch):
    a, b, (x, _, y) = small_net(), small_net(), batch
    supervised_step(a, torch.optim.Adam(a.parameters(), 0.01), x, y)
    adam = torch.optim.Adam(b.parameters(), 0.01)
    with Prior.constant(b, 0.0).attach(adam, b):
        supervised_step(b, adam, x, y)
    for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(p, q)


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
    net, teacher = (
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in "ab"
    )
    prior = Prior.constant(net, 0.5)
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    optimizer = torch.optim.SGD(net[1:].parameters(), 0.1)
    for coupled in (False, True):
        with prior.attach(optimizer, net, coupled):
            supervised_step(net, optimizer, x, y, F.mse_loss)
    distiller = distiller_of(
        net, teacher, pairs=[("2", "2")], criterion=lambda a, b: {"d": F.mse_loss(a[0], b[0])}
    )
    phi = prior.phi["0.weight"].clone()
    distil_step(distiller, optimizer, (x, x, y), [prior], alpha=0.5, beta=1.0)
    assert torch.equal(net[0].weight, before)
    assert torch.equal(prior.phi["0.weight"], phi)
