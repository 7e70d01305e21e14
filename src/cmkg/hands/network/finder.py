"""Finder: where in a whole picture hands are, how large, and which way they point.

Centres as peaks of a heatmap (Zhou et al., Objects as Points, 2019), a hand's size and direction at
its peak. Whose hand it is shows only when it is looked at closely: see presence.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .resnet import ConvLayer, ResNet

FINDER_PX = 128  # pixels a side of its picture
STRIDE = 8
CELLS = FINDER_PX // STRIDE
STEM_CHANNELS = 16
CHANNELS = (16, 32, 64, 96)
HEAD_CHANNELS = 48
RARE = -3.0  # log odds of a centre in a cell, before it is trained
PEAK = 0.7  # cells: a target's standard deviation
STEPS = np.arange(-1.0, 2.0)
SIZE_WEIGHT, TOWARDS_WEIGHT = 0.5, 0.5  # of their losses


class Found(NamedTuple):
    """A hand: its box's middle and side, in pixels of the finder's picture; score: 0 to 1."""

    x: float
    y: float
    side: float
    score: float
    towards: tuple[float, float]
    """x and y of the direction from the wrist to the middle MCP, of length 1."""


class Said(NamedTuple):
    """Maps of a picture: chances of hands' middles, boxes' sides in pixels, x and y of ways."""

    chance: Float[np.ndarray, "h w"]
    side: Float[np.ndarray, "h w"]
    towards: Float[np.ndarray, "2 h w"]


class FinderMaps(NamedTuple):
    """centres: log odds. size: log of the box's side over FINDER_PX. towards: see Found."""

    centres: Float[Tensor, "b h w"]
    size: Float[Tensor, "b h w"]
    towards: Float[Tensor, "b 2 h w"]

    def said(self, number: int) -> Said:
        """Of one of the pictures."""
        parts = self.centres.sigmoid(), FINDER_PX * self.size.exp(), self.towards
        return Said(*(part[number].detach().cpu().numpy() for part in parts))


class Targets(NamedTuple):
    """What FinderMaps should be, centres from 0 to 1; counts: where size and towards count."""

    centres: Float[Tensor, "b h w"]
    size: Float[Tensor, "b h w"]
    towards: Float[Tensor, "b 2 h w"]
    counts: Shaped[Tensor, "b h w"]


class Finder(nn.Module):
    """Whole pictures to FinderMaps; see `peaks`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(3, STEM_CHANNELS, CHANNELS, (1, 1, 1, 1))
        self.lateral = nn.ModuleList(nn.Conv2d(c, HEAD_CHANNELS, 1) for c in CHANNELS[1:])
        self.smooth = ConvLayer(HEAD_CHANNELS, HEAD_CHANNELS)
        self.maps = nn.Conv2d(HEAD_CHANNELS, 4, 1)
        with torch.no_grad():
            assert self.maps.bias is not None
            self.maps.bias.copy_(torch.tensor([RARE, -1.0, 0.0, 0.0]))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> FinderMaps:
        """Normalised pictures, of sides that are multiples of 32, to maps of an eighth of them."""
        merged: Tensor | None = None
        for lateral, one in zip(
            reversed(self.lateral), reversed(self.backbone(x)[1:]), strict=True
        ):
            own = lateral(one)
            merged = own if merged is None else own + F.interpolate(merged, size=own.shape[2:])
        assert merged is not None
        out = self.maps(self.smooth(merged)).float()
        return FinderMaps(out[:, 0], out[:, 1], out[:, 2:])


def finder_targets(boxes: list[Float[Tensor, "_ 5"]], cells: int = CELLS) -> Targets:
    """What the maps should be.

    Args:
        boxes: of each picture x, y, side in pixels, x and y of the hand's direction.
        cells: of a map's side.
    """
    count = len(boxes)
    centres = torch.zeros(count, cells, cells)
    size = torch.zeros(count, cells, cells)
    towards = torch.zeros(count, 2, cells, cells)
    counts = torch.zeros(count, cells, cells, dtype=torch.bool)
    steps = torch.arange(cells)
    for number, own in enumerate(boxes):
        for x, y, side, right, down in own.tolist():
            column, row = (min(max(int((c + 0.5) / STRIDE), 0), cells - 1) for c in (x, y))
            off = (steps[:, None] - row) ** 2 + (steps[None] - column) ** 2
            peak = (-off / (2 * PEAK**2)).exp()
            centres[number] = torch.maximum(centres[number], peak)
            near = off <= 1
            size[number][near] = torch.tensor(side / FINDER_PX).log()
            towards[number, :, near] = torch.tensor([[right], [down]])
            counts[number] |= near
    return Targets(centres, size, towards, counts)


def finder_loss(maps: FinderMaps, boxes: list[Float[Tensor, "_ 5"]]) -> dict[str, Tensor]:
    """The focal loss of Objects as Points (Eq. 1 there), and L1 of sizes' logarithms and ways."""
    target = Targets(*(t.to(maps.size.device) for t in finder_targets(boxes)))
    is_peak = target.centres == 1
    hands = is_peak.sum().clamp_min(1)
    right = F.logsigmoid(maps.centres) * (1 - maps.centres.sigmoid()) ** 2
    others = (1 - target.centres) ** 4
    wrong = F.logsigmoid(-maps.centres) * maps.centres.sigmoid() ** 2 * others
    cells = target.counts.sum().clamp_min(1)
    size = (maps.size - target.size).abs()[target.counts].sum() / cells
    towards = (maps.towards - target.towards).abs().sum(1)[target.counts].sum() / cells
    return {
        "centres": -torch.where(is_peak, right, wrong).sum() / hands,
        "size": SIZE_WEIGHT * size,
        "towards": TOWARDS_WEIGHT * towards,
    }


def peaks(said: Said, at_least: float, most: int) -> list[Found]:
    """The hands of a picture, the surest first.

    A peak is the largest of its neighbours; its place is the mean of the neighbourhood.
    """
    chance = said.chance
    padded = np.pad(chance, 1)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    is_peak = (chance == around.max((2, 3))) & (chance >= at_least)
    found = []
    for row, column in zip(*np.nonzero(is_peak), strict=True):
        patch = around[row, column] / around[row, column].sum()
        dx, dy = patch.sum(0) @ STEPS, patch.sum(1) @ STEPS
        found.append(
            Found(
                float((column + 0.5 + dx) * STRIDE - 0.5),
                float((row + 0.5 + dy) * STRIDE - 0.5),
                float(said.side[row, column]),
                float(chance[row, column]),
                _of_length_1(*said.towards[:, row, column].tolist()),
            )
        )
    return sorted(found, key=lambda one: -one.score)[:most]


def _of_length_1(x: float, y: float) -> tuple[float, float]:
    length = math.hypot(x, y)
    return (x / length, y / length) if length > 1e-6 else (0.0, -1.0)
