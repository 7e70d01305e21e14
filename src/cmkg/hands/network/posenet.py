"""PoseNet: a ResNet with a head that predicts 21 joints.

There are two heads. `pooled` is the paper's: the average of the last feature map, and one linear
layer to 63 numbers. `integral` localizes before it averages: one heatmap per joint, its center of
mass, and the depth there (Sun et al., ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import InputError
from ...runtime.checks import expect_between, expect_positive
from .heatmaps import centre_of_mass
from .pose import Pose
from .resnet import Block, ResNet

# Residual layers per stage, and the kind of block.
RESNETS: dict[str, tuple[list[int], Block]] = {
    "resnet10": ([1, 1, 1, 1], "basic"),
    "resnet18": ([2, 2, 2, 2], "basic"),
    "resnet34": ([3, 4, 6, 3], "basic"),
    "resnet50": ([3, 4, 6, 3], "bottleneck"),
}
CHANNELS = {"basic": (64, 128, 256, 512), "bottleneck": (256, 512, 1024, 2048)}
STEM_CHANNELS = 64
HALF_BOX = 3.0  # initial value of the learned size of half a box, in bones
HEAD_CHANNELS = 64

Head = Literal["pooled", "integral"]
StemStride = Literal[2, 4]
LossUnit = Literal["mm", "cm", "m", "bone"]
FeatureMaps = Sequence[Tensor]


@dataclass(frozen=True)
class NetConfig:
    """A hand network."""

    backbone: str = "resnet18"
    width: float = 1.0
    """Multiplier of every layer's channels."""
    head: Head = "pooled"
    """pooled: the paper's. integral: heatmaps, their centers of mass, the depth there; far better
    after short training."""
    stem_stride: StemStride = 4
    """4 is ResNet's default; 2 omits the stem's max-pooling, for pictures of 64 px."""
    heatmap_weight: float = 100.0
    """Weight of the integral head's heatmap loss relative to L_REG in cm^2, for any loss unit."""
    loss_unit: LossUnit = "cm"
    """Unit of L_REG, squared, for the set's mean hand. It has no effect on Adam with L_REG alone,
    but changes the balance with R, phi, the inner step and L_DIST."""
    loss_mean: bool = False
    """Use the mean over the 63 coordinates in L_REG instead of the paper's sum."""
    px: int = 256
    """Side of the network's picture in pixels."""
    upright: bool = False
    """Rotate hands in the picture's plane before the network sees them, so that the middle MCP is
    right above the wrist; `Hand` estimates the rotation if it is unknown."""

    def __post_init__(self) -> None:
        expect_positive(self, "heatmap_weight")
        expect_between(self, 1 / STEM_CHANNELS, 16, "width")  # at least one channel per layer
        expect_between(self, 16, 4096, "px")
        if self.loss_unit not in get_args(LossUnit):
            units = ", ".join(get_args(LossUnit))
            raise InputError(f"--loss-unit: expected one of {units}, got {self.loss_unit!r}")
        _expect_one_of("backbone", self.backbone, tuple(RESNETS))
        _expect_one_of("head", self.head, get_args(Head))
        _expect_one_of("stem stride", self.stem_stride, get_args(StemStride))


def _expect_one_of(what: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise InputError(f"{what} is one of {', '.join(map(str, known))}, got {value!r}")


class PooledHead(nn.Linear):
    """Maps the average of the last of four feature maps to joints."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels[-1], 63)

    def forward(self, maps: FeatureMaps) -> Pose:  # type: ignore[override]
        """Returns a Pose without uv and heatmaps."""
        coarse = maps[-1]
        with torch.autocast(coarse.device.type, enabled=False):  # bf16 would round to a millimeter
            joints = super().forward(coarse.float().mean((2, 3)))
            return Pose(joints.view(-1, 21, 3))


class IntegralHead(nn.Module):
    """Maps four feature maps to joints and heatmaps at the resolution of the third stage.

    x, y: a heatmap's center of mass times the size of half the box, one number per image; z: the
    mean of a depth map weighted by the heatmap; all relative to the wrist. The pooled layer adds
    what heatmaps cannot express, such as perspective and hidden joints.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, HEAD_CHANNELS, 1) for c in channels[2:])
        self.smooth = nn.Sequential(
            nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(HEAD_CHANNELS),
            nn.ReLU(),
        )
        self.maps = nn.Conv2d(HEAD_CHANNELS, 42, 1)
        self.size = nn.Linear(channels[-1], 1)
        self.pooled = PooledHead(channels)
        nn.init.zeros_(self.size.weight)
        nn.init.zeros_(self.size.bias)

    def forward(self, maps: FeatureMaps) -> Pose:
        """Returns a complete Pose."""
        fine, coarse = maps[2:]
        upsampled = F.interpolate(self.lateral[1](coarse), size=fine.shape[2:])
        merged = self.lateral[0](fine) + upsampled
        logits, depth = self.maps(self.smooth(merged)).float().chunk(2, 1)
        with torch.autocast(logits.device.type, enabled=False):
            uv, weights = centre_of_mass(logits)
            size = HALF_BOX * self.size(coarse.float().mean((2, 3))).exp()
            z = (weights * depth.flatten(2)).sum(2)
            joints = torch.cat([size[:, None] * uv, z[..., None]], 2)
            joints = joints - joints[:, :1] + self.pooled(maps).joints
            return Pose(joints, uv, logits)


class PoseNet(nn.Module):
    """Maps pictures to a Pose.

    `feature_layers` names the four residual stages, for a FeatureTap. `convention` converts joints
    from the bone convention of the training labels to another one without changing weights.
    `unit_mm` is the length of the unit bone if it is the same for all hands; 0 means each hand's
    own bone, which a picture does not reveal. Both are stored with the weights.
    """

    convention: Tensor
    unit_mm: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, feature_layers: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.feature_layers = list(feature_layers)
        self.register_buffer("convention", torch.eye(21))
        self.register_buffer("unit_mm", torch.zeros(()))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Loads older weights, which lack unit_mm, with each hand's own bone as the unit."""
        state_dict.setdefault(f"{prefix}unit_mm", torch.zeros(()))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def feature_maps(self, px: int) -> list[Tensor]:
        """The four stages' maps of one blank px x px picture, to obtain their shapes."""
        first = next(self.parameters())
        blank = first.new_zeros(1, first.shape[1], px, px)
        maps: list[Tensor] = self.backbone.eval()(blank)
        self.backbone.train()
        return maps

    def forward(self, x: Float[Tensor, "b c px px"]) -> Pose:
        """Returns the same kind of Pose in training and in evaluation."""
        return self.pose_of(self.backbone(x))

    def pose_of(self, maps: FeatureMaps) -> Pose:
        """Maps the backbone's four feature maps to a Pose."""
        pose: Pose = self.head(maps)
        with torch.autocast(pose.joints.device.type, enabled=False):
            joints = torch.einsum("ij,bjk->bik", self.convention, pose.joints)
        return pose._replace(joints=joints)


def pose_net(config: NetConfig, in_channels: int = 3, seed: int = 0) -> PoseNet:
    """Builds a PoseNet with random weights that depend on `seed` alone.

    Args:
        config: the network's settings.
        in_channels: 3 for RGB, 1 for depth.
        seed: the seed of the weights.
    """
    depths, block = RESNETS[config.backbone]
    channels = [int(config.width * c) for c in CHANNELS[block]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = ResNet(
            in_channels,
            int(STEM_CHANNELS * config.width),
            channels,
            depths,
            block,
            pooling=config.stem_stride == 4,
        )
        head = PooledHead(channels) if config.head == "pooled" else IntegralHead(channels)
        layers = [f"backbone.encoder.stages.{stage}" for stage in range(len(depths))]
        net = PoseNet(backbone, head, layers)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net
