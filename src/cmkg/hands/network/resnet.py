"""ResNet (He et al., CVPR 2016) as a backbone: the feature maps of its four stages.

Parameters are named as in Hugging Face's ResNets, so their weights load with `load_state_dict`.
The second layer of a bottleneck carries the stride (ResNet "v1.5").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Block = Literal["basic", "bottleneck"]
BOTTLENECK_REDUCTION = 4


class ConvLayer(nn.Module):
    """Convolution without bias, batch normalization, and an optional ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.normalization = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        """Applies the layer."""
        return self.activation(self.normalization(self.convolution(x)))


class Residual(nn.Module):
    """A residual block; its shortcut is a 1 x 1 layer if shapes differ."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, block: Block = "basic"
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.shortcut = ConvLayer(in_channels, out_channels, 1, stride, relu=False)
        if block == "basic":
            self.layer = nn.Sequential(
                ConvLayer(in_channels, out_channels, stride=stride),
                ConvLayer(out_channels, out_channels, relu=False),
            )
        else:
            inner = out_channels // BOTTLENECK_REDUCTION
            self.layer = nn.Sequential(
                ConvLayer(in_channels, inner, 1),
                ConvLayer(inner, inner, stride=stride),
                ConvLayer(inner, out_channels, 1, relu=False),
            )
        self.activation = nn.ReLU()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        """The activated sum of both branches."""
        return self.activation(self.layer(x) + self.shortcut(x))


class Stem(nn.Module):
    """A 7 x 7 layer of stride 2 and optional max-pooling of stride 2."""

    def __init__(self, in_channels: int, channels: int, pooling: bool = True) -> None:
        super().__init__()
        self.embedder = ConvLayer(in_channels, channels, 7, 2)
        self.pooler = nn.MaxPool2d(3, 2, 1) if pooling else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        """Reduces the picture's sides to a quarter, or to a half without pooling."""
        return self.pooler(self.embedder(x))


class Stage(nn.Module):
    """Residual blocks; the first has the stage's stride."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, depth: int, block: Block
    ) -> None:
        super().__init__()
        blocks = [Residual(in_channels, out_channels, stride, block)]
        blocks += [Residual(out_channels, out_channels, 1, block) for _ in range(depth - 1)]
        self.layers = nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        """The stage's feature map."""
        return self.layers(x)


class Encoder(nn.Module):
    """The stages, each half as wide and high as the one before it."""

    def __init__(
        self, stem_channels: int, channels: Sequence[int], depths: Sequence[int], block: Block
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        previous = stem_channels
        for number, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            self.stages.append(Stage(previous, width, 1 if number == 0 else 2, depth, block))
            previous = width

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """All feature maps, fine to coarse."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ResNet(nn.Module):
    """Maps pictures to four stages' feature maps of strides 4 to 32, or 2 to 16 without pooling."""

    def __init__(
        self,
        in_channels: int,
        stem_channels: int,
        channels: Sequence[int],
        depths: Sequence[int],
        block: Block = "basic",
        pooling: bool = True,
    ) -> None:
        super().__init__()
        self.embedder = Stem(in_channels, stem_channels, pooling)
        self.encoder = Encoder(stem_channels, channels, depths, block)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Returns the feature maps, fine to coarse."""
        return self.encoder(self.embedder(x))
