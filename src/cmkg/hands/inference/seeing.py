"""What the network sees of a box in a picture of any size, and the way back to its pixels.

As for every sample (geometry.py) the box is seen by a virtual camera that looks at its middle.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from .. import geometry
from ..skeleton import MIDDLE_MCP, WRIST

Side = Literal["right", "left"]
Direction = tuple[float, float]
Matrix = Float[np.ndarray, "3 3"]
Points = Float[np.ndarray, "21 2"]
Picture = Shaped[np.ndarray, "h w 3"]

FOCAL = 1.2  # of a picture's longer side, where nobody gives the camera: 45 degrees across
BIGGER, SMALLER = 1.6, 0.9  # times, from one look to the next at most
LOOSE = 1.2  # times the protocol's box: a student is less lost in too large a box than in too small
SAME_HAND = 0.5  # of the smaller box
UP: Direction = (0.0, -1.0)
STILL = 0.85  # overlap of two boxes after which nothing is to be gained
SAME_WAY = 0.97  # cosine of two directions, likewise
FINE = 1.5  # pixels of the picture for each of the network's, before they are averaged
REACH = 0.75  # of a box's side to each side of its middle: what a turned camera can see of it


class Box(NamedTuple):
    """A square on the picture, in pixels; it may leave the picture."""

    x: float
    """Of its middle."""
    y: float
    side: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """The square of a rectangle given by its upper left corner and size."""
        return cls(x + width / 2, y + height / 2, max(width, height))

    @classmethod
    def of_joints(cls, joints_px: Points) -> Box:
        """The protocol's box around 21 joints: geometry.crop_box."""
        (x, y), side = geometry.crop_box(joints_px)
        return cls(float(x), float(y), side)

    def loosened(self) -> Box:
        """LOOSE times as large."""
        return self._replace(side=LOOSE * self.side)

    def corner_and_size(self) -> tuple[float, float, float, float]:
        """x, y of the upper left corner, width, height."""
        return self.x - self.side / 2, self.y - self.side / 2, self.side, self.side

    def towards(self, other: Box) -> Box:
        """The other box, at most BIGGER times as large as this one, at least SMALLER times."""
        side = min(max(other.side, self.side * SMALLER), self.side * BIGGER)
        return Box(other.x, other.y, side)

    def overlap(self, other: Box) -> float:
        """Intersection over union."""
        shared = self._shared(other)
        return shared / (self.side**2 + other.side**2 - shared)

    def is_same_hand(self, other: Box) -> bool:
        """Whether one of the two lies half in the other: two of one hand may differ in size."""
        return self._shared(other) > SAME_HAND * min(self.side, other.side) ** 2

    def _shared(self, other: Box) -> float:
        half, widest = (self.side + other.side) / 2, min(self.side, other.side)
        width = min(half - abs(self.x - other.x), widest)
        height = min(half - abs(self.y - other.y), widest)
        return max(width, 0.0) * max(height, 0.0)


class Place(NamedTuple):
    """Where and how to look: a box, whose hand, and which way up.

    towards: x and y of the direction on the picture, of length 1, that is up in what the network
    sees: from the wrist to the middle MCP, for a student that sees hands upright.
    """

    box: Box
    side: Side
    towards: Direction = UP

    def turned(self, angle_deg: float, zoom: float) -> Place:
        """The same place, turned by an angle and zoomed."""
        c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
        x, y = self.towards
        way = float(c * x - s * y), float(s * x + c * y)
        return Place(self.box._replace(side=self.box.side / zoom), self.side, way)

    def agrees(self, other: Place) -> bool:
        """Whether looking there, too, would show about the same."""
        cosine = self.towards[0] * other.towards[0] + self.towards[1] * other.towards[1]
        return self.box.overlap(other.box) > STILL and cosine > SAME_WAY


def direction_of(joints_px: Points) -> Direction:
    """From the wrist to the middle MCP, of length 1; up where they are in one place."""
    x, y = joints_px[MIDDLE_MCP] - joints_px[WRIST]
    length = float(np.hypot(x, y))
    return (float(x) / length, float(y) / length) if length > 1e-6 else UP


class View(NamedTuple):
    """A box as the network sees it.

    picture: uint8. K: of the virtual camera. R: virtual frame = R @ camera frame of the picture,
    which is mirrored where the hand is a left one. to_view: the homography from the picture's
    pixels to this one's.
    """

    picture: Shaped[np.ndarray, "px px 3"]
    K: Matrix
    R: Matrix
    to_view: Matrix
    mirrored: bool

    def to_picture(self, uv: Points) -> Points:
        """Places on the view, whose sides are -1 and 1, in the picture's pixels."""
        px = len(self.picture)
        points = np.column_stack([((uv + 1) * px - 1) / 2, np.ones(len(uv))])
        h = points @ np.linalg.inv(self.to_view).T
        return h[:, :2] / h[:, 2:]

    def to_camera(self, joints: Float[np.ndarray, "21 3"]) -> Float[np.ndarray, "21 3"]:
        """Joints from the virtual camera's frame to the picture's own camera's."""
        turned = joints @ self.R
        return turned * np.array([-1.0, 1.0, 1.0]) if self.mirrored else turned


def assumed_camera(picture: Picture) -> Matrix:
    """K of a usual lens whose axis passes through the picture's middle."""
    height, width = picture.shape[:2]
    focal = FOCAL * max(height, width)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def look_at(picture: Picture, place: Place, K: Matrix, px: int) -> View:
    """The place, px pixels a side, a left hand as a right one; beyond the picture its edge repeats.

    Args:
        picture: uint8 RGB.
        place: where to look.
        K: of the picture's camera.
        px: pixels a side.
    """
    box, mirrored = place.box, place.side == "left"
    flip, camera = np.eye(3), K.copy()
    centre = np.array([box.x, box.y])
    if mirrored:
        last = picture.shape[1] - 1
        flip = np.array([[-1.0, 0, last], [0, 1, 0], [0, 0, 1]])
        camera[0, 2] = last - K[0, 2]
        centre[0] = last - box.x
    K_view, R = geometry.virtual_camera(camera, centre, box.side, px)
    x, y = -place.towards[0] if mirrored else place.towards[0], place.towards[1]
    R = np.array([[-y, x, 0], [-x, -y, 0], [0, 0, 1]]) @ R
    to_view = geometry.homography(camera, R, K_view) @ flip
    region, to_region = _shrunken_region(picture, box, px)
    seen = cv2.warpPerspective(
        region,
        to_view @ np.linalg.inv(to_region),
        (px, px),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return View(seen, K_view, R, to_view, mirrored)


def _shrunken_region(
    picture: Picture, box: Box, px: int
) -> tuple[Shaped[np.ndarray, "h2 w2 3"], Matrix]:
    """The part of the picture that the box can show, averaged to fewer pixels where it has many.

    Returns:
        It, and the homography from the picture's pixels to its.
    """
    height, width = picture.shape[:2]
    reach = REACH * box.side

    def span(middle: float, size: int) -> tuple[int, int]:
        first = int(np.clip(middle - reach, 0, size - 1))
        return first, int(np.clip(middle + reach, first + 1, size))

    (x0, x1), (y0, y1) = span(box.x, width), span(box.y, height)
    shrink = max(int(box.side / (FINE * px)), 1)  # whole pixels are averaged the fastest
    columns, rows = (max(length // shrink, 1) for length in (x1 - x0, y1 - y0))
    region = picture[y0 : y0 + rows * shrink, x0 : x0 + columns * shrink]
    if shrink > 1:
        region = cv2.resize(region, (columns, rows), interpolation=cv2.INTER_AREA)
    half = 0.5 / shrink - 0.5
    scale = 1 / shrink
    offset = [[scale, 0, half - x0 * scale], [0, scale, half - y0 * scale], [0, 0, 1.0]]
    return np.ascontiguousarray(region), np.array(offset)
