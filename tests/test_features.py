import pytest
import torch

from cmkg.features import FeatureTap
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
    with pytest.raises(RuntimeError, match="run the network first"):
        FeatureTap(small_net(), ["0.0"]).maps  # noqa: B018
