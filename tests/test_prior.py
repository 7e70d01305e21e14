import warnings

import pytest
import torch
from torch import nn

from cmkg.prior import Prior, choose, fingerprint

from .conftest import small_net


def random_prior(net, p=2, centre=None):
    prior = Prior.constant(net, 0.0, p, centre=centre)
    generator = torch.Generator().manual_seed(5)
    for name, t in prior.phi.items():
        prior.phi[name] = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    return prior


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
    held = prior.bind(net)
    for t in held:
        t.grad = torch.zeros_like(t)
    expected = torch.autograd.grad(penalty, held)
    prior.add_to_gradients(held)
    torch.testing.assert_close([t.grad for t in held], list(expected))
    before = [t.detach().clone() for t in held]
    prior.decay_(held, lr=0.01)
    torch.testing.assert_close(
        [t.detach() for t in held], [b - 0.01 * g for b, g in zip(before, expected, strict=False)]
    )


def test_constant_coupled_prior_is_weight_decay():
    ours, theirs = small_net(), small_net()
    x, y = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    prior = Prior.constant(ours, 0.05, 2, which="all")
    prior.phi = {n: t.double() for n, t in prior.phi.items()}
    a, b = (
        torch.optim.Adam(ours.parameters(), 0.01),
        torch.optim.Adam(theirs.parameters(), 0.01, weight_decay=0.1),
    )
    for _ in range(3):
        for net, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            (net(x) - y).square().sum().backward()
            if net is ours:
                prior.add_to_gradients(prior.bind(net))
            optimizer.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_weights_only_by_default():
    net = small_net()
    assert set(choose(net, "weights")) == {n for n, m in net.named_parameters() if m.dim() >= 2}
    assert set(choose(net, "all")) == {n for n, _ in net.named_parameters()}
    with pytest.raises(ValueError, match='"weights" or "all"'):
        choose(net, "some")


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
    from cmkg.meta import closed_form_gradient, inner_step_, weights_lent

    net, x, y = (
        small_net(),
        torch.randn(6, 3, 8, 8, dtype=torch.float64),
        torch.randn(6, 6, dtype=torch.float64),
    )
    start = {n: t.detach().clone() for n, t in net.named_parameters()}
    prior, alpha, beta = Prior.constant(net, 0.0), 1e-4, 0.1
    prior.phi = {n: t.double() for n, t in prior.phi.items()}
    parameters, loss = list(net.parameters()), lambda: (net(x) - y).square().sum(1).mean()
    for _ in range(60):
        gradients = torch.autograd.grad(loss(), parameters)
        with weights_lent(net, parameters):
            slope = inner_step_(prior.bind(net), parameters, gradients, prior, alpha)
            ahead = dict(
                zip(map(id, parameters), torch.autograd.grad(loss(), parameters), strict=False)
            )
        prior.learn_(
            closed_form_gradient(slope, [ahead[id(t)] for t in prior.bind(net)], alpha), beta
        )
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-alpha)
    cheap = Prior.from_checkpoints(start, dict(net.named_parameters()), beta)
    for name, phi in prior.phi.items():
        both = torch.stack([phi.flatten(), cheap.phi[name].double().flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.99


def test_saving_and_loading(tmp_path):
    net = small_net(dtype=torch.float32)
    prior = Prior.constant(
        net, 0.5, 1, centre=dict(net.named_parameters()), alpha=1e-3, loss_units="mm^2"
    )
    prior.save(tmp_path / "a.safetensors", beta=1e-3)
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


def test_a_file_that_is_no_prior_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"not this")
    with pytest.raises(ValueError, match="x.safetensors: expected a prior"):
        Prior.load(tmp_path / "x.safetensors")
