"""Where to look first: the finder's hands, or squares all over the picture where there is none."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped

from ..network.finder import FINDER_PX, Found, peaks
from .running import Networks
from .seeing import Box, Direction, Picture

SURE = 0.15  # score of what is looked at closely
BESIDE = 0.5  # of the surest hand's score, that others have
MOST = 8  # hands of a picture
MULTIPLE = 32  # of pixels, that the finder's picture has a side
LARGER = 2  # times the finder's picture, where it finds nothing: small hands
# First boxes without a finder: the whole picture, then squares of these shares of its shorter side,
# half of one apart.
SHARES = (1.0, 0.6)
MOST_IN_A_ROW = 12  # of these squares, in a panorama


class Candidate(NamedTuple):
    """Where a hand may be. towards: see Place."""

    box: Box
    towards: Direction


def find_candidates(networks: Networks, picture: Picture) -> list[Candidate]:
    """The finder's hands in a picture of any size, the surest first."""
    found: list[Found] = []
    scale = 1.0
    for px in (FINDER_PX, LARGER * FINDER_PX):
        shrunken, scale = shrink(picture, px)
        found = peaks(networks.search(shrunken), SURE, MOST)
        if found:
            break
    found = [one for one in found if one.score >= BESIDE * found[0].score]
    half = 0.5 * scale - 0.5  # a pixel's middle is a whole number
    return [
        Candidate(Box(one.x * scale + half, one.y * scale + half, one.side * scale), one.towards)
        for one in found
    ]


def shrink(picture: Picture, px: int) -> tuple[Shaped[np.ndarray, "h2 w2 3"], float]:
    """The picture with its longer side px pixels, its edge repeated to multiples of MULTIPLE.

    Returns:
        It, and how many of the picture's pixels one of its pixels is wide.
    """
    scale = max(picture.shape[:2]) / px
    height, width = (max(round(length / scale), 1) for length in picture.shape[:2])
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, (width, height), interpolation=method)
    below, right = (-length % MULTIPLE for length in (height, width))
    return cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_REPLICATE), scale


def first_boxes(picture: Picture) -> list[Box]:
    """Where a hand may be in a picture that nobody knows."""
    height, width = picture.shape[:2]
    boxes = [Box(width / 2, height / 2, float(max(height, width)))]
    for share in SHARES:
        side = share * min(height, width)
        for y in _middles(height, side):
            boxes += [Box(x, y, side) for x in _middles(width, side)]
    return boxes


def _middles(length: float, side: float) -> list[float]:
    count = min(max(round((length - side) / (side / 2)) + 1, 1), MOST_IN_A_ROW)
    return np.linspace(side / 2, length - side / 2, count).tolist() if count > 1 else [length / 2]
