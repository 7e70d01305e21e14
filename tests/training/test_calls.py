import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cmkg.batch import Batch
from cmkg.distillation.losses import DistillationLoss, regression_loss
from cmkg.errors import Diverged, InputError
from cmkg.prior.learner import MetaConfig
from cmkg.prior.prior import Prior
from cmkg.training.calls import Fields, FitConfig, distill, learn_prior, train_with_prior


def mlp(inputs, hidden, outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def classes(n=96, seed=0):
    """Batches as dicts: a teacher's clear view, a student's noisy one, a class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    clear = F.one_hot(y, 3).float() @ torch.randn(3, 8, generator=g) + 0.1 * torch.randn(
        n, 8, generator=g
    )
    noisy = clear[:, :5] + torch.randn(n, 5, generator=g)
    return [
        {"noisy": noisy[i : i + 16], "clear": clear[i : i + 16], "label": y[i : i + 16]}
        for i in range(0, n, 16)
    ]


FIELDS = Fields("noisy", "clear", "label")


def test_classification_with_networks_of_different_widths():
    student, teacher, data = mlp(5, 12, 3), mlp(8, 20, 3, seed=1), classes()
    frozen = copy.deepcopy(teacher.state_dict())
    first, *_, last = distill(
        student,
        teacher,
        data,
        F.cross_entropy,
        fields=FIELDS,
        attention_weight=0.0,
        fit=FitConfig(epochs=15, lr=1e-2),
    ).history
    assert set(first) == {"regression", "activation", "attention"}
    assert last["regression"] < first["regression"]
    assert last["activation"] < first["activation"]
    assert teacher.training  # as it was found
    assert all(torch.equal(frozen[k], v) for k, v in teacher.state_dict().items())
    assert all(t.requires_grad for t in teacher.parameters())


def test_a_prior_for_classification_and_its_use_on_a_target():
    student, teacher, data = mlp(5, 12, 3), mlp(8, 20, 3, seed=1), classes()
    theta_0 = copy.deepcopy(student)
    one, two = learn_prior(
        student,
        teacher,
        data,
        F.cross_entropy,
        fields=FIELDS,
        meta=MetaConfig(exponents=(1, 2), alpha=1e-2, beta=1.0, split=True),
        fit=FitConfig(epochs=3),
    ).priors
    assert one.p == 1
    assert two.p == 2
    assert two.rms() > 0
    assert all(v > 0 for v in two.signal_to_noise().values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = train_with_prior(
            theta_0,
            data,
            F.cross_entropy,
            two.with_rms(1e-3),
            fields=Fields("noisy", None, "label"),
            fit=FitConfig(epochs=4, lr=1e-2),
        )
    assert history[-1]["regression"] < history[0]["regression"]
    with pytest.warns(UserWarning, match="another initialisation"):
        train_with_prior(
            mlp(5, 12, 3, seed=9), data, F.cross_entropy, two, fields=Fields("noisy", None, "label")
        )


def test_a_dense_task_with_maps_of_other_sizes():
    """The student's maps are half as large and have other channels: resized for attention,
    projected for activation."""
    torch.manual_seed(0)
    student = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(5, 1, 1),
    )
    teacher = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 7, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(7, 1, 1),
    )
    data = [
        (torch.randn(4, 3, 16, 16), torch.randn(4, 1, 16, 16), torch.randn(4, 1, 16, 16))
        for _ in range(3)
    ]
    prior = learn_prior(
        student,
        teacher,
        data,
        F.mse_loss,
        pairs=[("1", "1"), ("3", "3")],
        meta=MetaConfig(alpha=1e-2, beta=1.0),
        attention_weight=1.0,
    ).prior
    assert prior.rms() > 0
    loss = DistillationLoss([(4, 8, 8), (5, 4, 4)], [(6, 16, 16), (7, 8, 8)], 1.0)
    found = loss(
        [torch.randn(2, 4, 8, 8), torch.randn(2, 5, 4, 4)],
        [torch.randn(2, 6, 16, 16), torch.randn(2, 7, 8, 8)],
    )
    assert loss.project.weight.shape == (7, 5, 1, 1)
    assert all(v.dim() == 0 and v > 0 for v in found.values())


def test_several_inputs_and_a_field_that_is_not_there():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, a, b):
            return self.head(self.body(torch.cat([a, b], 1)).tanh())

    data = [(torch.randn(8, 2), torch.randn(8, 2), torch.randn(8, 3), torch.randn(8, 2))]
    distill(Two(), mlp(3, 7, 2), data, F.mse_loss, fields=Fields((0, 1), 2, 3))
    with pytest.raises(
        InputError, match=r"a batch has no field 'label'; it has \['noisy'\]: say with Fields"
    ):
        train_with_prior(
            mlp(5, 4, 3), [{"noisy": torch.randn(4, 5)}], fields=Fields("noisy", None, "label")
        )
    with pytest.raises(InputError, match="the source has no batch"):
        distill(mlp(5, 4, 3), mlp(8, 4, 3), [])


def test_sources_alternate():
    student = mlp(5, 12, 3)
    a, b = classes(48, seed=1), classes(32, seed=2)
    prior = learn_prior(
        student,
        [mlp(8, 20, 3, seed=1), mlp(8, 9, 3, seed=2)],
        [a, b],
        F.cross_entropy,
        fields=FIELDS,
        meta=MetaConfig(beta=1.0),
    ).prior
    assert prior.rms() > 0
    assert float(prior.noise["count"]) == 5
    with pytest.raises(InputError, match="as many teachers as sources, got 1 and 2"):
        learn_prior(student, [mlp(8, 20, 3)], [a, b], F.cross_entropy, fields=FIELDS)


@pytest.mark.long
def test_killed_between_epochs_it_goes_on_to_the_same_weights(tmp_path):
    class Shuffled:
        def __iter__(self):
            data = classes()
            return iter([data[i] for i in torch.randperm(len(data))])

        def __len__(self):
            return 6

    def run(epochs, out):
        torch.manual_seed(5)
        student, teacher = mlp(5, 12, 3), mlp(8, 20, 3, seed=1)
        torch.manual_seed(6)
        learned = learn_prior(
            student,
            teacher,
            Shuffled(),
            F.cross_entropy,
            fields=FIELDS,
            meta=MetaConfig(beta=1.0),
            fit=FitConfig(epochs=epochs, out=out),
        )
        return student, learned.prior

    run(2, tmp_path / "killed")
    resumed, unbroken = run(4, tmp_path / "killed"), run(4, tmp_path / "unbroken")
    for a, b in zip(resumed[0].parameters(), unbroken[0].parameters(), strict=False):
        assert torch.equal(a, b)
    with pytest.raises(
        InputError, match="holds a run with alpha = 0.00025, the command asks for 0.5"
    ):
        learn_prior(
            mlp(5, 12, 3),
            mlp(8, 20, 3),
            classes(),
            F.cross_entropy,
            fields=FIELDS,
            meta=MetaConfig(alpha=0.5, beta=1.0),
            fit=FitConfig(out=tmp_path / "killed"),
        )
    for n, t in resumed[1].phi.items():
        assert torch.equal(t, unbroken[1].phi[n])
        assert torch.equal(resumed[1].variance[n], unbroken[1].variance[n])


# ---- other people's networks, losses and data ----------------------------------------------------
def pairs_of_views(batches=4, inputs=3):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g)  # noqa: E731
    return [(draw(8, inputs), draw(8, inputs), draw(8, 1)) for _ in range(batches)]


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


def targets(batches=4):
    return [(x, y) for x, _, y in pairs_of_views(batches)]


def test_batchnorm_that_its_owner_froze_stays_frozen():
    for train in (
        lambda net: train_with_prior(net, targets()),
        lambda net: learn_prior(net, small(1), pairs_of_views()),
    ):
        net = small()
        net[1].eval()
        mean = net[1].running_mean.clone()
        train(net)
        assert not net[1].training
        assert torch.equal(net[1].running_mean, mean)
    net = small().eval()
    net[1].requires_grad_(False)
    train_with_prior(net, targets())
    assert not net.training  # as it was found
    assert torch.equal(net[1].running_mean, torch.zeros(4))
    net = small().eval()
    train_with_prior(net, targets())
    assert not torch.equal(net[1].running_mean, torch.zeros(4))


class Uncertain(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(()))

    def forward(self, prediction, target):
        return F.mse_loss(prediction, target) * (-self.log_var).exp() + self.log_var


def test_a_loss_with_parameters_is_trained_as_in_a_plain_loop():
    def plain():
        net, loss = small(), Uncertain()
        optimizer = torch.optim.Adam([*net.parameters(), *loss.parameters()], 1e-2)
        for x, y in targets():
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()
        return net, loss

    expected_net, expected = plain()
    for make in (
        lambda net, loss: FitConfig(lr=1e-2),
        lambda net, loss: FitConfig(optimizer=lambda p: torch.optim.Adam(p, 1e-2)),
        lambda net, loss: FitConfig(
            optimizer=torch.optim.Adam([*net.parameters(), *loss.parameters()], 1e-2)
        ),
    ):
        net, loss = small(), Uncertain()
        train_with_prior(net, targets(), loss, fit=make(net, loss))
        torch.testing.assert_close(loss.log_var, expected.log_var)
        torch.testing.assert_close(list(net.parameters()), list(expected_net.parameters()))
    net, loss = small(), Uncertain()
    without = FitConfig(optimizer=torch.optim.Adam(net.parameters()))
    with pytest.raises(InputError, match="the first is 'log_var'.*would never be trained"):
        train_with_prior(net, targets(), loss, fit=without)


def test_who_is_trained_is_in_the_optimiser(unchecked):
    net, other = small(), small(1)
    groups = torch.optim.Adam(net.parameters())
    for fit, sentence in (
        (FitConfig(optimizer=torch.optim.Adam(other.parameters())), "holds none of the model's"),
        (FitConfig(optimizer="adam"), "expected an optimiser .* got 'adam'"),
        (FitConfig(optimizer=lambda p: None), "expected an optimiser .* got NoneType"),
        (FitConfig(optimizer=torch.optim.LBFGS), "L-BFGS calls the loss itself"),
    ):
        with pytest.raises(InputError, match=sentence):
            train_with_prior(net, targets(), fit=fit)
    with pytest.raises(InputError, match="lr= beside optimizer="):
        FitConfig(optimizer=groups, lr=0.1)
    wide = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1))  # needs a projection
    narrow = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    alone = FitConfig(optimizer=torch.optim.Adam(narrow.parameters()))
    with pytest.raises(InputError, match="layers' projection are in no optimiser"):
        distill(narrow, wide, pairs_of_views(), fit=alone)
    assert len(alone.optimizer.param_groups) == 1
    distill(narrow, wide, pairs_of_views(), fit=FitConfig(optimizer=torch.optim.Adam))


def test_one_shot_data_are_refused():
    for train in (
        lambda: train_with_prior(small(), (b for b in targets())),
        lambda: distill(small(), small(1), zip(*zip(*pairs_of_views(), strict=True), strict=True)),
        lambda: learn_prior(small(), small(1), map(tuple, pairs_of_views())),
    ):
        with pytest.raises(InputError, match="can be iterated only once"):
            train()
    with pytest.raises(InputError, match="expected at least one in every epoch"):
        train_with_prior(small(), [])


def test_history_is_the_mean_over_samples():
    net = nn.Linear(3, 1)
    x, y = torch.randn(9, 3), torch.randn(9, 1)
    still = FitConfig(optimizer=torch.optim.SGD(net.parameters(), 0.0))
    (line,) = train_with_prior(net, [(x[:8], y[:8]), (x[8:], y[8:])], F.mse_loss, fit=still)
    assert line["regression"] == pytest.approx(F.mse_loss(net(x), y).item(), rel=1e-5)


def test_networks_compute_in_their_own_dtype(unchecked):
    net, teacher = small().double(), small(1).double()
    pairs = [tuple(part.double() for part in pair) for pair in pairs_of_views()]
    learned = learn_prior(net, teacher, pairs)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert learned.prior.rms() > 0
    data = [tuple(part.double() for part in pair) for pair in targets()]
    train_with_prior(small().double(), data, prior=learned.prior)
    with pytest.raises(InputError, match="float16 needs scaled gradients, got '16-mixed'"):
        FitConfig(precision="16-mixed")
    with pytest.raises(InputError, match="for other dtypes give networks and data in them"):
        FitConfig(precision="64-true")


def test_batches_accumulate_into_one_step_and_gradients_are_clipped():
    whole, parts = nn.Linear(3, 1), nn.Linear(3, 1)
    parts.load_state_dict(whole.state_dict())
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    sgd = lambda p: torch.optim.SGD(p, 0.1)  # noqa: E731
    train_with_prior(whole, [(x, y)], F.mse_loss, fit=FitConfig(optimizer=sgd))
    halves = [(x[:4], y[:4]), (x[4:], y[4:])]
    train_with_prior(parts, halves, F.mse_loss, fit=FitConfig(optimizer=sgd, accumulate=2))
    torch.testing.assert_close(list(whole.parameters()), list(parts.parameters()))
    before = torch.cat([p.detach().flatten() for p in whole.parameters()])
    train_with_prior(whole, [(x, y)], F.mse_loss, fit=FitConfig(optimizer=sgd, clip=1e-3))
    after = torch.cat([p.detach().flatten() for p in whole.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-4, rel=1e-3)


def test_a_schedule_validation_and_a_callback_that_stops():
    net, seen = nn.Linear(3, 1), []
    fit = FitConfig(
        epochs=9,
        schedule=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        optimizer=torch.optim.SGD(net.parameters(), 1e-3),
        validate=lambda model: {"is_training": float(model.training)},
        callback=lambda epoch, line: seen.append((epoch, line["is_training"])) or epoch == 2,
        quiet=True,
    )
    history = train_with_prior(net, targets(2), fit=fit)
    assert seen == [(0, 0.0), (1, 0.0), (2, 0.0)]
    assert len(history) == 3
    assert fit.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**6)


def test_the_control_without_a_teacher():
    learned = learn_prior(small(), None, pairs_of_views())
    assert learned.prior.rms() > 0
    assert set(learned.history[0]) == {"regression", "outer_0"}


def test_a_resumed_call_has_the_same_inputs(tmp_path, unchecked):
    def go_on(teacher=1, data=None, loss=F.mse_loss, pairs="auto", **fit):
        return distill(
            small(),
            small(teacher),
            data or pairs_of_views(),
            loss,
            pairs=pairs,
            fit=FitConfig(out=tmp_path / "d", **fit),
        ).history

    go_on()
    zeros = [tuple(torch.zeros_like(t) for t in batch) for batch in pairs_of_views()]
    for changed, name in (
        ({"teacher": 9}, "teachers"),
        ({"pairs": [("2", "2")]}, "pairs"),
        ({"data": zeros}, "data"),
        ({"loss": F.l1_loss}, "loss"),
        ({"loss": lambda p, y: (p - y).abs().sum()}, "loss"),
        ({"optimizer": lambda p: torch.optim.SGD(p, 1.0)}, "optimizer"),
        ({"loss": nn.HuberLoss(delta=3.0)}, "loss"),
        ({"data": [*pairs_of_views()[:3], zeros[0]]}, "data"),
        ({"precision": "bf16-mixed"}, "precision"),
        ({"lr": 0.5}, "groups"),
    ):
        with pytest.raises(InputError, match=f"holds a run with ({name})"):
            go_on(epochs=2, **changed)
    assert len(go_on(epochs=2)) == 2
    prior = Prior.constant(small(), 1e-3)
    other = Prior({n: -phi for n, phi in prior.phi.items()})  # of equal size
    train_with_prior(small(), targets(), prior=prior, fit=FitConfig(out=tmp_path / "t"))
    with pytest.raises(InputError, match="holds a run with (phi|prior)"):
        train_with_prior(small(), targets(), prior=other, fit=FitConfig(out=tmp_path / "t"))


def test_slips_in_the_calls_are_one_sentence(unchecked):
    prior, data = Prior.constant(small(), 1e-3), targets()
    for call, sentence in (
        (
            lambda: train_with_prior(small(), data, prior),
            "loss: expected a function of .* got Prior",
        ),
        (lambda: train_with_prior(small(), data, prior=[prior]), "expected a Prior, got list"),
        (lambda: train_with_prior(small(), data, prior="p.safetensors"), "Prior.load"),
        (lambda: train_with_prior(small(), data, fields=("x", "y")), "expected Fields"),
        (lambda: train_with_prior("net", data), "the model: expected a network, got str"),
        (lambda: train_with_prior(small(), data, fit=3), "fit: expected FitConfig"),
        (lambda: learn_prior(small(), small(1), data, meta=2), "meta: expected MetaConfig"),
        (lambda: distill(small(), "t", data), "the teacher: expected a network"),
        (lambda: FitConfig(epochs=0), "epochs"),
        (lambda: train_with_prior(small(), data, lambda p, y: 1.0), "got float"),
        (lambda: train_with_prior(small(), data, nn.MSELoss), "give MSELoss"),
        (
            lambda: train_with_prior(nn.Linear(3, 2), [(torch.ones(2, 3), torch.ones(2, 3))]),
            "prediction has shape",
        ),
        (
            lambda: train_with_prior(nn.Linear(3, 2), [(torch.ones(0, 3), torch.ones(0, 2))]),
            "a batch has no sample",
        ),
    ):
        with pytest.raises(InputError, match=sentence):
            call()


def test_a_gradient_that_is_not_finite_is_named_and_nothing_moves():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, 2))

        def forward(self, x):
            return (x @ self.w).square().sum(1, keepdim=True).sqrt()

    net = Root()
    with pytest.raises(Diverged, match="the gradient of 'w' is not finite"):
        train_with_prior(net, [(torch.zeros(2, 2), torch.zeros(2, 1))])
    assert torch.equal(net.w, torch.zeros(2, 2))
    net = small()
    with pytest.raises(Diverged, match="the regression loss is nan"):
        train_with_prior(net, [(torch.full((4, 3), float("nan")), torch.zeros(4, 1))])
    assert torch.isfinite(net[1].running_mean).all()


def test_leftover_batches_count_as_many_as_they_are_and_earlier_gradients_not_at_all():
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    sgd = lambda p: torch.optim.SGD(p, 0.1)  # noqa: E731
    net, plain = nn.Linear(3, 1), nn.Linear(3, 1)
    plain.load_state_dict(net.state_dict())
    (100 * net(x)).sum().backward()  # somebody's, before the call
    batches = [(x[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)]
    train_with_prior(net, batches, F.mse_loss, fit=FitConfig(optimizer=sgd, accumulate=2))
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    for rows in (slice(0, 4), slice(4, 6)):
        optimizer.zero_grad()
        F.mse_loss(plain(x[rows]), y[rows]).backward()
        optimizer.step()
    torch.testing.assert_close(list(net.parameters()), list(plain.parameters()))


def test_unlabelled_batches_are_distilled_and_their_loss_is_not_counted():
    (x, depth, y), *_ = pairs_of_views(1)
    still = FitConfig(optimizer=lambda p: torch.optim.SGD(p, 1e-12))
    both = [(x, depth, y), (x, depth, None)]
    learned = learn_prior(small(), small(1), both, F.mse_loss, fit=still)
    alone = learn_prior(small(), small(1), both[:1], F.mse_loss, fit=still)
    found, expected = (one.history[0]["regression"] for one in (learned, alone))
    assert found == pytest.approx(expected, rel=1e-4)


def test_one_tensor_is_no_batch_of_parts():
    for data in (torch.utils.data.DataLoader(torch.randn(8, 4), 8), [torch.randn(8, 4)]):
        with pytest.raises(InputError, match="its rows are no fields"):
            train_with_prior(nn.Linear(4, 4), data, F.mse_loss)
    with pytest.raises(InputError, match="got one dict: expected an iterable of batches"):
        train_with_prior(nn.Linear(4, 4), {"x": torch.randn(8, 4)}, F.mse_loss)


def test_a_module_as_r_is_added_to_the_loss_and_stays_as_it_is():
    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.strength = nn.Parameter(torch.tensor(0.3))

        def forward(self, weights):
            return self.strength * sum(weight.square().sum() for weight in weights.values())

    whole, parts = nn.Linear(3, 1), nn.Linear(3, 1)
    parts.load_state_dict(whole.state_dict())
    x, y, R = torch.randn(8, 3), torch.randn(8, 1), Quadratic()
    (line,) = train_with_prior(
        whole, [(x, y)], F.mse_loss, R, fit=FitConfig(optimizer=partial(torch.optim.SGD, lr=0.1))
    )
    sgd = torch.optim.SGD(parts.parameters(), 0.1)
    penalty = 0.3 * sum(weight.square().sum() for weight in parts.parameters())
    (F.mse_loss(parts(x), y) + penalty).backward()
    sgd.step()
    torch.testing.assert_close(list(whole.parameters()), list(parts.parameters()))
    assert line["regulariser"] == pytest.approx(float(penalty.detach()))
    assert R.strength.grad is None
    with pytest.raises(InputError, match="coupled=False is for a Prior"):
        train_with_prior(whole, [(x, y)], F.mse_loss, R, coupled=False)


def test_a_network_inside_a_loss_that_nobody_trains_is_said():
    scale, x, y = nn.Linear(1, 1), torch.randn(8, 3), torch.randn(8, 1)

    def through(p, t):
        return F.mse_loss(scale(p), t)

    with pytest.warns(UserWarning, match="the loss holds a Linear whose 'weight' nobody trains"):
        train_with_prior(nn.Linear(3, 1), [(x, y)], through)
    scale.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_with_prior(nn.Linear(3, 1), [(x, y)], through)


@pytest.mark.parametrize("labels", [range(16), (*range(8), 9), range(8), (3,)])
@pytest.mark.parametrize("with_teacher", [False, True])
def test_accumulated_batches_are_one_batch(labels, with_teacher):
    torch.manual_seed(0)
    x, depth, y = torch.randn(16, 3), torch.randn(16, 2), torch.randn(16, 1)
    has_label = torch.zeros(16, dtype=torch.bool)
    has_label[list(labels)] = True
    found = []
    for parts in ([slice(0, 16)], [slice(0, 8), slice(8, 13), slice(13, 16)]):
        net, teacher = mlp(3, 4, 1), mlp(2, 4, 1)
        data = [tuple(t[rows] for t in (x, depth, y, has_label)) for rows in parts]
        fit = FitConfig(optimizer=sgd, accumulate=len(parts), quiet=True)
        if with_teacher:
            distill(net, teacher, data, pairs=[("1", "1")], fields=Fields(labelled=3), fit=fit)
        else:
            train_with_prior(net, data, fields=Fields(0, None, 2, labelled=3), fit=fit)
        found.append(net.state_dict())
    torch.testing.assert_close(*found)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.01)


class Drawn(torch.utils.data.Dataset):
    """Draws from global streams, as augmentations do. (The type checker of these tests draws from
    Python's.)"""

    def __len__(self):
        return 8

    def __getitem__(self, number):
        noise = torch.rand(3) + np.random.rand()  # noqa: NPY002
        return number + noise.float(), torch.ones(1)


@pytest.mark.parametrize("has_own", [False, True])
def test_a_resumed_call_draws_what_the_unbroken_one_would(tmp_path, has_own):
    def trained(out, stops):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        net = nn.Linear(3, 1)
        own = torch.Generator().manual_seed(1) if has_own else None
        data = DataLoader(Drawn(), 4, shuffle=True, generator=own)

        def stop(epoch, _line):
            if stops and epoch == 1:
                raise KeyboardInterrupt

        fit = FitConfig(epochs=4, lr=0.1, out=tmp_path / out, quiet=True, callback=stop)
        try:
            train_with_prior(net, data, fit=fit)
        except KeyboardInterrupt:
            return trained(out, False)
        return net.weight.detach()

    assert torch.equal(trained("whole", False), trained("broken", True))


def test_workers_that_outlive_an_epoch_are_refused_where_a_call_is_to_be_resumed(tmp_path):
    data = DataLoader(Drawn(), 4, num_workers=1, persistent_workers=True)
    with pytest.raises(InputError, match="leave persistent_workers off"):
        train_with_prior(nn.Linear(3, 1), data, fit=FitConfig(out=tmp_path / "run"))


def test_a_batch_without_targets_has_no_labels_in_an_accumulated_step():
    torch.manual_seed(0)
    x, y, student, teacher = torch.randn(8, 3), torch.randn(4, 2), nn.Linear(3, 2), nn.Linear(3, 2)
    before = student.weight.detach().clone()
    copied = copy.deepcopy(student)
    data = [Batch(x[:4], x[:4], y), Batch(x[4:], x[4:], None)]
    fit = FitConfig(accumulate=2, quiet=True, optimizer=sgd)
    distill(student, teacher, data, criterion="numbers", fit=fit)
    loss = regression_loss(copied(x[:4]), y) + regression_loss(copied(x), teacher(x).detach())
    loss.backward()
    torch.testing.assert_close(student.weight, before - 0.01 * copied.weight.grad)


class OwnStream(Drawn):
    def __init__(self):
        self.stream = np.random.default_rng(0)


def test_streams_that_are_not_kept_are_refused_where_a_call_is_to_be_resumed(tmp_path):
    data = DataLoader(OwnStream(), 4)
    with pytest.raises(InputError, match=r"OwnStream with a random stream of its own \(stream\)"):
        train_with_prior(nn.Linear(3, 1), data, fit=FitConfig(out=tmp_path / "run"))
