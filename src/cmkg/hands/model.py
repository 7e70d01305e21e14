"""PoseNet: a backbone of transformers' AutoBackbone, pooled -> 21 joints, wrist-relative, in bone units."""

import torch
from torch import nn

from ..errors import InputError

STAGES = ("stage1", "stage2", "stage3", "stage4")
# Residual layers per stage and kind of block; widths come as a multiple of the original's.
RESNETS = {"resnet10": ([1, 1, 1, 1], "basic"), "resnet18": ([2, 2, 2, 2], "basic"), "resnet34": ([3, 4, 6, 3], "basic"),
           "resnet50": ([3, 4, 6, 3], "bottleneck")}  # fmt: skip


class PoseNet(nn.Module):
    """(B, C, px, px) -> (B, 21, 3). `feature_layers` names the four residual stages, for a FeatureTap."""

    def __init__(self, backbone, channels, feature_layers):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(channels, 63)
        self.feature_layers = feature_layers

    def forward(self, x):
        pooled = self.backbone(x).feature_maps[-1].float().mean((2, 3))
        with torch.autocast(x.device.type, enabled=False):  # a joint in bfloat16 would be rounded to a millimetre
            return self.head(pooled).view(-1, 21, 3)


def pose_net(name="resnet18", width=1.0, in_channels=3, seed=0):
    """A PoseNet with random weights that depend on `seed` alone. width 0.5 halves every layer's channels."""
    from transformers import AutoBackbone, ResNetConfig

    if name not in RESNETS:
        raise InputError(f"backbone is one of {', '.join(RESNETS)}, got {name!r}")
    depths, block = RESNETS[name]
    sizes = [int(width * c) for c in ((256, 512, 1024, 2048) if block == "bottleneck" else (64, 128, 256, 512))]
    config = ResNetConfig(num_channels=in_channels, embedding_size=int(64 * width), hidden_sizes=sizes, depths=depths,
                          layer_type=block, out_features=list(STAGES))  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PoseNet(AutoBackbone.from_config(config), sizes[-1], [f"backbone.encoder.stages.{i}" for i in range(4)])
    return net.to(memory_format=torch.channels_last)
