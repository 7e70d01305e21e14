import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cmkg.distillation.features import FeatureTap
from cmkg.errors import InputError
from tests.conftest import LAYERS, small_net


def test_the_maps_are_those_of_the_pass_in_the_order_asked_for():
    net, x = small_net(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    tap = FeatureTap(net, LAYERS[::-1])
    net(x)
    expected, at = [], x
    for layer in net[0]:
        at = layer(at)
        expected.append(at)
    torch.testing.assert_close(tap.maps, [expected[3], expected[1], expected[0]])
    assert tap.maps[0].requires_grad


def test_an_unknown_layer_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"no submodule 'layer9'; it has: 0, 0.0"):
        FeatureTap(small_net(), ["layer9"])


def test_maps_before_a_pass_are_an_error():
    with pytest.raises(InputError, match="run the whole network first"):
        FeatureTap(small_net(), ["0.0"]).maps  # noqa: B018


def test_a_copys_pass_leaves_the_maps_alone_and_the_network_can_be_pickled():
    net, x = small_net(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    tap = FeatureTap(net, ["0.1"])
    net(x)
    (mine,) = tap.maps
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with torch.no_grad():
            other(2 * x)
        assert tap.maps[0] is mine
    tap.close()
    net(x)
    with pytest.raises(InputError, match="no output of '0.1'"):
        tap.maps  # noqa: B018


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x, skip=False):
        return self.a(x) if skip else self.b(self.a(x))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 2)

    def forward(self, a, b):
        return self.encoder(a) - self.encoder(b)


def test_a_layer_that_did_not_run_this_time_has_no_map_of_an_earlier_pass():
    net = Branches()
    tap = FeatureTap(net, ["a", "b"])
    net(torch.zeros(2, 3))
    assert [len(m) for m in tap.maps] == [2, 2]
    net(torch.ones(5, 3), skip=True)
    with pytest.raises(InputError, match="no output of 'b' in the last forward pass"):
        tap.maps  # noqa: B018


def test_several_calls_of_one_layer_are_kept_apart():
    net = Twice()
    tap = FeatureTap(net, ["encoder"])
    net(torch.ones(2, 3), torch.zeros(2, 3))
    first, second = tap.calls["encoder"]
    torch.testing.assert_close(first - second, net.encoder(torch.ones(2, 3)) - net.encoder.bias)
    with pytest.raises(InputError, match="'encoder' ran 2 times"):
        tap.maps  # noqa: B018


def test_an_output_that_holds_several_tensors_needs_its_number():
    net = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    x = torch.randn(2, 5, 3)
    tap = FeatureTap(net, ["0"])
    output, _ = net(x)
    assert tap.maps[0] is output  # the state is a tuple of its own
    tap = FeatureTap(net, ["0"], ["state"])
    net(x)
    with pytest.raises(InputError, match="'0' has no output 'state'"):
        tap.maps  # noqa: B018
    gru = nn.Sequential(nn.GRU(3, 4, batch_first=True))
    tap = FeatureTap(gru, ["0"])
    gru(x)
    with pytest.raises(InputError, match="'0' gives a tuple of Tensor, Tensor, not one tensor"):
        tap.maps  # noqa: B018
    tap = FeatureTap(gru, ["0"], [0])
    assert gru(x)[0] is tap.maps[0]


def test_what_gradient_checkpointing_runs_again_is_not_another_pass():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    net = Checkpointed()
    tap = FeatureTap(net, ["inner"])
    output = net(torch.ones(2, 3))
    (mine,) = tap.maps
    (output + mine).sum().backward()
    assert tap.maps[0] is mine
    torch.testing.assert_close(net.inner.weight.grad, torch.full((3, 3), 4.0))


COMPILED = """
import torch
from torch import nn
from cmkg.distillation.features import FeatureTap
for through in ("the network", "the compiled one"):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    compiled = torch.compile(net, backend="eager")
    one, two = torch.ones(2, 3), torch.zeros(2, 3)
    compiled(one)
    tap = FeatureTap(net if through == "the network" else compiled, ["0"])
    net(one)
    compiled(two)
    torch.testing.assert_close(tap.maps[0], net[0](two))
    assert tap.maps[0].requires_grad
print("right")
"""


@pytest.mark.long
def test_a_network_that_was_compiled_and_run_before_is_tapped():
    """In a process of its own: what torch.compile leaves stays out of the other tests."""
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "right", done.stderr
