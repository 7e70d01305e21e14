import copy
import json
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cmkg.distillation.features import FeatureTap
from cmkg.distillation.losses import regression_loss
from cmkg.errors import InputError
from cmkg.gradients import gradients_of
from cmkg.prior.meta_gradient import unrolled_gradient
from cmkg.prior.penalty import pull_
from cmkg.prior.prior import Prior, fingerprint, select_parameters
from cmkg.prior.store import FORMAT
from cmkg.training.step import take_step
from tests.conftest import LAYERS, small_net
from tests.meta_reference import ALPHA, distil_step, distiller_of, losses, random_prior


def supervised_step(net, optimizer, batch, prior, coupled=True):
    """One step on L_REG + R."""
    with prior.attach(optimizer, net, coupled):
        take_step(net, optimizer, lambda: {"regression": regression_loss(net(batch[0]), batch[2])})


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("centred", [False, True])
def test_penalty_against_a_loop_and_its_slope_against_autograd(p, centred):
    net = small_net()
    centre = {n: t + 0.3 for n, t in small_net(seed=1).named_parameters()} if centred else None
    prior, named = random_prior(net, p, centre), dict(net.named_parameters())
    naive = 0.0
    for name, phi in prior.phi.items():
        offset = named[name] - (centre[name] if centred else 0)
        naive += sum(
            float(f) * abs(float(o)) ** p
            for f, o in zip(phi.flatten(), offset.detach().flatten(), strict=False)
        )
    penalty = prior.penalty(net)
    assert penalty.item() == pytest.approx(naive)
    held = {name: named[name] for name in prior.phi}
    expected = torch.autograd.grad(penalty, list(held.values()))
    gradients = [torch.zeros_like(t) for t in held.values()]
    pull_(prior, gradients, held, 1.0)
    torch.testing.assert_close(gradients, list(expected))
    before = [t.detach().clone() for t in held.values()]
    pull_(prior, list(held.values()), held, -0.01)
    torch.testing.assert_close(
        [t.detach() for t in held.values()],
        [b - 0.01 * g for b, g in zip(before, expected, strict=True)],
    )
    assert prior.penalty(named).item() == prior.penalty(net).item()  # a mapping does as well


def test_constant_coupled_prior_is_weight_decay():
    ours, theirs = small_net(), small_net()
    x, y = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    prior = Prior.constant(ours, 0.05, 2, select="all")
    prior.phi = {n: t.double() for n, t in prior.phi.items()}
    a, b = (
        torch.optim.Adam(ours.parameters(), 0.01),
        torch.optim.Adam(theirs.parameters(), 0.01, weight_decay=0.1),
    )
    prior.attach(a, ours)
    for _ in range(3):
        for net, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            (net(x) - y).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_weights_only_by_default():
    net = small_net()
    assert set(select_parameters(net, "weights")) == {
        n for n, m in net.named_parameters() if m.dim() >= 2
    }
    assert set(select_parameters(net, "all")) == {n for n, _ in net.named_parameters()}
    assert set(select_parameters(net, lambda name, _: name == "2.bias")) == {"2.bias"}
    net[2].requires_grad_(False)
    assert "2.weight" not in select_parameters(net, "weights")


def test_permutation_keeps_each_layer_and_loses_its_order():
    prior = random_prior(small_net())
    other = prior.permuted(seed=1)
    for name, phi in prior.phi.items():
        assert not torch.equal(phi, other.phi[name])
        torch.testing.assert_close(phi.flatten().sort()[0], other.phi[name].flatten().sort()[0])


def test_scaling_sets_the_root_mean_square():
    prior = random_prior(small_net())
    scaled = prior.scaled(7.0 / prior.rms())
    every = torch.cat([t.flatten() for t in scaled.phi.values()])
    assert float((every**2).mean() ** 0.5) == pytest.approx(7.0)


def test_two_checkpoint_prior_is_what_sgd_learns_to_first_order():
    """With SGD on G and small steps, -beta (theta_K^2 - theta_0^2) is the meta-learned phi
    (method: telescoping sum)."""
    from cmkg.prior.meta_gradient import closed_form_gradient, inner_step_, preserve_weights

    net, x, y = (
        small_net(),
        torch.randn(6, 3, 8, 8, dtype=torch.float64),
        torch.randn(6, 6, dtype=torch.float64),
    )
    start = {n: t.detach().clone() for n, t in net.named_parameters()}
    prior, alpha, beta = Prior.constant(net, 0.0), 1e-4, 0.1
    prior.phi = {n: t.double() for n, t in prior.phi.items()}
    weights, loss = dict(net.named_parameters()), lambda: (net(x) - y).square().sum(1).mean()
    for _ in range(60):
        gradients = gradients_of(loss(), weights)
        with preserve_weights(net, weights.values()):
            slope = inner_step_(weights, gradients, prior, alpha)
            ahead = gradients_of(loss(), weights)
        prior.learn_(closed_form_gradient(slope, ahead, alpha), beta)
        with torch.no_grad():
            torch._foreach_add_(list(weights.values()), list(gradients.values()), alpha=-alpha)
    cheap = Prior.from_checkpoints(start, dict(net.named_parameters()), beta)
    for name, phi in prior.phi.items():
        both = torch.stack([phi.flatten(), cheap.phi[name].double().flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.99


def test_saving_and_loading(tmp_path):
    net = small_net(dtype=torch.float32)
    facts = {"alpha": 1e-3, "loss_units": "mm^2"}
    prior = Prior.constant(net, 0.5, 1, centre=net, facts=facts)
    prior.save(tmp_path / "a.safetensors", {"beta": 1e-3, "p": 2, "format": "mine"})
    again = Prior.load(tmp_path / "a.safetensors")
    assert again.p == 1
    assert again.manifest["alpha"] == 1e-3
    assert again.manifest["beta"] == 1e-3
    assert again.manifest["shapes"]["0.0.0.weight"] == [4, 3, 3, 3]
    assert again.manifest["versions"]["torch"]
    torch.testing.assert_close(again.phi, prior.phi)
    torch.testing.assert_close(again.centre, prior.centre)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_wrong_network_is_refused_by_name_and_another_start_warned_of(tmp_path):
    net = small_net()
    prior = Prior.constant(net)
    with pytest.raises(ValueError, match="another network: it has '0.0.0.weight', Linear has not"):
        prior.bind(nn.Linear(3, 3))
    wider = small_net(channels=4)
    with pytest.raises(
        ValueError, match=r"'0.0.0.weight' is \(4, 3, 3, 3\) in the prior, \(4, 4, 3, 3\)"
    ):
        prior.bind(wider)
    with pytest.warns(UserWarning, match="another initialisation"):
        prior.check_start(small_net(seed=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.check_start(small_net())
    assert fingerprint(net) != fingerprint(small_net(seed=9))


ONE = {"phi/w": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("manifest", "tensors", "message"),
    [
        ({"format": "another", "p": 2}, ONE, "of format .*, the file says 'another'"),
        (["a", "list"], ONE, r"of format .*, the file says \['a', 'list'\]"),
        ({"p": 3}, ONE, "field 'p' of the manifest: expected 1 or 2, found 3"),
        ({}, {"other/w": torch.ones(2)}, "expected finite tensors 'phi/...'"),
        ({}, {}, "expected finite tensors 'phi/...', found none"),
        ({}, {"phi/w": torch.tensor([[float("nan")]])}, "found a number that is not finite"),
    ],
)
def test_a_file_that_is_no_prior_is_named(tmp_path, manifest, tensors, message):
    if isinstance(manifest, dict):
        manifest = {"format": FORMAT, "p": 2} | manifest
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"manifest": json.dumps(manifest)})
    with pytest.raises(InputError, match=f"x.safetensors: .*{message}"):
        Prior.load(path)
    path.write_bytes(b"not this")
    with pytest.raises(InputError, match="x.safetensors: expected a prior"):
        Prior.load(path)


def test_equal_is_what_pulls_equally():
    one = Prior({"w": torch.ones(2, 2)})
    assert one == Prior({"w": torch.ones(2, 2)})
    around = Prior({"w": torch.ones(2, 2)}, centre={"w": torch.zeros(2, 2)})
    assert around == copy.deepcopy(around)
    for other in (around, Prior({"w": torch.ones(2, 2)}, 1), Prior({"v": torch.ones(2, 2)})):
        assert one != other
        assert other != one


def test_floored_at_zero_unless_told_otherwise():
    prior = Prior({"w": torch.tensor([[-2.0, 0.5]])})
    assert prior.floored().phi["w"].tolist() == [[0.0, 0.5]]
    assert prior.floored(-1.0).phi["w"].tolist() == [[-1.0, 0.5]]


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
    expected = unrolled_gradient(student, prior, *losses(tap, teacher, teacher_tap, batch), ALPHA)
    before = {n: t.clone() for n, t in prior.phi.items()}
    still = torch.optim.SGD(student.parameters(), 0.0)
    distil_step(distiller_of(student, teacher), still, batch, [prior], alpha=ALPHA, beta=1.0)
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
        supervised_step(model, torch.optim.Adam(model.parameters(), 1e-2), batch, prior)
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
    around = Prior.constant(net, 0.25, centre=start)
    supervised_step(net, torch.optim.SGD(net.parameters(), 0.1), batch, around)
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
    handle = prior.attach(theirs, b, coupled)
    for _ in range(3):
        supervised_step(a, mine, batch, prior, coupled)
        theirs.zero_grad()
        regression_loss(b(batch[0]), batch[2]).backward()
        theirs.step()
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        torch.testing.assert_close(t, u)
    assert handle.steps == 3
    handle.remove()
    assert not handle.active
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

    supervised_step(a, torch.optim.SGD(a.parameters(), 1e-2), batch, prior)
    optimizer.step(closure)
    for t, u in zip(a.parameters(), b.parameters(), strict=False):
        torch.testing.assert_close(t, u)
    optimizer.step(closure=closure)


def test_growth_is_refused_where_a_step_is_no_factor():
    net = small_net()
    with pytest.raises(InputError, match="has no factor; expected p=2"):
        Prior.constant(net, 0.5, p=1).growth(0.1)
    with pytest.raises(InputError, match="positive learning rate, got 0"):
        Prior.constant(net, 0.5).growth(0)
    for p, lr, steps in ((1, 0.1, 5), (2, -0.1, 5), (2, 0.1, 0)):
        with pytest.raises(InputError, match="limited: expected a prior with p=2"):
            Prior.constant(net, 0.5, p=p).limited(lr, steps)


def test_quantiles_of_a_small_layer_do_not_depend_on_a_large_one():
    small = torch.arange(101.0)
    alone = Prior({"a": small}).quantiles()["a"]
    large = torch.zeros(1_000_003)
    large[1] = 7  # in no sample of the layer
    beside = Prior({"a": small, "b": large}).quantiles()
    assert beside["a"] == alone
    assert beside["a"]["q90"] == pytest.approx(90)
    assert beside["b"]["max"] == 7


def test_growth_is_limited():
    net = small_net()
    prior = Prior.constant(net, -0.5)
    assert prior.growth(0.1)["2.weight"] == pytest.approx(1.1)
    # float32
    assert prior.limited(0.1, 50, factor=2.0).growth(0.1)["2.weight"] ** 50 == pytest.approx(
        2.0, rel=1e-5
    )
    held = prior.limited(0.1, 50, factor=2.0)
    weights = dict(zip(held.phi, held.bind(net), strict=True))
    before = [t.detach().clone() for t in weights.values()]
    for _ in range(50):
        pull_(held, list(weights.values()), weights, -0.1)
    for t, b in zip(weights.values(), before, strict=True):
        torch.testing.assert_close(t.detach(), 2 * b, rtol=1e-4, atol=1e-8)


def test_the_unit_free_update_does_not_depend_on_the_losses_unit(batch):
    learned = []
    for unit in (1.0, 1000.0):
        student, teacher = small_net(), small_net(channels=1, seed=7)
        prior = Prior.constant(student)

        def scaled(p, y, u=unit):
            return u * regression_loss(p, y)

        distiller = distiller_of(
            student, teacher, loss=scaled, criterion=lambda s, t: {"activation": 0 * s[-1].sum()}
        )
        still = torch.optim.SGD(student.parameters(), 0.0)
        distil_step(distiller, still, batch, [prior], alpha=1e-9, beta=0.1, unit_free=True)
        learned.append(prior.phi)
    for n, t in learned[0].items():
        torch.testing.assert_close(t, learned[1][n], rtol=1e-3, atol=1e-4)
        assert t.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("start", [0.0, 70.0])
def test_noise_is_the_variance_of_the_sum_of_the_steps(start):
    torch.manual_seed(0)
    prior = Prior({"w": torch.full((500, 1), start)}).track_noise()
    for _ in range(200):
        prior.learn_({"w": torch.randn(500, 1) * 3}, beta=0.1)
    assert prior.variance["w"].mean().item() == pytest.approx(200 * 0.09, rel=0.05)
    away = (prior.phi["w"] - start).square().mean() / prior.variance["w"].mean()
    assert float(away.sqrt()) == pytest.approx(1, abs=0.15)  # a random walk
    if not start:
        assert prior.signal_to_noise()["w"] == pytest.approx(float(away.sqrt()), rel=0.01)
    prior.learn_({"w": torch.full((500, 1), 1e4)}, beta=0.1)
    steady = Prior({"w": torch.zeros(500, 1)}).track_noise()
    for _ in range(200):
        steady.learn_({"w": torch.randn(500, 1) + 1}, beta=0.1)
    assert steady.signal_to_noise()["w"] == pytest.approx(200**0.5, rel=0.1)
    with pytest.raises(InputError, match="no record of its noise"):
        Prior({"w": torch.zeros(1, 1)}).signal_to_noise()


def test_one_step_tells_no_noise_and_two_the_sample_variance():
    prior = Prior({"w": torch.zeros(3, 1)}).track_noise()
    prior.learn_({"w": torch.tensor([[1.0], [2.0], [3.0]])}, beta=1.0)
    assert prior.variance is None
    prior.learn_({"w": torch.tensor([[3.0], [2.0], [7.0]])}, beta=1.0)
    # Of two steps a, b: (a - b)^2 / 2 a step, two steps.
    torch.testing.assert_close(prior.variance["w"], torch.tensor([[4.0], [0.0], [16.0]]))


def test_a_prior_moves_with_its_centre():
    net = small_net()
    centre = {name: p.detach() for name, p in net.named_parameters()}
    moved = random_prior(net, centre=centre).to("meta")
    assert {t.device.type for t in (*moved.phi.values(), *moved.centre.values())} == {"meta"}
    assert random_prior(net).to("meta").centre is None


def test_growth_is_at_most_twofold_by_default():
    prior = Prior({"w": torch.full((2, 1), -3.0)})
    assert prior.limited(0.1, 7).growth(0.1)["w"] ** 7 == pytest.approx(2.0, rel=1e-5)


def test_a_manifest_tells_the_whole_strength():
    prior = Prior({"w": torch.ones(2, 1)})
    twice = prior.scaled(2.0).scaled(3.0)
    assert twice.manifest["strength"] == 6.0
    assert twice.phi["w"].tolist() == [[6.0], [6.0]]


# ---- whose phi it is, and where it lies ----------------------------------------------------------
def test_phi_of_another_shape_is_refused_though_it_would_broadcast():
    for mine, theirs in (
        (nn.Conv2d(1, 8, 3), nn.Conv2d(3, 8, 3)),  # a depth network's stem on pictures
        (nn.Linear(5, 1), nn.Linear(5, 7)),  # a head of one output on seven classes
    ):
        with pytest.raises(InputError, match="belongs to another network: 'weight' is"):
            Prior.constant(mine, 0.1).bind(theirs)
    tied = Prior.constant(nn.Conv2d(3, 8, 3), 0.1, granularity="filter")
    tied.bind(nn.Conv2d(5, 8, 3))  # a number a filter is a number a filter
    mixed = Prior({"0.weight": torch.ones(4, 1), "1.weight": torch.ones(1, 1)})
    with pytest.raises(InputError, match="the same for every parameter"):
        mixed.bind(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    with pytest.raises(InputError, match="this prior's centre belongs to another network"):
        Prior({"weight": torch.ones(4, 3)}, centre={"weight": torch.ones(4, 1)}).bind(
            nn.Linear(3, 4)
        )


def test_slips_in_a_call_are_errors(unchecked):
    net = nn.Linear(3, 2)
    for call, sentence in (
        (lambda: Prior.constant(net, p=3), "p is 1 or 2, got 3"),
        (lambda: Prior.constant(net, p=True), "p is 1 or 2, got True"),
        (lambda: Prior.constant(net, float("nan")), "expected a finite number, got nan"),
        (lambda: Prior.constant(net, select=["weight"]), r"got \['weight'\]"),
        (lambda: Prior.constant(net, centre=nn.Linear(2, 2)), "centre belongs to another network"),
        (lambda: Prior.constant(net, centre={"bias": net.bias}), "a tensor for 'weight'"),
        (lambda: Prior.constant(net, facts="mine"), "facts: expected a dict, got str"),
        (lambda: Prior.constant(nn.BatchNorm1d(3)), "BatchNorm1d has no trained parameter"),
        (lambda: Prior.constant(net).with_rms(1.0), "zero everywhere"),
        (lambda: Prior.constant(net).scaled(float("inf")), "expected a finite number, got inf"),
        (lambda: Prior([1.0]), "phi: expected a dict, got list"),
        (lambda: Prior({"weight": 1.0}), "phi of 'weight': expected a tensor"),
    ):
        with pytest.raises(InputError, match=sentence):
            call()
    for slip in ("center", "granularty", "which"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{slip}'"):
            Prior.constant(net, 1e-3, **{slip: "filter"})


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    path, net = tmp_path / "a.safetensors", nn.Linear(3, 2)
    broken = Prior.constant(net, 0.1)
    broken.phi["weight"][0, 0] = float("nan")
    for prior, facts, sentence in (
        (broken, None, "a number that is not finite is not saved"),
        (Prior({}), None, "no phi at all"),
        (Prior.constant(net, 0.1), {"centre": net.weight}, "facts are plain JSON"),
    ):
        with pytest.raises(InputError, match=sentence):
            prior.save(path, facts)
    assert not list(tmp_path.iterdir())


def test_the_order_of_names_does_not_matter(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    prior = random_prior(net)
    prior.save(tmp_path / "p.safetensors")
    loaded = Prior.load(tmp_path / "p.safetensors")
    assert list(loaded.phi) != list(prior.phi)  # files are sorted: 10 before 2
    assert loaded == prior
    assert loaded.permuted(0) == prior.permuted(0)
    assert prior.permuted(0) != prior.permuted(1)
    weights = {name: w.detach() for name, w in net.named_parameters()}
    turned = dict(reversed(weights.items()))
    assert fingerprint(turned) == fingerprint(net) == fingerprint(net.state_dict())
    around = Prior(prior.phi, centre=turned)  # biases, too, and in another order
    assert around.penalty(net).item() == 0
    around.save(tmp_path / "c.safetensors")
    assert Prior.load(tmp_path / "c.safetensors").penalty(net).item() == 0


def test_fingerprints_are_those_of_the_weights_alone():
    net = small_net(dtype=torch.float32)
    net(torch.randn(2, 3, 8, 8))  # running statistics have moved
    names = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    assert fingerprint(net) == fingerprint(names) == fingerprint(nn.DataParallel(net))
    assert fingerprint(net) == fingerprint(small_net(dtype=torch.float32))


def test_a_tied_phi_counts_for_the_weights_that_it_stands_for(tmp_path):
    net = nn.Sequential(nn.Linear(1000, 100), nn.Linear(100, 2))
    tied = Prior.constant(net, 1.0, granularity="layer")
    tied.phi["1.weight"].fill_(10.0)
    shapes = dict(net.named_parameters())
    spread = Prior({n: phi.expand_as(shapes[n]).clone() for n, phi in tied.phi.items()})
    assert tied.rms() == pytest.approx(spread.rms())
    assert tied.with_rms(1e-3).penalty(net).item() == pytest.approx(
        spread.with_rms(1e-3).penalty(net).item()
    )
    tied.save(tmp_path / "p.safetensors")
    assert Prior.load(tmp_path / "p.safetensors").rms() == pytest.approx(spread.rms())


def test_a_state_goes_back_into_the_attached_prior():
    net = nn.Linear(3, 2)
    prior, other = Prior.constant(net, 0.1), Prior.constant(net, 0.7, centre=net)
    phi = prior.phi["weight"]
    prior.load_state_dict(other.state_dict())
    assert prior == other
    assert phi is prior.phi["weight"]
    with pytest.raises(InputError, match="of another network or p"):
        prior.load_state_dict(Prior.constant(net, 0.1, p=1).state_dict())
    with pytest.raises(InputError, match="expected 'p'"):
        prior.load_state_dict({})


def test_strength_scales_the_variance_and_centring_keeps_it():
    prior = Prior({"w": torch.ones(2, 1)}, variance={"w": torch.full((2, 1), 3.0)})
    assert prior.scaled(2.0).variance["w"].tolist() == [[12.0], [12.0]]
    assert prior.centred({"w": torch.zeros(2, 1)}).variance["w"].tolist() == [[3.0], [3.0]]
    assert prior.permuted(0).variance is None


def test_checkpoints_are_networks_state_dicts_or_tensors():
    a, b = small_net(seed=0), small_net(seed=1)
    found = Prior.from_checkpoints(a, b.state_dict(), 0.5)
    assert set(found.phi) == {n for n, w in a.named_parameters() if w.dim() >= 2}
    expected = -0.5 * (b[2].weight.float() ** 2 - a[2].weight.float() ** 2)
    torch.testing.assert_close(found.phi["2.weight"], expected.detach())
    with pytest.raises(InputError, match="'0.0.0.weight' is .* expected two of one network"):
        Prior.from_checkpoints(small_net(channels=4), b, 0.5)


def test_a_weight_that_is_used_twice_has_one_phi():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.emb.weight

    a, b = Tied(), Tied()
    for one, other in ((a, b), (a.state_dict(), b.state_dict())):
        found = Prior.from_checkpoints(one, other, 1.0)
        assert list(found.phi) == ["emb.weight"]
        expected = (found.phi["emb.weight"] * b.emb.weight**2).sum().item()
        assert found.penalty(b).item() == pytest.approx(expected)
    Prior({"head.weight": torch.ones(5, 3)}).bind(a)  # either name is its name
    with pytest.raises(InputError, match="'emb.weight' and 'head.weight' are one weight"):
        Prior({"emb.weight": torch.ones(5, 3), "head.weight": torch.ones(5, 3)}).bind(a)


def test_names_are_the_users_own_whatever_they_are_called():
    inside = nn.ModuleDict({"module": nn.Linear(3, 2)})
    Prior.constant(inside, 0.1, centre=inside.state_dict())
    layer = nn.ModuleDict({"base_layer": nn.Linear(3, 2), "other": nn.Linear(2, 2)})
    assert set(Prior.constant(layer, 0.1).phi) == {"base_layer.weight", "other.weight"}


def test_phi_is_a_copy(unchecked):
    net = nn.Linear(3, 2)
    live = Prior(dict(net.named_parameters()))
    with torch.no_grad():
        net.weight += 1
    assert not torch.equal(live.phi["weight"], net.weight)
    prior = Prior.constant(net, 0.1)
    around = prior.centred(net)
    prior.learn_({"weight": torch.ones(2, 3)}, 1.0)
    assert around.rms() == pytest.approx(0.1)
    with pytest.raises(InputError, match="no control"):
        Prior.constant(net, 0.1, granularity="layer").permuted(0)
    with pytest.raises(InputError, match="expected a number from 0"):
        prior.with_rms(-1.0)


def test_its_strength_is_a_root_mean_square_over_all_weights():
    prior = Prior({"a": torch.full((3, 1), 2.0), "b": torch.zeros(1, 1)})
    assert prior.rms() == pytest.approx(3**0.5)
    scaled = prior.with_rms(0.5)
    assert scaled.rms() == pytest.approx(0.5)
    assert scaled.manifest["strength"] == pytest.approx(0.5 / 3**0.5)
    assert prior.layer_mean().manifest["layer_mean"] is True
    with pytest.raises(InputError, match="zero everywhere"):
        Prior({"a": torch.zeros(2, 2)}).with_rms(1.0)


def test_quantiles_are_those_of_each_tensor():
    prior = Prior({"w": torch.arange(101.0).view(1, 101) / 100})
    assert prior.quantiles()["w"] == pytest.approx(
        {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
    )


def test_the_variance_goes_through_a_file_and_scales_with_its_square(tmp_path):
    prior = Prior({"w": torch.ones(2, 1)}, variance={"w": torch.full((2, 1), 4.0)})
    prior.save(tmp_path / "p.safetensors")
    assert Prior.load(tmp_path / "p.safetensors").variance["w"].tolist() == [[4.0], [4.0]]
    assert prior.scaled(3.0).variance["w"].tolist() == [[36.0], [36.0]]


def test_tokens_positions_and_magnitudes_are_no_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.pos_embed = nn.Parameter(torch.zeros(1, 9, 4))
            self.positional_embedding = nn.Parameter(torch.zeros(9, 4))
            self.queries = nn.Parameter(torch.zeros(1, 5, 4))
            self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
            self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
            self.position_embeddings = nn.Embedding(9, 4)
            self.words = nn.Embedding(7, 4)
            self.qkv = nn.Parameter(torch.zeros(4, 12))
            self.narrow = nn.Linear(1, 5)
            self.old = nn.utils.weight_norm(nn.Linear(3, 4))
            self.new = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
            self.attend = nn.MultiheadAttention(4, 2)
            self.lstm = nn.LSTM(3, 4)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old weight norm
        net = Net()
    assert set(select_parameters(net, "weights")) == {
        "qkv",
        "words.weight",
        "narrow.weight",
        "old.weight_v",
        "new.parametrizations.weight.original1",
        "attend.in_proj_weight",
        "attend.out_proj.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    }


def test_two_checkpoints_give_no_phi_to_buffers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)
            self.register_buffer("window", torch.ones(3, 3))
            self.register_buffer("running_cov", torch.eye(3))

    net, later = Net(), Net()
    later.running_cov += 1
    for one, other in ((net, later), (net.state_dict(), later.state_dict())):
        assert list(Prior.from_checkpoints(one, other, 1.0).phi) == ["layer.weight"]
        Prior.from_checkpoints(one, other, 1.0).bind(net)
    with pytest.raises(InputError, match="no weight differs"):
        Prior.from_checkpoints(net.state_dict(), net.state_dict(), 1.0)


def test_a_complex_centre_is_kept_and_equal_priors_are_equal_files(tmp_path):
    centre = {"w": torch.full((2, 2), 1 + 2j)}
    prior = Prior({"w": torch.ones(2, 2)}, centre=centre, manifest={"b": 1, "a": 2})
    files = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        prior.save(path)
        files.add(path.read_bytes())
    assert len(files) == 1
    assert Prior.load(path) == prior


def test_layers_are_weights_whatever_they_are_called():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.position_head = nn.Linear(4, 3)
            self.composition = nn.Linear(4, 4)
            self.pe = nn.Conv2d(3, 4, 2)
            self.pos_enc = nn.Parameter(torch.randn(50, 16))

    net, expected = Net(), ["position_head.weight", "composition.weight", "pe.weight"]
    assert list(select_parameters(net, "weights")) == expected
    later = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    found = Prior.from_checkpoints(net.state_dict(), later, 1.0).phi
    assert sorted(found) == sorted(expected)
