"""The landmark network's regions of interest: squares rotated so that the hand points up.

They follow MediaPipe's public graphs (palm_detection_detection_to_roi,
hand_landmark_landmarks_to_roi). As everywhere here, the first pixel's center is (0, 0).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ..skeleton import INDEX_MCP, MIDDLE_MCP, WRIST

Picture = Shaped[np.ndarray, "_ _ 3"]
Points = Float[np.ndarray, "21 2"]

PX = 224  # side of the landmark network's picture
FOLLOWED = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)  # joints whose bounding box is tracked
RING_MCP = 13
PALM_ZOOM, PALM_SHIFT = 2.6, -0.5  # of a palm's box; a negative shift is towards the fingers
JOINTS_ZOOM, JOINTS_SHIFT = 2.0, -0.1
FINE = 1.5  # minimum resolution after averaging, in picture pixels per network pixel
SMALLEST_SIDE = 1.0


class Region(NamedTuple):
    """A rotated square, given by its middle, side and angle, which may extend beyond the picture.

    angle: in radians, clockwise on the picture, from the picture's up direction to the hand's.
    """

    x: float
    y: float
    side: float
    angle: float

    @classmethod
    def of_joints(cls, joints_px: Points) -> Region:
        """The region for a video's next frame, around the last frame's joints."""
        knuckles = (joints_px[INDEX_MCP] + joints_px[RING_MCP]) / 2
        up = (knuckles + joints_px[MIDDLE_MCP]) / 2 - joints_px[WRIST]
        angle = float(np.arctan2(up[0], -up[1]))
        turn = rotation(angle)
        followed = joints_px[list(FOLLOWED)]
        middle = (followed.min(0) + followed.max(0)) / 2
        turned = (followed - middle) @ turn
        low, high = turned.min(0), turned.max(0)
        size = high - low
        x, y = middle + turn @ ((low + high) / 2 + [0.0, JOINTS_SHIFT * size[1]])
        side = JOINTS_ZOOM * max(float(size.max()), SMALLEST_SIDE)
        return cls(float(x), float(y), side, angle)

    @classmethod
    def of_palm(
        cls,
        box: tuple[float, float, float, float],
        wrist: Float[np.ndarray, "2"],
        middle_mcp: Float[np.ndarray, "2"],
    ) -> Region:
        """The initial region around a palm's box (middle, width, height)."""
        x, y, width, height = box
        up = middle_mcp - wrist
        angle = float(np.arctan2(up[0], -up[1]))
        x, y = np.array([x, y]) + rotation(angle) @ [0.0, PALM_SHIFT * height]
        return cls(float(x), float(y), PALM_ZOOM * max(width, height, SMALLEST_SIDE), angle)

    def distance(self, other: Region) -> float:
        """The distance between the two middles, in pixels."""
        return float(np.hypot(self.x - other.x, self.y - other.y))

    def changed(
        self, turn: float = 0.0, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)
    ) -> Region:
        """Rotates by an angle, scales by `zoom`, and shifts by shares of the side in its frame."""
        x, y = np.array([self.x, self.y]) + rotation(self.angle) @ (np.array(shift) * self.side)
        return Region(float(x), float(y), self.side * zoom, self.angle + turn)

    def to_view(self, px: int = PX) -> Float[np.ndarray, "2 3"]:
        """The affine map from the picture's pixels to those of the network's picture."""
        scale = px / self.side
        linear = rotation(self.angle).T * scale
        offset = np.full(2, px / 2 - 0.5) - linear @ [self.x, self.y]
        return np.column_stack([linear, offset])

    def to_picture(self, screen: Float[np.ndarray, "n 2"], px: int = PX) -> np.ndarray:
        """Converts the network's positions, from 0 to px, to the picture's pixels."""
        return (screen - px / 2) * (self.side / px) @ rotation(self.angle).T + [self.x, self.y]

    def to_screen(self, joints_px: Float[np.ndarray, "n 2"], px: int = PX) -> np.ndarray:
        """The inverse of to_picture: the network's positions for points on the picture."""
        return (joints_px - [self.x, self.y]) @ rotation(self.angle) * (px / self.side) + px / 2

    def to_camera(self, world: Float[np.ndarray, "n 3"]) -> np.ndarray:
        """Rotates 3D joints from the region's frame to the picture's."""
        turned = world.copy()
        turned[:, :2] = world[:, :2] @ rotation(self.angle).T
        return turned

    def from_camera(self, joints: Float[np.ndarray, "n 3"]) -> np.ndarray:
        """The inverse of to_camera."""
        turned = joints.copy()
        turned[:, :2] = joints[:, :2] @ rotation(self.angle)
        return turned

    def corner_and_size(self) -> tuple[float, float, float, float]:
        """x, y of the upper left corner, width, height of the square before rotation."""
        return self.x - self.side / 2, self.y - self.side / 2, self.side, self.side

    def corners(self) -> Float[np.ndarray, "4 2"]:
        """The corners of the rotated square on the picture."""
        half = self.side / 2
        square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
        return square @ rotation(self.angle).T + [self.x, self.y]


def rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    """The rotation from a region's axes to the picture's."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def view_of(picture: Picture, region: Region, px: int = PX) -> Shaped[np.ndarray, "px px 3"]:
    """The network's view of a region; the picture's edge is replicated outside.

    High-resolution regions are averaged first, whereas MediaPipe samples them.
    """
    to_view = region.to_view(px)
    part, to_part = _shrunken_part(picture, region, px)
    linear = np.vstack([to_view, [0, 0, 1]]) @ np.linalg.inv(to_part)
    return cv2.warpAffine(
        part, linear[:2], (px, px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _shrunken_part(
    picture: Picture, region: Region, px: int
) -> tuple[Picture, Float[np.ndarray, "3 3"]]:
    """Crops the part of the picture that a region can show, and downscales it by an integer factor.

    Returns:
        The part, and the homography from the picture's pixels to the part's.
    """
    height, width = picture.shape[:2]
    corners = region.corners()
    (left, top), (right, bottom) = corners.min(0) - 2, corners.max(0) + 3

    def span(first: float, last: float, size: int) -> tuple[int, int]:
        low = int(np.clip(first, 0, size - 1))
        return low, int(np.clip(last, low + 1, size))

    (x0, x1), (y0, y1) = span(left, right, width), span(top, bottom, height)
    shrink = max(int(region.side / (FINE * px)), 1)
    columns, rows = (max(length // shrink, 1) for length in (x1 - x0, y1 - y0))
    part = picture[y0 : y0 + rows * shrink, x0 : x0 + columns * shrink]
    if shrink > 1:
        part = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    half, scale = 0.5 / shrink - 0.5, 1 / shrink
    offset = [[scale, 0, half - x0 * scale], [0, scale, half - y0 * scale], [0, 0, 1.0]]
    return np.ascontiguousarray(part), np.array(offset)
