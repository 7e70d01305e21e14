"""Draws hand skeletons on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Shaped

from ..skeleton import BONES, FINGER_COLOURS, FINGER_OF_BONE
from .hand_result import HandResult

SUBPIXEL = 4  # fractional bits of OpenCV's coordinates
COLOURS = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in FINGER_COLOURS]
FONT = cv2.FONT_HERSHEY_SIMPLEX
FAR = 1 << 20  # limit for joints outside the picture, in OpenCV's coordinates
WHITE, DARK = (255, 255, 255), (20, 20, 20)


def draw_hands(
    picture: Shaped[np.ndarray, "h w 3"], results: Sequence[HandResult]
) -> Shaped[np.ndarray, "h w 3"]:
    """Draws a skeleton per hand, labeled R or L with the confidence of the side in percent."""
    drawn = picture.copy()
    for result in results:
        _draw(drawn, result)
    return drawn


def _draw(drawn: Shaped[np.ndarray, "h w 3"], one: HandResult) -> None:
    width = min(max(one.box[2] / 90, 0.5), min(drawn.shape[:2]) / 100 + 0.5)
    places = np.rint(one.joints_px * 2**SUBPIXEL).clip(-FAR, FAR).astype(int)
    points = [(int(x), int(y)) for x, y in places]
    for is_edge in (True, False):
        for (parent, child), finger in zip(BONES, FINGER_OF_BONE, strict=True):
            thickness = max(round(width * (2.2 if is_edge else 1.2)), 1)
            colour = DARK if is_edge else COLOURS[finger]
            ends = points[parent], points[child]
            cv2.line(drawn, *ends, colour, thickness, cv2.LINE_AA, SUBPIXEL)
    for joint, point in enumerate(points):
        finger = FINGER_OF_BONE[max(joint - 1, 0)]
        radius = max(int(2**SUBPIXEL * width * 1.6), 2**SUBPIXEL)
        colour = WHITE if joint == 0 else COLOURS[finger]
        cv2.circle(drawn, point, radius, DARK, -1, cv2.LINE_AA, SUBPIXEL)
        cv2.circle(drawn, point, round(0.7 * radius), colour, -1, cv2.LINE_AA, SUBPIXEL)
    _label(drawn, one, width)


def _label(drawn: Shaped[np.ndarray, "h w 3"], one: HandResult, width: float) -> None:
    """Writes a label such as "R 98" below the lowest joint, inside the picture."""
    text = f"{one.side[0].upper()} {100 * one.side_confidence:.0f}"
    size = min(max(width * 0.22, 0.3), 2.0)
    thickness = max(round(2 * size), 1)
    (wide, high), _ = cv2.getTextSize(text, FONT, size, thickness)
    middle, lowest = one.joints_px[:, 0].mean(), one.joints_px[:, 1].max()
    x = int(np.clip(middle - wide / 2, 1, max(drawn.shape[1] - wide - 1, 1)))
    y = int(np.clip(lowest + 3 * width + high, high + 1, drawn.shape[0] - 2))
    for colour, wider in ((DARK, 2), (WHITE, 0)):
        cv2.putText(drawn, text, (x, y), FONT, size, colour, thickness + wider, cv2.LINE_AA)
