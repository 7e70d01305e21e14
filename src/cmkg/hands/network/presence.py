"""Presence: whether what a student looks at is a hand at all, and a right one.

A small network on a trained student's third feature map, where what it needs to tell sides apart is
still there; the student's own weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .resnet import Residual

MAP = 2  # of the four
CHANNELS = 96
HIDDEN = 64
CELLS = 3  # a side of what is left of the map
DROPPED = 0.2


class Presence(nn.Module):
    """Feature maps to log odds: that there is a hand; that it is a right one, if there is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = Residual(channels, CHANNELS, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(CELLS)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(CHANNELS * CELLS**2, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPPED),
            nn.Linear(HIDDEN, 2),
        )

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b 2"]:
        """Of the four feature maps the third."""
        small = self.block(maps[MAP].float())
        return self.layers(small if small.shape[2:] == (CELLS, CELLS) else self.pool(small))

    def chance(self, maps: Sequence[Tensor]) -> Float[Tensor, " b"]:
        """That there is a right hand."""
        return self(maps).sigmoid().prod(1)


def presence_loss(
    said: Float[Tensor, "b 2"], is_hand: Shaped[Tensor, " b"], is_right: Shaped[Tensor, " b"]
) -> dict[str, Tensor]:
    """Cross-entropy of both; a side counts where there is a hand."""
    hand = F.binary_cross_entropy_with_logits(said[:, 0], is_hand.to(said))
    sides = F.binary_cross_entropy_with_logits(said[:, 1], is_right.to(said), reduction="none")
    return {"hand": hand, "side": (sides * is_hand).sum() / is_hand.sum().clamp_min(1)}
