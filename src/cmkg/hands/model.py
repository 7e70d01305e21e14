"""PoseNet: a backbone of transformers' AutoBackbone -> 21 joints, wrist-relative, in bone units.

Two heads. `pooled` is the paper's: the last feature map, averaged, and one linear layer to 63
numbers. `integral` looks where things are before it averages: a heatmap a joint, its centre of
mass, the depth there (Sun et al., ECCV 2018).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from .heatmaps import centre_of_mass

STAGES = ("stage1", "stage2", "stage3", "stage4")
# Residual layers per stage and kind of block; widths come as a multiple of the original's.
RESNETS = {
    "resnet10": ([1, 1, 1, 1], "basic"),
    "resnet18": ([2, 2, 2, 2], "basic"),
    "resnet34": ([3, 4, 6, 3], "basic"),
    "resnet50": ([3, 4, 6, 3], "bottleneck"),
}
HALF_BOX = 3.0  # bones: where the learned size of half a box starts
HEAD_CHANNELS = 64


class Pooled(nn.Linear):
    """The four feature maps -> (B, 21, 3), and None: no heatmaps."""

    def __init__(self, channels):
        super().__init__(channels[-1], 63)

    def forward(self, maps):
        # bfloat16 would round a joint to a millimetre
        with torch.autocast(maps[-1].device.type, enabled=False):
            return super().forward(maps[-1].float().mean((2, 3))).view(-1, 21, 3), None


class Integral(nn.Module):
    """The four feature maps -> (B, 21, 3), and heatmap logits (B, 21, H, W) as fine as the third
    stage's map.

    x, y: a heatmap's centre of mass times the size of half the box, one number an image; z: the
    mean of a depth map under it; both from the wrist on. The pooled layer adds what a place
    cannot tell: perspective, hidden joints.
    """

    def __init__(self, channels):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, HEAD_CHANNELS, 1) for c in channels[2:])
        self.smooth = nn.Sequential(
            nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(HEAD_CHANNELS),
            nn.ReLU(),
        )
        self.maps = nn.Conv2d(HEAD_CHANNELS, 42, 1)
        self.size = nn.Linear(channels[-1], 1)
        self.pooled = Pooled(channels)
        nn.init.zeros_(self.size.weight)
        nn.init.zeros_(self.size.bias)

    def forward(self, maps):
        fine, coarse = maps[2:]
        merged = self.lateral[0](fine) + F.interpolate(self.lateral[1](coarse), size=fine.shape[2:])
        logits, depth = self.maps(self.smooth(merged)).float().chunk(2, 1)
        with torch.autocast(logits.device.type, enabled=False):
            xy, weights = centre_of_mass(logits)
            size = HALF_BOX * self.size(coarse.float().mean((2, 3))).exp()
            z = (weights * depth.flatten(2)).sum(2)
            joints = torch.cat([size[:, None] * xy, z[..., None]], 2)
            return joints - joints[:, :1] + self.pooled(maps)[0], logits


Head = Literal["pooled", "integral"]
HEADS = {"pooled": Pooled, "integral": Integral}


class PoseNet(nn.Module):
    """(B, C, px, px) -> (B, 21, 3). `feature_layers` names the four residual stages, for a
    FeatureTap.

    In training mode a head with heatmaps appends their logits: (B, 21, 3 + H * W), what
    `heatmaps.heatmap_loss` reads.
    """

    def __init__(self, backbone, head, feature_layers):
        super().__init__()
        self.backbone, self.head, self.feature_layers = backbone, head, feature_layers
        # from the annotators' joints it was trained on to others'
        self.register_buffer("convention", torch.eye(21))

    def forward(self, x):
        joints, logits = self.head(self.backbone(x).feature_maps)
        with torch.autocast(x.device.type, enabled=False):
            joints = torch.einsum("ij,bjk->bik", self.convention, joints)
        return (
            joints
            if logits is None or not self.training
            else torch.cat([joints, logits.flatten(2)], 2)
        )


def pose_net(name="resnet18", width=1.0, in_channels=3, seed=0, head="pooled", stem_stride=4):
    """A PoseNet with random weights that depend on `seed` alone. width 0.5 halves every layer's
    channels.

    stem_stride: 4 is ResNet's own; 2 leaves the stem's max-pooling out, for pictures of 64 px.
    """
    from transformers import AutoBackbone, ResNetConfig

    for what, value, known in (
        ("backbone", name, RESNETS),
        ("head", head, HEADS),
        ("stem stride", stem_stride, (2, 4)),
    ):
        if value not in known:
            raise InputError(f"{what} is one of {', '.join(map(str, known))}, got {value!r}")
    if width * 64 < 1:
        raise InputError(
            f"width: expected at least 1/64, so that each layer has a channel, got {width}"
        )
    depths, block = RESNETS[name]
    sizes = [
        int(width * c)
        for c in ((256, 512, 1024, 2048) if block == "bottleneck" else (64, 128, 256, 512))
    ]
    config = ResNetConfig(
        num_channels=in_channels,
        embedding_size=int(64 * width),
        hidden_sizes=sizes,
        depths=depths,
        layer_type=block,
        out_features=list(STAGES),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = AutoBackbone.from_config(config)
        if stem_stride == 2:
            backbone.embedder.pooler = nn.Identity()
        net = PoseNet(
            backbone, HEADS[head](sizes), [f"backbone.encoder.stages.{i}" for i in range(4)]
        )
    return net.to(memory_format=torch.channels_last)
