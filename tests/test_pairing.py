import copy

import pytest
import torch
from torch import nn

from cmkg.errors import InputError
from cmkg.pairing import layers_of, pair_layers, pairing_table
from tests.conftest import small_net


def mlp(inputs, hidden, outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def test_modules_frozen_in_eval_stay_so():
    net = small_net(dtype=torch.float32)
    net[0][0][1].eval()
    layers_of(net, torch.randn(2, 3, 8, 8))
    assert net.training
    assert not net[0][0][1].training


def test_candidates_have_shapes_and_the_network_stays_as_it_was():
    net, x = small_net(dtype=torch.float32), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(net.state_dict())
    layers = {layer.name: layer for layer in layers_of(net, x)}
    # one name a tensor: the outermost
    assert layers["0.0"].shape == (4, 8, 8)
    assert layers["0"].shape == (5, 4, 4)
    assert "0.3" not in layers
    assert "2" not in layers  # the network's own output
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_in_place_activations_are_found_and_warned_of():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    layers = {layer.name: layer for layer in layers_of(net, torch.randn(2, 3, 9, 9))}
    assert layers["0"].overwritten
    assert not layers["2"].overwritten
    other = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    with pytest.warns(
        UserWarning,
        match=r"layer '0' \(Conv2d\) is overwritten by a later layer that works in place",
    ):
        pair_layers(net, other, torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9))


def test_the_pairing_table_proposes_stages_of_equal_size_and_hidden_layers_of_mlps():
    from cmkg.hands.network.posenet import NetConfig, pose_net

    student, teacher = (
        pose_net(NetConfig("resnet10", 0.125)),
        pose_net(NetConfig("resnet18", 0.25), in_channels=1),
    )
    x, depth = torch.randn(2, 3, 64, 64), torch.randn(2, 1, 64, 64)
    pairs = pair_layers(student, teacher, x, depth)
    assert (
        [a for a, _ in pairs]
        == [f"backbone.encoder.stages.{i}" for i in range(4)]
        == [b for _, b in pairs]
    )
    text = pairing_table(student, teacher, x, depth)
    assert "proposed pairs:" in text
    assert "64 x 2 x 2" in text
    assert pair_layers(mlp(5, 12, 3), mlp(8, 20, 3), torch.randn(2, 5), torch.randn(2, 8)) == [
        ("0", "0"),
        ("1", "1"),
        ("2", "2"),
        ("3", "3"),
    ]
    with pytest.raises(InputError, match="the student, Linear, has no intermediate layer"):
        pair_layers(nn.Linear(3, 2), mlp(8, 4, 3), torch.randn(2, 3), torch.randn(2, 8))
