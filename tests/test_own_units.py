import copy

import pytest
import torch
from torch import nn

from cmkg import Prior, in_own_units, in_plain_units
from cmkg.errors import InputError
from cmkg.own_units import unit_of


def folded_network():
    """Channels that differ by orders of magnitude, as after folding batch norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 2))
    scales = torch.logspace(-2, 2, 6)
    with torch.no_grad():
        model[0].weight *= scales.view(-1, 1, 1, 1)
        model[0].bias *= scales
        model[3].weight.view(2, 6, 36).div_(scales.view(1, -1, 1))
    return model.double()


def test_the_function_stays_and_comes_back():
    model = folded_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = model(x)
    in_own_units(model)
    torch.testing.assert_close(model(x), expected)
    assert all(not bool(delta.any()) for delta in model.parameters())
    with torch.no_grad():
        for delta in model.parameters():
            delta += 0.5
    changed = model(x)
    in_plain_units(model)
    torch.testing.assert_close(model(x), changed)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.5 * unit_of(before[name]))


def test_adams_step_is_a_share_of_each_channels_size():
    """By hand: Adam's first step is the rate, times the sign of the gradient, times the unit."""
    model = folded_network()
    start = model[0].weight.detach().clone()
    in_own_units(model, floor=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01, eps=1e-30)
    model(torch.randn(4, 3, 8, 8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    moved = (model[0].weight.detach() - start).abs().amax((1, 2, 3))
    rms = start.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(moved / rms, torch.full((6,), 0.01, dtype=torch.float64))


def test_decay_pulls_to_the_start():
    model = in_own_units(folded_network())
    start = copy.deepcopy(model)
    with torch.no_grad():
        for delta in model.parameters():
            delta += 1.0
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=5.0)
    for _ in range(40):
        for delta in model.parameters():
            delta.grad = torch.zeros_like(delta)
        optimizer.step()
    in_plain_units(model)
    in_plain_units(start)
    for own, other in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_floors_vectors_and_zeros():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    rms, whole = (12.5**0.5), (6.25**0.5)
    torch.testing.assert_close(unit_of(weight, 0.1), torch.tensor([[rms], [0.1 * whole]]))
    torch.testing.assert_close(unit_of(torch.tensor([3.0, 4.0])), torch.full((2,), 12.5**0.5))
    torch.testing.assert_close(unit_of(torch.zeros(2)), torch.ones(2))


def test_tied_and_parametrized_weights_are_refused_and_frozen_ones_stay():
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match="1.weight and 0.weight are one weight; untie"):
        in_own_units(tied)
    with pytest.raises(InputError, match="has a parametrization already"):
        in_own_units(in_own_units(nn.Linear(2, 2)))
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    in_own_units(model)
    assert {name for name, _ in model[0].named_parameters()} == {"weight", "bias"}


def test_a_prior_is_in_these_units_too():
    """By hand: phi times |delta|, whatever size a channel has."""
    model = in_own_units(folded_network())
    prior = Prior.constant(model, 0.5, p=1)
    with torch.no_grad():
        for delta in model.parameters():
            delta.fill_(0.2)
    count = sum(delta.numel() for name, delta in model.named_parameters() if name in prior.phi)
    assert count
    assert prior.penalty(model).item() == pytest.approx(0.5 * 0.2 * count)
