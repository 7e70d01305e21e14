import pytest
import torch
import torch.nn.functional as F

from cmkg.hands.network.posenet import CHANNELS, RESNETS, STEM_CHANNELS
from cmkg.hands.network.resnet import Residual, ResNet

PUBLISHED = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones_without_the_classifier(name):
    depths, block = RESNETS[name]
    with torch.device("meta"):
        net = ResNet(3, STEM_CHANNELS, CHANNELS[block], depths, block)
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED[name]


def test_parameters_have_hugging_faces_names():
    names = ResNet(3, 4, (4, 8, 8, 8), (1, 1, 1, 1)).state_dict()
    assert "embedder.embedder.convolution.weight" in names
    assert "encoder.stages.1.layers.0.layer.1.normalization.running_var" in names
    assert "encoder.stages.1.layers.0.shortcut.convolution.weight" in names
    assert (
        "encoder.stages.0.layers.0.shortcut.convolution.weight" not in names
    )  # no change of shape


@pytest.mark.parametrize(("pooling", "sides"), [(True, [16, 8, 4, 2]), (False, [32, 16, 8, 4])])
def test_each_stage_halves_the_sides(pooling, sides):
    net = ResNet(1, 4, (4, 8, 12, 16), (1, 2, 1, 1), pooling=pooling)
    maps = net(torch.randn(2, 1, 64, 64))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, s, s) for c, s in zip((4, 8, 12, 16), sides, strict=True)
    ]


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_block_is_its_equation(block):
    torch.manual_seed(0)
    residual = Residual(8, 16, 2, block).double().eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    strides = [2, 1] if block == "basic" else [1, 2, 1]  # of a bottleneck, the middle layer
    y = x
    for at, stride in enumerate(strides):
        weight = residual.layer[at].convolution.weight
        y = F.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2)
        y = y / (1 + 1e-5) ** 0.5  # statistics of a new BatchNorm: mean 0, variance 1
        y = y.relu() if at < len(strides) - 1 else y
    shortcut = F.conv2d(x, residual.shortcut.convolution.weight, stride=2) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(residual(x), (y + shortcut).relu())
