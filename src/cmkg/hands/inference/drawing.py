"""Skeletons over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Shaped

from ..skeleton import BONES, FINGER_COLOURS, FINGER_OF_BONE
from .hand import HandResult

SUBPIXEL = 4  # bits behind the point in OpenCV's coordinates
COLOURS = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in FINGER_COLOURS]
WHITE, DARK = (255, 255, 255), (20, 20, 20)


def draw_hands(
    picture: Shaped[np.ndarray, "h w 3"], results: Sequence[HandResult]
) -> Shaped[np.ndarray, "h w 3"]:
    """The picture with a skeleton a hand; joints that are not sure are small."""
    drawn = picture.copy()
    for one in results:
        width = max(one.box[2] / 70, 1.0)
        places = np.rint(one.joints_px * 2**SUBPIXEL).astype(int)
        points = [(int(x), int(y)) for x, y in places]
        for edge in (True, False):
            for (parent, child), finger in zip(BONES, FINGER_OF_BONE, strict=True):
                thickness = max(round(width * (2.2 if edge else 1.2)), 1)
                colour = DARK if edge else COLOURS[finger]
                ends = points[parent], points[child]
                cv2.line(drawn, *ends, colour, thickness, cv2.LINE_AA, SUBPIXEL)
        for joint, point in enumerate(points):
            finger = FINGER_OF_BONE[max(joint - 1, 0)]
            radius = int(2**SUBPIXEL * width * (0.9 + 0.9 * float(one.confidence[joint])))
            colour = WHITE if joint == 0 else COLOURS[finger]
            cv2.circle(drawn, point, radius, DARK, -1, cv2.LINE_AA, SUBPIXEL)
            cv2.circle(drawn, point, round(0.7 * radius), colour, -1, cv2.LINE_AA, SUBPIXEL)
    return drawn
