"""Palm detection: converts the outputs of the palm network's 2016 anchors to regions.

It follows MediaPipe's public graph palm_detection_cpu: SSD anchors of strides 8, 16, 16, 16 and one
size, sigmoid scores, and weighted non-maximum suppression.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from .regions import Picture, Region

PX = 192  # of the palm network's picture
STRIDES = (8, 16, 16, 16)
ANCHORS_A_CELL = 2  # per entry of STRIDES
LARGEST_LOGIT = 100.0
SAME_PALM = 0.3  # intersection over union
WRIST, MIDDLE_MCP = 0, 2  # of the seven key points


class Palm(NamedTuple):
    """A palm: its score in [0, 1], and the region of its hand in the picture's pixels."""

    score: float
    region: Region


class Letterbox(NamedTuple):
    """The picture within a square, its pixels per square pixel, and the margins in the square."""

    picture: Picture
    scale: float
    left: float
    top: float


def letterbox(picture: Picture, share: float = 1.0, px: int = PX) -> Letterbox:
    """Centers the picture in a black square; its longer side is `share` of the square's side."""
    height, width = picture.shape[:2]
    scale = max(height, width) / (share * px)
    rows, columns = max(round(height / scale), 1), max(round(width / scale), 1)
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, (columns, rows), interpolation=method)
    square = np.zeros((px, px, 3), np.uint8)
    top, left = (px - rows) // 2, (px - columns) // 2
    square[top : top + rows, left : left + columns] = small
    return Letterbox(square, scale, left, top)


@cache
def anchors() -> Float[np.ndarray, "2016 2"]:
    """The cell centers of the network's output rows, in pixels."""
    parts = []
    for stride in sorted(set(STRIDES)):
        count = ANCHORS_A_CELL * STRIDES.count(stride)
        steps = (np.arange(PX // stride) + 0.5) * stride
        y, x = np.meshgrid(steps, steps, indexing="ij")
        parts.append(np.stack([x.ravel(), y.ravel()], 1).repeat(count, 0))
    return np.concatenate(parts)


def palms_of(
    boxes: Float[np.ndarray, "2016 18"],
    scores: Float[np.ndarray, " 2016"],
    place: Letterbox,
    least_score: float,
) -> list[Palm]:
    """Decodes the palms of a picture, the most confident first.

    Args:
        boxes, scores: the network's outputs for `place.picture`.
        place: the picture's placement in the network's input.
        least_score: the lowest score of a palm, 0 to 1.
    """
    chance = 1 / (1 + np.exp(-np.clip(scores, -LARGEST_LOGIT, LARGEST_LOGIT)))
    sure = np.flatnonzero(chance >= least_score)
    points = boxes[sure].astype(np.float64).reshape(-1, 9, 2)  # middle, size, 7 key points
    points[:, [0, *range(2, 9)]] += anchors()[sure][:, None]
    return [
        Palm(score, _region_of(palm, place))
        for score, palm in _merged(points, chance[sure])
        if score
    ]


def _region_of(found: Float[np.ndarray, "9 2"], place: Letterbox) -> Region:
    points = (found - [place.left, place.top]) * place.scale - 0.5
    width, height = found[1] * place.scale
    keys = points[2:]
    box = float(points[0, 0]), float(points[0, 1]), float(width), float(height)
    return Region.of_palm(box, keys[WRIST], keys[MIDDLE_MCP])


def _merged(
    found: Float[np.ndarray, "n 9 2"], scores: Float[np.ndarray, " n"]
) -> list[tuple[float, Float[np.ndarray, "9 2"]]]:
    """Weighted non-maximum suppression: averages each group of overlapping boxes."""
    low, high = found[:, 0] - found[:, 1] / 2, found[:, 0] + found[:, 1] / 2
    area = found[:, 1].clip(0).prod(1)
    left = np.argsort(-scores, kind="stable")
    merged = []
    while len(left):
        first = left[0]
        shared = (np.minimum(high[first], high[left]) - np.maximum(low[first], low[left])).clip(0)
        overlap = shared.prod(1)
        union = area[first] + area[left] - overlap
        is_same = overlap > SAME_PALM * np.maximum(union, 1e-9)
        is_same[0] = True
        group = left[is_same]
        weights = scores[group] / scores[group].sum()
        merged.append((float(scores[first]), np.einsum("n,nij->ij", weights, found[group])))
        left = left[~is_same]
    return merged
