"""The sample that every dataset yields, and the protocol that turns a frame into a sample.

A left hand is mirrored to a right one. The box is centered on the middle MCP, and its side is twice
the largest distance of a visible joint from it along x or y (geometry.crop_box). The sample is the
view of a virtual camera that looks at the box's center. It covers `margin` boxes, so that
augmentation has pixels to rotate in. Root and scale are the true wrist and the true bone
|middle MCP - middle PIP|; network.augment.network_inputs applies them.
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
BONE_MM = (5.0, 120.0)  # plausible lengths of the bone |middle MCP - middle PIP|

Joints = Float[np.ndarray, "21 3"]
Matrix = Float[np.ndarray, "3 3"]
Visible = Bool[np.ndarray, "21"]
Size = tuple[int, int]  # height, width


def pixels_to_store(px: int) -> int:
    """Side of the stored picture for a network input of px pixels: 1.25 times, even, rounded up."""
    return -(-px * 5 // 4 // 2) * 2


@dataclass
class Sample:
    """One hand, right or mirrored to right, in the frame of its virtual camera (see geometry.py).

    K: intrinsics of the virtual camera. rotation: virtual frame = rotation @ camera frame (of the
    mirrored image, if mirrored). depth: uint16 mm, 0 = not measured.
    """

    rgb: Shaped[np.ndarray, "px px 3"]
    joints_mm: Joints
    K: Matrix
    rotation: Matrix
    depth: Shaped[np.ndarray, "px px"] | None = None
    mirrored: bool = False  # whether the hand was a left one
    visible: Visible = field(default_factory=EVERY_JOINT.copy)
    labelled: bool = True  # otherwise the joints are assumed, to place box and depth


@dataclass
class Frame:
    """One hand as its dataset provides it: the full picture and joints in the camera's frame."""

    rgb: Shaped[np.ndarray, "h w 3"]
    joints_mm: Joints  # in this project's order
    K: Matrix
    left: bool = False
    visible: Visible = field(default_factory=EVERY_JOINT.copy)
    depth_mm: Shaped[np.ndarray, "h w"] | None = None
    labelled: bool = True  # otherwise the joints are assumed


@runtime_checkable
class Dataset(Protocol):
    """A dataset that can be packed."""

    def __len__(self) -> int:
        """The number of samples."""

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number; each depends on its number alone."""

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""


Reading = Callable[[], np.ndarray]


def read_once(read: Callable[[int], np.ndarray], i: int) -> Reading:
    """Reads a part of a sample lazily and only once, for all checks of the sample."""
    return cache(partial(read, i))


class Recording(Dataset, Protocol):
    """A dataset in its published files, with what `cmkg data inspect` and `verify` need."""

    def name(self, i: int) -> str:
        """The location of a sample's labels: file and entry."""

    def files(self, i: int) -> list[Path]:
        """The files of a sample, the picture first."""

    def label_files(self) -> list[Path]:
        """Label files that samples share."""

    def frame(self, i: int) -> Frame:
        """The frame of a sample, as its dataset provides it."""

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of the whole dataset; each returns findings or raises InputError."""

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample."""

    def checked_count(self) -> int:
        """The number of samples that can be checked, even if the dataset is incomplete."""


def crop_frame(
    frame: Frame,
    px: int,
    margin: float,
    limit: Callable[[float], float] | None = None,
    border: int = cv2.BORDER_CONSTANT,
) -> Sample:
    """Crops a Frame to a Sample by the protocol above.

    Args:
        frame: as its dataset provides it.
        px: side of the stored picture in pixels.
        margin: side of the stored picture in boxes.
        limit: limits the box's side in pixels, as geometry.reference_side does.
        border: OpenCV's border mode outside the picture.
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
    """Lists implausible values in a frame's labels, one sentence each, prefixed by `name`."""
    if not (np.isfinite(joints_mm).all() and np.isfinite(K).all()):
        return [f"{name}: a joint or the camera is not finite; expected numbers"]
    findings = []
    if min(K[0, 0], K[1, 1]) < geometry.FOCAL_PX[0]:
        findings.append(
            f"{name}: the camera's focal lengths are {K[0, 0]:g} and {K[1, 1]:g}; expected "
            "positive pixels"
        )
    elif not np.allclose(K[2], [0, 0, 1]):
        findings.append(
            f"{name}: the last row of the camera K is {K[2].tolist()}; expected [0, 0, 1]"
        )
    elif not geometry.is_camera(K):
        findings.append(
            f"{name}: the camera K is {K.tolist()}; expected [[fx, s, cx], [0, fy, cy], …"
        )
    behind = joints_mm[:, 2] <= 0
    if behind.any():
        joint = np.flatnonzero(behind)[0]
        findings.append(
            f"{name}: joint {joint} is behind the camera (z = {joints_mm[joint, 2]:g} mm); "
            "expected z > 0"
        )
    if findings:
        return findings
    uv = geometry.project(joints_mm, K)
    height, width = size
    room = np.array([width, height]) * FAR_OUTSIDE
    outside = ((uv < -room) | (uv > np.array([width, height]) + room)).any(1)
    if outside.any():
        joint = np.flatnonzero(outside)[0]
        u, v = uv[joint]
        findings.append(
            f"{name}: joint {joint} projects to ({u:.0f}, {v:.0f}), far outside the {width} x "
            f"{height} picture; expected joints and camera of this picture"
        )
    bone = float(np.linalg.norm(joints_mm[MIDDLE_MCP] - joints_mm[MIDDLE_PIP]))
    low, high = BONE_MM
    if not low < bone < high:
        findings.append(
            f"{name}: |middle MCP - middle PIP| is {bone:.3g} mm; expected a hand's bone, {low:g} "
            f"to {high:g} mm (is the unit right?)"
        )
    return findings


def refuse_implausible(joints_mm: Joints, K: Matrix, size: Size, name: str) -> None:
    """Raises InputError with the first finding of `implausible`."""
    if findings := implausible(joints_mm, K, size, name):
        raise InputError(findings[0])
