"""Families of priors: tied phi, Fisher, merges, transfer; around any optimiser; learned free of
units."""

import copy

import pytest
import torch
from torch import nn

from cmkg.errors import InputError
from cmkg.families import fisher, merged, transferred
from cmkg.features import FeatureTap
from cmkg.losses import regression_loss
from cmkg.meta import unrolled_gradient
from cmkg.prior import Prior
from cmkg.steps import meta_step, supervised_step

from .conftest import LAYERS, small_net

ALPHA = 0.003


@pytest.mark.parametrize(
    ("granularity", "shape"), [("filter", (4, 1, 1, 1)), ("layer", (1, 1, 1, 1))]
)
@pytest.mark.parametrize("p", [1, 2])
def test_a_tied_prior_has_the_unrolled_gradient(batch, granularity, shape, p):
    student, teacher = small_net(), small_net(channels=1, seed=7)
    tap, teacher_tap = FeatureTap(student, LAYERS), FeatureTap(teacher, LAYERS)
    prior = Prior.constant(student, 0.1, p, granularity=granularity)
    prior.phi = {n: t.double() for n, t in prior.phi.items()}
    assert prior.phi["0.0.0.weight"].shape == shape
    x, x_superior, y = batch
    teacher.eval()(x_superior)
    maps = [m.detach() for m in teacher_tap.maps]

    def unit(q):
        return nn.functional.normalize(q.square().sum(1).flatten(1), dim=1)

    def G(net):
        regression = regression_loss(net(x), y)
        activation = (tap.maps[-1] - maps[-1]).square().flatten(1).sum(1).mean()
        return (
            regression
            + activation
            + sum(
                (unit(s) - unit(t)).square().sum(1).mean()
                for s, t in zip(tap.maps, maps, strict=False)
            )
        )

    expected = unrolled_gradient(student, prior, lambda net: regression_loss(net(x), y), G, ALPHA)
    before = {n: t.clone() for n, t in prior.phi.items()}
    meta_step(
        student,
        tap,
        teacher,
        teacher_tap,
        torch.optim.SGD(student.parameters(), 0.0),
        [prior],
        *batch,
        alpha=ALPHA,
        beta=1.0,
        attention_weight=1.0,
    )
    for n, t in prior.phi.items():
        torch.testing.assert_close(before[n] - t, expected[n], rtol=1e-10, atol=1e-14)


def test_a_tied_prior_is_the_spread_out_one_and_goes_through_a_file(batch, tmp_path):
    net = small_net()
    tied = Prior.constant(net, 0.3, granularity="filter")
    tied.phi = {n: torch.rand_like(t) for n, t in tied.phi.items()}
    shapes = {n: t.shape for n, t in net.named_parameters()}
    full = Prior({n: t.expand(shapes[n]).clone() for n, t in tied.phi.items()})
    assert tied.penalty(net).item() == pytest.approx(full.penalty(net).item())
    a, b = copy.deepcopy(net), copy.deepcopy(net)
    for model, prior in ((a, tied), (b, full)):
        supervised_step(
            model, torch.optim.Adam(model.parameters(), 1e-2), batch[0], batch[2], prior=prior
        )
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        torch.testing.assert_close(t, u)
    tied.save(tmp_path / "p.safetensors")
    again = Prior.load(tmp_path / "p.safetensors")
    assert again.manifest["granularity"] == "filter"
    assert again.penalty(net).item() == pytest.approx(tied.penalty(net).item())
    with pytest.raises(InputError, match="granularity is one of weight, filter, layer, got 'row'"):
        Prior.constant(net, granularity="row")


def test_constant_phi_around_weights_is_l2_sp(batch):
    """L2-SP (Li et al., 2018): alpha / 2 |w - w0|^2, written out."""
    net = small_net()
    start = {n: t.detach().clone() for n, t in net.named_parameters()}
    with torch.no_grad():
        for t in net.parameters():
            t.add_(0.01 * torch.randn_like(t))
    other = copy.deepcopy(net)
    supervised_step(
        net,
        torch.optim.SGD(net.parameters(), 0.1),
        batch[0],
        batch[2],
        prior=Prior.constant(net, 0.25, centre=start),
    )
    loss = regression_loss(other(batch[0]), batch[2])
    loss = loss + 0.5 / 2 * sum(
        (t - start[n]).square().sum() for n, t in other.named_parameters() if t.dim() >= 2
    )
    loss.backward()
    torch.optim.SGD(other.parameters(), 0.1).step()
    for t, u in zip(net.parameters(), other.parameters(), strict=False):
        torch.testing.assert_close(t, u)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize(
    "make", [lambda t: torch.optim.AdamW(t, 1e-2), lambda t: torch.optim.SGD(t, 1e-2, momentum=0.9)]
)
def test_attached_to_any_optimiser_it_is_the_step(batch, coupled, make):
    a, b = small_net(), small_net()
    prior = Prior.constant(a, 0.2)
    mine, theirs = make(a.parameters()), make(b.parameters())
    detach = prior.attach(theirs, b, coupled)
    for _ in range(3):
        supervised_step(a, mine, batch[0], batch[2], prior=prior, coupled=coupled)
        theirs.zero_grad()
        regression_loss(b(batch[0]), batch[2]).backward()
        theirs.step()
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        torch.testing.assert_close(t, u)
    detach()
    before = [t.detach().clone() for t in b.parameters()]
    theirs.param_groups[0]["lr"] = 0.0
    theirs.step()
    torch.testing.assert_close(list(b.parameters()), before)


def test_attached_with_a_closure_it_is_not_lost(batch):
    """As Lightning calls an optimiser."""
    a, b = small_net(), small_net()
    prior = Prior.constant(a, 0.5)
    optimizer = torch.optim.SGD(b.parameters(), 1e-2)
    prior.attach(optimizer, b)

    def closure():
        optimizer.zero_grad()
        loss = regression_loss(b(batch[0]), batch[2])
        loss.backward()
        return loss

    supervised_step(a, torch.optim.SGD(a.parameters(), 1e-2), batch[0], batch[2], prior=prior)
    optimizer.step(closure)
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        torch.testing.assert_close(t, u)
    optimizer.step(closure=closure)


def test_growth_is_limited():
    net = small_net()
    prior = Prior.constant(net, -0.5)
    assert prior.growth(0.1)["2.weight"] == pytest.approx(1.1)
    # float32
    assert prior.limited(0.1, 50, factor=2.0).growth(0.1)["2.weight"] ** 50 == pytest.approx(
        2.0, rel=1e-5
    )
    held = prior.limited(0.1, 50, factor=2.0)
    weights = held.bind(net)
    before = [t.detach().clone() for t in weights]
    for _ in range(50):
        held.decay_(weights, 0.1)
    for t, b in zip(weights, before, strict=False):
        torch.testing.assert_close(t.detach(), 2 * b, rtol=1e-4, atol=1e-8)


def test_the_unit_free_update_does_not_depend_on_the_losses_unit(batch):
    learned = []
    for unit in (1.0, 1000.0):
        student, teacher = small_net(), small_net(channels=1, seed=7)
        prior = Prior.constant(student)

        def scaled(p, y, u=unit):
            return u * regression_loss(p, y)

        meta_step(
            student,
            FeatureTap(student, LAYERS),
            teacher,
            FeatureTap(teacher, LAYERS),
            torch.optim.SGD(student.parameters(), 0.0),
            [prior],
            *batch,
            alpha=1e-9,
            beta=0.1,
            loss=scaled,
            distillation=lambda s, t: {"activation": 0 * s[-1].sum()},
            unit_free=True,
        )
        learned.append(prior.phi)
    for n, t in learned[0].items():
        torch.testing.assert_close(t, learned[1][n], rtol=1e-3, atol=1e-4)
        assert t.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-3)


def test_the_fisher_information_is_a_loop_over_samples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(12, 4), torch.randint(0, 3, (12,))
    prior = fisher(net, [(x[:5], y[:5]), (x[5:], y[5:])], nn.functional.cross_entropy)
    net.eval()
    for name, t in net.named_parameters():
        if t.dim() < 2:
            continue
        naive = (
            sum(
                torch.autograd.grad(
                    nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]), t
                )[0]
                ** 2
                for i in range(12)
            )
            / 24
        )
        torch.testing.assert_close(prior.phi[name], naive)
    assert prior.penalty(net).item() == 0  # centred at the weights
    with pytest.raises(InputError, match="needs samples"):
        fisher(net, [], nn.functional.cross_entropy)


def test_merges():
    def phi(*values):
        return {"w": torch.tensor([values])}

    a, b, c = Prior(phi(1.0, 2.0, -1.0)), Prior(phi(3.0, -1.0, -3.0)), Prior(phi(2.0, 5.0, 8.0))
    torch.testing.assert_close(merged([a, b, c]).phi["w"], torch.tensor([[2.0, 2.0, 4 / 3]]))
    torch.testing.assert_close(merged([a, b, c], "sign").phi["w"], torch.tensor([[2.0, 3.5, 8.0]]))
    a, b = (
        Prior(phi(1.0, 2.0), variance=phi(1.0, 4.0)),
        Prior(phi(3.0, -2.0), variance=phi(3.0, 4.0)),
    )
    torch.testing.assert_close(merged([a, b], "precision").phi["w"], torch.tensor([[1.5, 0.0]]))
    with pytest.raises(InputError, match="differ at 'w'"):
        merged([a, Prior({"w": torch.zeros(2, 2)})])
    with pytest.raises(InputError, match="centred at different weights"):
        merged([a, Prior(phi(1.0, 1.0), centre=phi(0.0, 0.0))])
    with pytest.raises(InputError, match="p = 2 and p = 1"):
        merged([a, Prior(phi(1.0, 1.0), 1)])
    with pytest.raises(InputError, match="different initialisations"):
        merged([a, Prior(phi(1.0, 1.0), manifest={"fingerprint": "other"})])
    with pytest.raises(InputError, match="needs each prior's variance"):
        merged([a, Prior(phi(1.0, 1.0))], "precision")


def test_noise_is_the_variance_of_the_sum_of_the_steps():
    torch.manual_seed(0)
    prior = Prior({"w": torch.zeros(500, 1)}).track_noise()
    for _ in range(200):
        prior.learn_([torch.randn(500, 1) * 3], beta=0.1)
    assert prior.variance["w"].mean().item() == pytest.approx(200 * 0.09, rel=0.05)
    assert prior.signal_to_noise()["w"] == pytest.approx(1, abs=0.15)  # a random walk
    prior.learn_([torch.full((500, 1), 1e4)], beta=0.1)
    steady = Prior({"w": torch.zeros(500, 1)}).track_noise()
    for _ in range(200):
        steady.learn_([torch.randn(500, 1) + 1], beta=0.1)
    assert steady.signal_to_noise()["w"] == pytest.approx(200**0.5, rel=0.1)
    with pytest.raises(InputError, match="no record of its noise"):
        Prior({"w": torch.zeros(1, 1)}).signal_to_noise()


def test_transfer_by_a_map_of_names_reports_and_refuses():
    net = small_net()
    prior = Prior.constant(net, 0.5)
    wide = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(80, 7))
    with pytest.raises(
        InputError,
        match=r"covers 0% of ModuleDict's weights, expected at least 90% .*the prior has no "
        r"such parameter",
    ):
        transferred(prior, nn.ModuleDict({"a": nn.Linear(2, 2)}))
    moved, report = transferred(
        prior, wide, {"0.weight": "0.0.0.weight", "1.weight": "2.weight"}, coverage=0.1
    )
    assert report["matched"] == ["0.weight"]
    assert "shape (6, 80), expected (7, 80)" in report["unmatched"]["1.weight"]
    assert report["coverage"] == pytest.approx(108 / (108 + 560))
    assert moved.bind(wide)
    same, report = transferred(prior, small_net(seed=3), lambda n: n)
    assert report["coverage"] == 1
    assert set(same.phi) == set(prior.phi)
