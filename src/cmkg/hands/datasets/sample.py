"""What every dataset yields, and the one protocol by which a dataset's frame becomes it.

A left hand is mirrored to a right one. The box: centre = middle MCP, side = twice the largest
extent of the visible joints from it (geometry.crop_box). The sample is what a virtual camera sees
that looks at the box's centre; it stores `margin` boxes, so that augmentation finds pixels to turn
in. Root and scale are the true wrist and the true bone |middle MCP - middle PIP|;
network.augment.network_inputs applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from ...errors import InputError
from .. import geometry
from ..skeleton import MIDDLE_MCP, MIDDLE_PIP

EVERY_JOINT = np.ones(21, bool)
FAR_OUTSIDE = 1.0  # a projection may leave the picture by this share of its size, as in RHD
BONE_MM = (5.0, 120.0)  # the range of a hand's middle bone

Joints = Float[np.ndarray, "21 3"]
Matrix = Float[np.ndarray, "3 3"]
Visible = Bool[np.ndarray, "21"]
Size = tuple[int, int]  # height, width


def pixels_to_store(px: int) -> int:
    """Side of the stored picture of which a network reads px: a margin of 1.25 boxes, even."""
    return -(-px * 5 // 4 // 2) * 2


@dataclass
class Sample:
    """One hand, right or mirrored to right, in the frame of its virtual camera (see geometry.py).

    K: of the virtual camera. rotation: virtual frame = rotation @ camera frame (of the mirrored
    image, if mirrored). depth: uint16 mm, 0 = not measured.
    """

    rgb: Shaped[np.ndarray, "px px 3"]
    joints_mm: Joints
    K: Matrix
    rotation: Matrix
    depth: Shaped[np.ndarray, "px px"] | None = None
    mirrored: bool = False  # it was a left hand
    visible: Visible = field(default_factory=EVERY_JOINT.copy)
    labelled: bool = True  # the joints are a label; else assumed, to place box and depth


@dataclass
class Frame:
    """One hand as its dataset gives it: a whole picture, and the joints in its camera's frame."""

    rgb: Shaped[np.ndarray, "h w 3"]
    joints_mm: Joints  # in our order
    K: Matrix
    left: bool = False
    visible: Visible = field(default_factory=EVERY_JOINT.copy)
    depth_mm: Shaped[np.ndarray, "h w"] | None = None
    labelled: bool = True  # else the joints are assumed


@runtime_checkable
class Dataset(Protocol):
    """What can be packed."""

    def __len__(self) -> int:
        """How many samples."""

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """The samples of these numbers; each depends on its number alone."""

    def describe(self) -> dict[str, Any]:
        """What it is, as plain JSON."""


Reading = Callable[[], np.ndarray]


def read_once(read: Callable[[int], np.ndarray], i: int) -> Reading:
    """Reads a part of a sample when it is first asked for, for all checks of the sample."""
    return cache(partial(read, i))


class Recording(Dataset, Protocol):
    """A dataset in its published files: what `cmkg data inspect` and `verify` need beside."""

    def name(self, i: int) -> str:
        """Where a sample's labels stand: file and place."""

    def files(self, i: int) -> list[Path]:
        """The files of a sample; its picture is the first."""

    def label_files(self) -> list[Path]:
        """The files of labels that are no sample's own."""

    def frame(self, i: int) -> Frame:
        """The frame of a sample, as its dataset gives it."""

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of the whole: each returns sentences, or raises one."""

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample."""

    def checked_count(self) -> int:
        """How many samples can be checked, also where the set is not complete."""


def crop_frame(
    frame: Frame,
    px: int,
    margin: float,
    limit: Callable[[float], float] | None = None,
    border: int = cv2.BORDER_CONSTANT,
) -> Sample:
    """The Sample of a Frame by the protocol above.

    Args:
        frame: as its dataset gives it.
        px: pixels a side of the stored picture.
        margin: boxes that it shows.
        limit: changes the box's side, in pixels: geometry.reference_side.
        border: what lies outside the picture.
    """
    rgb, joints, K, depth = frame.rgb, frame.joints_mm, frame.K, frame.depth_mm
    if frame.left:
        depth = None if depth is None else np.ascontiguousarray(depth[:, ::-1])
        rgb, joints, K = geometry.mirror(rgb, joints, K)
    centre, side = geometry.crop_box(geometry.project(joints, K), frame.visible)
    side = limit(side) if limit else side or geometry.CROP_UNSEEN_PX
    K_virtual, R = geometry.virtual_camera(K, centre, side, px, margin)
    picture = geometry.warp(rgb, geometry.homography(K, R, K_virtual), px, border)
    depth = None if depth is None else geometry.warp_depth(depth, K, R, K_virtual, px)
    placed = joints @ R.T
    return Sample(picture, placed, K_virtual, R, depth, frame.left, frame.visible, frame.labelled)


def implausible(joints_mm: Joints, K: Matrix, size: Size, name: str) -> list[str]:
    """What cannot be true of a frame's labels, one sentence each; `name` begins them."""
    if not (np.isfinite(joints_mm).all() and np.isfinite(K).all()):
        return [f"{name}: a joint or the camera is not finite; expected numbers"]
    found = []
    if min(K[0, 0], K[1, 1]) < geometry.FOCAL_PX[0]:
        found.append(
            f"{name}: the camera's focal lengths are {K[0, 0]:g} and {K[1, 1]:g}; expected "
            "positive pixels"
        )
    elif not np.allclose(K[2], [0, 0, 1]):
        found.append(f"{name}: the last row of the camera K is {K[2].tolist()}; expected [0, 0, 1]")
    elif not geometry.is_camera(K):
        found.append(f"{name}: the camera K is {K.tolist()}; expected [[fx, s, cx], [0, fy, cy], …")
    behind = joints_mm[:, 2] <= 0
    if behind.any():
        joint = np.flatnonzero(behind)[0]
        found.append(
            f"{name}: joint {joint} is behind the camera (z = {joints_mm[joint, 2]:g} mm); "
            "expected z > 0"
        )
    if found:
        return found
    uv = geometry.project(joints_mm, K)
    height, width = size
    room = np.array([width, height]) * FAR_OUTSIDE
    outside = ((uv < -room) | (uv > np.array([width, height]) + room)).any(1)
    if outside.any():
        joint = np.flatnonzero(outside)[0]
        u, v = uv[joint]
        found.append(
            f"{name}: joint {joint} projects to ({u:.0f}, {v:.0f}), far outside the {width} x "
            f"{height} picture; expected joints and camera of this picture"
        )
    bone = float(np.linalg.norm(joints_mm[MIDDLE_MCP] - joints_mm[MIDDLE_PIP]))
    low, high = BONE_MM
    if not low < bone < high:
        found.append(
            f"{name}: |middle MCP - middle PIP| is {bone:.3g} mm; expected a hand's bone, {low:g} "
            f"to {high:g} mm (is the unit right?)"
        )
    return found


def refuse_implausible(joints_mm: Joints, K: Matrix, size: Size, name: str) -> None:
    """Raises InputError with the first thing that `implausible` finds."""
    if found := implausible(joints_mm, K, size, name):
        raise InputError(found[0])
