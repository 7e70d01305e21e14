"""Whole pictures with hands of any size anywhere in them, and pictures without: for the finder.

Cut from rendered hands, mirrored for left ones, and laid beside each other; none is drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from .. import geometry
from ..skeleton import MIDDLE_MCP, WRIST
from .backgrounds import background, photographs
from .scenes import stream

EMPTY = 0.12  # share of the tiles without a hand
SMALLEST_SHARE = 0.3  # of a stored picture's side that a tile shows
LAYOUTS = ((1, 1), (1, 2), (2, 1), (2, 2))  # rows and columns of tiles
LAYOUT_SHARES = (0.6, 0.12, 0.12, 0.16)

Picture = Shaped[np.ndarray, "_ _ 3"]
# x, y, side in pixels; x and y of the way from the wrist to the middle MCP
Boxes = Float[np.ndarray, "n 5"]


@runtime_checkable
class Pictures(Protocol):
    """Pictures in memory, or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: Any, /) -> Any: ...


class Hands(NamedTuple):
    """Rendered pictures of right hands; of each the protocol's box, and its direction."""

    pictures: Pictures
    boxes: Boxes

    @classmethod
    def of(
        cls,
        pictures: Pictures,
        joints_mm: Float[np.ndarray, "n 21 3"],
        K: Float[np.ndarray, "n 3 3"],
    ) -> Hands:
        """Those of a packed set's arrays."""
        boxes = []
        for joints, camera in zip(joints_mm, K, strict=True):
            pixels = geometry.project(joints, camera)
            (x, y), side = geometry.crop_box(pixels)
            way = pixels[MIDDLE_MCP] - pixels[WRIST]
            boxes.append((x, y, side, *(way / max(np.linalg.norm(way), 1e-6))))
        return cls(pictures, np.array(boxes))


def empty_pictures(count: int, px: int, seed: int) -> Shaped[np.ndarray, "n px px 3"]:
    """Backgrounds, with nothing before them."""
    pictures = [
        background(stream("empty", seed, number), photographs(), px) for number in range(count)
    ]
    return np.stack(pictures).astype(np.uint8)


def whole_picture(
    rng: np.random.Generator, sets: Sequence[Hands], empty: Shaped[np.ndarray, "m p p 3"], px: int
) -> tuple[Shaped[np.ndarray, "px px 3"], Boxes]:
    """A picture of px x px pixels, and the boxes of the hands whose middles are in it."""
    rows, columns = LAYOUTS[rng.choice(len(LAYOUTS), p=LAYOUT_SHARES)]
    height, width = px // rows, px // columns
    out = np.empty((px, px, 3), np.uint8)
    boxes: list[Boxes] = []
    for row in range(rows):
        for column in range(columns):
            tile, own = _tile(rng, sets, empty, height, width)
            y, x = row * height, column * width
            out[y : y + height, x : x + width] = tile
            boxes.append(own + [x, y, 0, 0, 0])
    return out, np.concatenate(boxes)


def other_picture(
    rng: np.random.Generator, hands: Hands, empty: Shaped[np.ndarray, "m p p 3"], px: int
) -> Shaped[np.ndarray, "px px 3"]:
    """A picture that shows no whole hand: a background, an arm, what is beside a hand."""
    tile, boxes = _tile(rng, [hands], empty, px, px)
    while len(boxes):
        tile, boxes = _tile(rng, [hands], empty, px, px)
    return tile


def _tile(
    rng: np.random.Generator,
    sets: Sequence[Hands],
    empty: Shaped[np.ndarray, "m p p 3"],
    height: int,
    width: int,
) -> tuple[Picture, Boxes]:
    left = rng.random() < 0.5
    if rng.random() < EMPTY:
        picture, box = empty[rng.integers(len(empty))], None
    else:
        hands = sets[int(rng.integers(len(sets)))]
        number = rng.integers(len(hands.pictures))
        picture, box = hands.pictures[number], hands.boxes[number]
    whole = picture.shape[0]
    tall, wide = height / max(height, width), width / max(height, width)
    shown = whole * np.exp(rng.uniform(np.log(SMALLEST_SHARE), 0))
    # the window lies anywhere in the picture: sometimes the hand is cut off, or outside
    y0, x0 = rng.uniform(0, whole - shown * tall), rng.uniform(0, whole - shown * wide)
    scale = max(height, width) / shown
    to_tile = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale]])
    if left:
        to_tile = np.array([[-1, 0, width - 1.0], [0, 1, 0]]) @ np.vstack([to_tile, [0, 0, 1]])
    source = picture
    if scale < 0.7:  # warpAffine does not average
        source = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        to_tile = to_tile @ np.diag([whole / source.shape[1], whole / source.shape[0], 1.0])
    size = (width, height)
    tile = cv2.warpAffine(source, to_tile, size, borderMode=cv2.BORDER_REPLICATE)
    if box is None:
        return tile, np.zeros((0, 5))
    x, y = scale * (box[0] - x0), scale * (box[1] - y0)
    if left:
        x = width - 1 - x
    if not (0 <= x < width and 0 <= y < height):
        return tile, np.zeros((0, 5))
    right = -box[3] if left else box[3]
    return tile, np.array([[x, y, scale * box[2], right, box[4]]])
