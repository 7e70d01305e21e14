"""HandResult: the prediction for one hand in a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ..skeleton import INDEX_MCP, JOINTS, LITTLE_MCP, WRIST

Side = Literal["right", "left"]
Box = tuple[float, float, float, float]  # x, y of the corner, width, height, in pixels


@dataclass(frozen=True)
class HandResult:
    """One hand, with joints in the order of skeleton.JOINTS: wrist, then each finger base to tip.

    joints_px: x and y on the picture in pixels; the first pixel's center is (0, 0). joints_mm:
    relative to the wrist, in the camera's frame (x right, y down, z forward), scaled to a typical
    hand or to the given bone length. confidence: the probability that there is a hand;
    side_confidence: the probability of this side. box: x, y of the corner, width and height of the
    hand's region, in pixels. wrist_mm: the wrist in the camera's frame if the camera was given,
    otherwise None. track: the hand's persistent number in a video; 0 in a picture.
    """

    joints_px: Float[np.ndarray, "21 2"]
    joints_mm: Float[np.ndarray, "21 3"]
    side: Side
    box: Box
    confidence: float
    side_confidence: float
    wrist_mm: Float[np.ndarray, "3"] | None = None
    track: int = 0

    def __str__(self) -> str:
        """Formats one line per joint, with its name, pixels and millimeters."""
        first = (
            f"a {self.side} hand ({100 * self.side_confidence:.0f} %), "
            f"{100 * self.confidence:.0f} % sure, "
            f"{'palm' if self.palm_towards_camera else 'back'} to the camera"
        )
        rows = [
            f"  {name:14} {x:7.1f} {y:7.1f} px  {a:7.1f} {b:7.1f} {c:7.1f} mm"
            for name, (x, y), (a, b, c) in zip(JOINTS, self.joints_px, self.joints_mm, strict=True)
        ]
        return "\n".join([first, *rows])

    @property
    def palm_towards_camera(self) -> bool:
        """Whether the palm, not the back of the hand, faces the camera."""
        x, y = (self.joints_px[[INDEX_MCP, LITTLE_MCP]] - self.joints_px[WRIST]).T
        turn = x[0] * y[1] - y[0] * x[1]  # > 0: from index to little clockwise on the picture
        return bool(turn > 0) == (self.side == "left")
