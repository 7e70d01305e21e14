"""Presence: whether what a student would look at is a hand at all, and a right one.

Its first stages are a student's: from random weights it does not learn to tell sides (150,000
pictures left it at chance), from those of a student that knows poses it does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .resnet import ResNet

PRESENCE_PX = 96  # pixels a side of its picture
STEM_CHANNELS = 16
CHANNELS, DEPTHS = (16, 32, 64, 96), (2, 2, 2, 1)
HIDDEN = 64
DROPPED = 0.2


class Presence(nn.Module):
    """Normalised pictures to log odds: that there is a hand; that it is right, if there is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(3, STEM_CHANNELS, CHANNELS, DEPTHS)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(CHANNELS[-1] * (PRESENCE_PX // 32) ** 2, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPPED),
            nn.Linear(HIDDEN, 2),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def begin_from(self, backbone: nn.Module) -> int:
        """Takes the weights of a student's backbone that fit; returns how many numbers did."""
        own = self.backbone.state_dict()
        fitting = {
            name: value
            for name, value in backbone.state_dict().items()
            if name in own and own[name].shape == value.shape
        }
        self.backbone.load_state_dict(own | fitting)
        return sum(value.numel() for value in fitting.values())

    def forward(self, x: Float[Tensor, "b 3 px px"]) -> Float[Tensor, "b 2"]:
        """Pictures of PRESENCE_PX pixels a side."""
        return self.head(self.backbone(x)[-1]).float()


def presence_loss(
    said: Float[Tensor, "b 2"], is_hand: Shaped[Tensor, " b"], is_right: Shaped[Tensor, " b"]
) -> dict[str, Tensor]:
    """Cross-entropy of both; a side counts where there is a hand."""
    hand = F.binary_cross_entropy_with_logits(said[:, 0], is_hand.to(said))
    sides = F.binary_cross_entropy_with_logits(said[:, 1], is_right.to(said), reduction="none")
    return {"hand": hand, "side": (sides * is_hand).sum() / is_hand.sum().clamp_min(1)}
