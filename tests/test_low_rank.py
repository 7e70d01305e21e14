import pytest
import torch
from torch import nn

from cmkg import InputError, LowRankPrior, train_with_prior


def trajectory(count: int = 6) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    return [{"a": torch.randn(3, 2) * 0.3 + 1, "b": torch.randn(1, 4)} for _ in range(count)]


def dense_precision(along: list[dict[str, torch.Tensor]], rank: int) -> torch.Tensor:
    """The inverse of (diagonal + low rank) / 2, written down."""
    flat = torch.stack([torch.cat([one["a"].flatten(), one["b"].flatten()]) for one in along])
    flat = flat.double()
    off = flat[-rank:] - flat.mean(0)
    whole = flat.var(0, correction=0).diag() / 2 + off.T @ off / (2 * (rank - 1))
    return whole.inverse()


def test_is_the_dense_quadratic_form_scaled_to_a_mean_diagonal_of_one(tmp_path):
    along = trajectory()
    prior = LowRankPrior.from_trajectory(along, rank=4)
    prior.strength = 3.0
    precision = dense_precision(along, 4)
    mean = torch.stack([torch.cat([o["a"].flatten(), o["b"].flatten()]) for o in along]).mean(0)
    weights = {"a": torch.randn(3, 2, requires_grad=True), "b": torch.randn(1, 4)}
    offset = torch.cat([weights["a"].flatten(), weights["b"].flatten()]).double() - mean.double()
    expected = 3 * offset @ precision @ offset / precision.diagonal().mean()
    found = prior(weights)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    (own,) = torch.autograd.grad(found, weights["a"])
    (right,) = torch.autograd.grad(expected, weights["a"])
    assert torch.allclose(own, right.float(), rtol=1e-3)

    prior.save(tmp_path / "p.safetensors")
    again = LowRankPrior.load(tmp_path / "p.safetensors", 3.0)
    assert again(weights).item() == pytest.approx(found.item(), rel=1e-5)


def test_holds_weak_directions_less():
    along = [{"w": torch.tensor([[t, t + 0.01 * (-1.0) ** n]])} for n, t in enumerate(range(8))]
    prior = LowRankPrior.from_trajectory(along, rank=8)
    centre = torch.tensor([[3.5, 3.5]])
    together, apart = (
        prior({"w": centre + torch.tensor([[1.0, one]])}).item() for one in (1.0, -1.0)
    )
    assert apart > 1.4 * together  # SWAG's diagonal keeps half of the variance in every direction


def test_trains_anyones_network_and_refuses_others():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    steps = [{n: t + torch.randn_like(t) for n, t in net.state_dict().items()} for _ in range(3)]
    prior = LowRankPrior.from_trajectory(steps, 3, model=net)
    prior.strength = 1e4
    history = train_with_prior(net, [(torch.randn(8, 3), torch.randn(8, 2))], prior=prior)
    assert history[0]["regulariser"] > 0
    with pytest.raises(InputError, match="another network: '0.weight' is"):
        prior({"0.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="no weight has moved"):
        LowRankPrior.from_trajectory([{"w": torch.ones(2, 2)}] * 3)
    with pytest.raises(InputError, match="got 1 and 20"):
        LowRankPrior.from_trajectory(steps[:1])


def test_what_did_not_move_is_left_out_and_what_is_not_finite_is_refused():
    along = [one | {"buffer": torch.eye(3)} for one in trajectory()]
    assert LowRankPrior.from_trajectory(along).names == ["a", "b"]
    along[2]["a"] = torch.full((3, 2), float("nan"))
    with pytest.raises(InputError, match="'a' holds a number that is not finite"):
        LowRankPrior.from_trajectory(along)


def test_near_its_centre_it_is_exact_under_autocast_too():
    along = trajectory(8)
    prior = LowRankPrior.from_trajectory(along, rank=8)
    mean = {name: torch.stack([one[name] for one in along]).mean(0) for name in along[0]}
    near = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in mean.items()}
    with torch.autocast("cpu", torch.bfloat16):
        halved = prior(near).item()
    assert prior(near).item() == pytest.approx(halved, rel=1e-6)
    assert prior(mean).item() < 1e-9
