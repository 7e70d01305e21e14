"""Pairs without labels, sample by sample: Batch(labelled=...)."""

import copy
import math

import pytest
import torch
from torch import nn

from cmkg import FitConfig, MetaConfig, OutputLoss, distill, fisher, learn_prior, train_with_prior
from cmkg.batch import Batch, Fields, halve, labelled_only
from cmkg.distillation.distiller import Distiller
from cmkg.distillation.losses import regression_loss
from cmkg.errors import InputError
from cmkg.prior.learner import PriorLearner
from cmkg.training.preflight import measure_error
from tests.conftest import LAYERS, small_net

PAIRS = [(name, name) for name in LAYERS]
FIELDS = Fields("x", "depth", "y", "has_label")


def networks():
    return small_net(), small_net(channels=1, seed=7)


@pytest.fixture
def partial(batch):
    """The batch with a label for every other sample, and NaN where there is none."""
    x, depth, y = batch
    labelled = torch.arange(len(x)) % 2 == 0
    return Batch(x, depth, torch.where(labelled[:, None], y, math.nan), labelled)


def test_the_loss_is_that_of_the_labelled_samples_and_distilling_sees_all(partial):
    student, teacher = networks()
    distiller = Distiller(student, teacher, partial, PAIRS)
    losses = distiller(partial)
    chosen = partial.labelled
    expected = regression_loss(student(partial.student_input)[chosen], partial.target[chosen])
    torch.testing.assert_close(losses["regression"], expected)
    all_labelled = partial._replace(target=torch.zeros_like(partial.target), labelled=None)
    torch.testing.assert_close(losses["activation"], distiller(all_labelled)["activation"])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in student.parameters())


def test_phi_is_learned_from_the_labelled_samples_inner_step(partial):
    found = []
    for exact in (False, True):
        student, teacher = networks()
        distiller = Distiller(student, teacher, partial, PAIRS).double()
        doubled = Batch(
            *(t if t is None or not t.is_floating_point() else t.double() for t in partial)
        )
        learner = PriorLearner(distiller, MetaConfig(alpha=1e-2, beta=1.0, exact=exact))
        learner.update(doubled, distiller(doubled))
        found.append(torch.cat([phi.flatten() for phi in learner.prior.phi.values()]))
    assert found[0].isfinite().all()
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_without_any_label_the_regression_is_nought_with_a_graph(partial):
    student, teacher = networks()
    distiller = Distiller(student, teacher, partial, PAIRS)
    none = partial._replace(labelled=torch.zeros_like(partial.labelled))
    losses = distiller(none)
    assert losses["regression"].item() == 0
    gradients = torch.autograd.grad(losses["regression"], list(student.parameters()))
    assert all((gradient == 0).all() for gradient in gradients)
    learner = PriorLearner(distiller)
    assert learner.backward(none, distiller(none)) == {}
    assert all((phi == 0).all() for phi in learner.prior.phi.values())  # it has no inner step
    assert all(p.grad is not None for p in student[0].parameters())
    learner.backward(partial, distiller(partial))
    assert any((phi != 0).any() for phi in learner.prior.phi.values())
    assert labelled_only(none) is None
    first, second = halve(partial)
    assert torch.equal(torch.cat([first.labelled, second.labelled]), partial.labelled)


def test_every_call_takes_them(partial):
    x, depth, y, labelled = partial[:4]
    data = [{"x": x, "depth": depth, "y": y, "has_label": labelled}] * 2
    fit = FitConfig(quiet=True, lr=1e-3)
    student, teacher = networks()
    student_0 = copy.deepcopy(student)
    on_target = Fields("x", None, "y", "has_label")
    few_only = [{"x": x, "depth": depth, "y": y, "has_label": labelled & (torch.arange(5) < 1)}]
    history = distill(
        small_net(), None, few_only + data[:1], fields=FIELDS, fit=FitConfig(quiet=True, lr=1e-9)
    ).history
    own = Fields("x", None, "y", "has_label")
    expected = measure_error(small_net().train(), few_only + data[:1], own, regression_loss)
    assert expected > 0
    losses = [Distiller(small_net(), None, fields=own)(one) for one in few_only + data[:1]]
    weighted = (1 * losses[0]["regression"] + 3 * losses[1]["regression"]) / 4
    assert history[0]["regression"] == pytest.approx(weighted.item(), rel=1e-5)
    for learned in (
        distill(student, teacher, data, pairs=PAIRS, fields=FIELDS, fit=fit),
        learn_prior(student, teacher, data, pairs=PAIRS, fields=FIELDS, fit=fit),
    ):
        assert all(math.isfinite(value) for value in learned.history[0].values())
    prior = learn_prior(
        student, teacher, data, pairs=PAIRS, fields=FIELDS, fit=fit, theta_0=student_0
    ).prior
    history = train_with_prior(student_0, data, prior=prior, fields=on_target, fit=fit)
    assert math.isfinite(history[0]["regression"])
    whole = [(x[labelled], y[labelled])]
    few = [(x, y, labelled)]
    positions = Fields(0, None, 1, 2)
    error = measure_error(student, few, positions, regression_loss)
    assert error == pytest.approx(
        measure_error(student, whole, Fields(0, None, 1), regression_loss)
    )
    mine = fisher(student, few, regression_loss, fields=positions)
    other = fisher(student, whole, regression_loss)
    for name, phi in other.phi.items():
        torch.testing.assert_close(mine.phi[name], phi)
    with pytest.raises(InputError, match="no sample has a label: expected some to measure"):
        measure_error(student, [(x, y, torch.zeros_like(labelled))], positions, regression_loss)


def test_lists_of_targets_and_named_outputs_are_cut_alike():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, x):
            return {"joints": self.net(x), "scale": torch.ones(())}

    def loss(prediction, target):
        return (prediction["joints"] - torch.stack(target)).square().mean()

    model, x = Named(), torch.randn(4, 3)
    target = [torch.ones(2), None, torch.zeros(2), None]
    labelled = torch.tensor([True, False, True, False])
    found = Distiller(model, None, loss=loss)(Batch(x, None, target, labelled))["regression"]
    expected = loss(model(x[labelled]), [target[0], target[2]])
    torch.testing.assert_close(found, expected)


def test_several_outputs_are_cut_inside(partial):
    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def forward(self, x):
            return [self.net(x), 2 * self.net(x)]

    def loss(prediction, target):
        return sum(regression_loss(one, target) for one in prediction)

    model, chosen = Stacked(), partial.labelled
    found = Distiller(model, None, loss=loss)(partial)["regression"]
    expected = [one[chosen] for one in model(partial.student_input)]
    torch.testing.assert_close(found, loss(expected, partial.target[chosen]))


def test_a_criterion_that_would_not_act_is_one_sentence(partial):
    student, teacher = networks()
    answers = OutputLoss("numbers")
    losses = Distiller(student, teacher, pairs=[("2", "2")], criterion=answers)(partial)
    assert losses.keys() == {"regression", "outputs"}
    assert Distiller(student, None, criterion=answers)(partial).keys() == {"regression"}
    with pytest.raises(InputError, match="attention_weight= beside criterion="):
        Distiller(student, teacher, pairs=[("2", "2")], criterion=answers, attention_weight=1.0)
    with pytest.raises(InputError, match="criterion: expected one of paper, features"):
        Distiller(student, teacher, pairs=[("2", "2")], criterion=OutputLoss)


def test_what_does_not_fit_is_one_sentence(partial):
    student, teacher = networks()
    distiller = Distiller(student, teacher, partial, PAIRS)
    count = len(partial.student_input)
    with pytest.raises(InputError, match=f"labelled: expected {count} of bool, one a sample, got"):
        distiller(partial._replace(labelled=partial.labelled[1:]))
    with pytest.raises(InputError, match="of bool, one a sample, got torch.int64"):
        distiller(partial._replace(labelled=partial.labelled.long()))
    with pytest.raises(InputError, match="the target has .* in its first dimension, the batch"):
        distiller(partial._replace(target=partial.target[partial.labelled]))

    with pytest.raises(InputError, match="labelled= without target="):
        train_with_prior(
            student,
            [(partial.student_input, partial.labelled)],
            fields=Fields(0, None, None, 1),
            fit=FitConfig(quiet=True),
        )

    class TimeFirst(nn.Module):
        def forward(self, x):
            return x.flatten(1).T

    with pytest.raises(InputError, match="the student's output has .* in its first dimension"):
        Distiller(nn.Sequential(nn.Conv2d(3, 3, 1), TimeFirst()).double(), None)(partial)
