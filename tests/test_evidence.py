import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from cmkg import Evidence, InputError


def test_divergence_is_that_of_the_best_prior_in_a_grid():
    net = nn.Linear(3, 2)
    evidence = Evidence(net, nn.Linear(3, 2), samples=10, numbers=2, spread=0.05)
    mean, centre = net.weight.detach().flatten(), evidence._centre["weight"].flatten()
    eye = torch.eye(6)
    q = MultivariateNormal(mean, 0.05**2 * eye)

    def to_prior(variance: float) -> float:
        return float(kl_divergence(q, MultivariateNormal(centre, variance * eye)))

    best = evidence.variance().item()
    assert evidence.divergence().item() == pytest.approx(to_prior(best), rel=1e-4)
    assert all(to_prior(best * factor) > to_prior(best) for factor in (0.9, 1.1))


def test_finds_the_spread_of_a_linear_models_posterior():
    """y = w x + noise of a known size: q's best spread is the posterior's, 1 / sqrt(precision)."""
    torch.manual_seed(0)
    count, noise = 200, 0.5
    x = torch.randn(count, 1)
    y = 2 * x + noise * torch.randn(count, 1)
    net = nn.Linear(1, 1, bias=False)
    evidence = Evidence(net, None, count, numbers=1, emphasised=False, spread=0.5)
    optimizer = torch.optim.Adam([*net.parameters(), *evidence.parameters()], 0.02)
    spreads = []
    for step in range(2500):
        losses = evidence.losses((evidence(x) - y).square().mean())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        if step >= 1500:
            spreads.append(float(evidence.log_spread.detach()))
    expected = noise / math.sqrt(x.square().sum().item())
    assert math.exp(sum(spreads) / len(spreads)) == pytest.approx(expected, rel=0.15)
    assert net.weight.item() == pytest.approx(2.0, abs=0.15)


def test_emphasis_is_weights_over_samples_and_mistakes_are_refused():
    net = nn.Linear(3, 2)
    loss = torch.tensor(1.0)
    plain, emphasised = (
        float(Evidence(net, None, 3, 2, emphasised=one).losses(loss)["divergence"].detach())
        for one in (False, True)
    )
    assert plain == pytest.approx(2 * emphasised, rel=1e-6)
    with pytest.raises(InputError, match="a centre for 'weight'"):
        Evidence(net, {"other": loss}, 3, 2)
    with pytest.raises(InputError, match="positive samples"):
        Evidence(net, None, 0, 2)
