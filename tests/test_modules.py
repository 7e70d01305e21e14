from contextlib import suppress

import torch
from torch import nn

from cmkg.modules import call_model, preserve_modes, trained_parameters, unwrap


def test_every_submodules_mode_comes_back_whatever_happens_inside():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    net[0].eval()
    with suppress(KeyError), preserve_modes(net):
        net.train()
        raise KeyError
    assert [m.training for m in net.modules()] == [True, False, True]


def test_a_model_is_called_with_one_several_or_named_inputs():
    def minus(a, b=1):
        return a - b

    assert call_model(minus, 5) == 4
    assert call_model(minus, (5, 2)) == 3
    assert call_model(minus, {"b": 5, "a": 2}) == -3


def test_trained_parameters_have_names_and_leave_out_what_is_frozen():
    net, loss = nn.Linear(2, 1), nn.PReLU()
    net.bias.requires_grad_(False)
    found = trained_parameters(net, lambda x: x, loss)
    assert list(found) == ["weight", "2/weight"]
    assert found["weight"] is net.weight


def test_a_compiled_model_has_the_names_of_its_own():
    net = nn.Linear(2, 1)
    compiled = torch.compile(net)
    assert unwrap(compiled) is net
    assert list(trained_parameters(compiled)) == ["weight", "bias"]
