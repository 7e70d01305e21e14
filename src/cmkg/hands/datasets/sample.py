"""What every dataset yields, and the one protocol by which a dataset's frame becomes it.

A left hand is mirrored to a right one. The box: centre = middle MCP, side = twice the largest
extent of the visible joints from it (geometry.crop_box). The sample is what a virtual camera
sees that looks at the box's centre; it stores `margin` boxes, so that augmentation finds pixels
to turn in. Root and scale are the true wrist and the true bone |middle MCP - middle PIP|;
augment.network_inputs applies them.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from ...errors import InputError
from .. import geometry

EVERY_JOINT = np.ones(21, bool)
# a projection may leave the picture by this share of its size; the reference crops of RHD do
FAR_OUTSIDE = 1.0


@dataclass
class Sample:
    """One hand, right or mirrored to right, in the frame of its virtual camera (see
    geometry.py)."""

    rgb: np.ndarray  # (px, px, 3) uint8
    joints_mm: np.ndarray  # (21, 3)
    K: np.ndarray  # (3, 3) of the virtual camera
    # (3, 3): virtual frame = rotation @ camera frame (of the mirrored image, if mirrored)
    rotation: np.ndarray
    depth: np.ndarray | None = None  # (px, px) uint16 mm, 0 = not measured
    mirrored: bool = False  # it was a left hand
    visible: np.ndarray = field(default_factory=EVERY_JOINT.copy)  # (21,) bool


@dataclass
class Frame:
    """One hand as its dataset gives it: a whole picture, and the joints in that picture's camera
    frame."""

    rgb: np.ndarray  # (H, W, 3) uint8
    joints_mm: np.ndarray  # (21, 3) in our order
    K: np.ndarray  # (3, 3)
    left: bool = False
    visible: np.ndarray = field(default_factory=EVERY_JOINT.copy)  # (21,) bool
    depth_mm: np.ndarray | None = None  # (H, W) uint16


def cropped(frame, px, margin, limit=None, border=cv2.BORDER_CONSTANT):
    """The Sample of a Frame by the protocol above. limit: a function of the box's side, in
    pixels (RHD's reference)."""
    rgb, joints, K, depth = frame.rgb, frame.joints_mm, frame.K, frame.depth_mm
    if frame.left:
        depth = None if depth is None else np.ascontiguousarray(depth[:, ::-1])
        rgb, joints, K = geometry.mirror(rgb, joints, K)
    centre, side = geometry.crop_box(geometry.project(joints, K), frame.visible)
    K_virtual, R = geometry.virtual_camera(K, centre, limit(side) if limit else side, px, margin)
    picture = geometry.warp(rgb, geometry.homography(K, R, K_virtual), px, border)
    depth = None if depth is None else geometry.warp_depth(depth, K, R, K_virtual, px)
    return Sample(picture, joints @ R.T, K_virtual, R, depth, frame.left, frame.visible)


def implausible(joints_mm, K, size, name):
    """What cannot be true of a frame's labels, one sentence each. size: (height, width) of its
    picture."""
    if not (np.isfinite(joints_mm).all() and np.isfinite(K).all()):
        return [f"{name}: a joint or the camera is not finite; expected numbers"]
    found = []
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        found.append(
            f"{name}: the camera's focal lengths are {K[0, 0]:g} and {K[1, 1]:g}; expected "
            "positive pixels"
        )
    if not np.allclose(K[2], [0, 0, 1]):
        found.append(f"{name}: the last row of the camera K is {K[2].tolist()}; expected [0, 0, 1]")
    if (behind := joints_mm[:, 2] <= 0).any():
        found.append(
            f"{name}: joint {np.flatnonzero(behind)[0]} is behind the camera (z = "
            f"{joints_mm[behind][0, 2]:g} mm); expected z > 0"
        )
    if found:
        return found
    uv = geometry.project(joints_mm, K)
    room = np.array(size[::-1]) * FAR_OUTSIDE
    if (outside := ((uv < -room) | (uv > np.array(size[::-1]) + room)).any(1)).any():
        j = np.flatnonzero(outside)[0]
        found.append(
            f"{name}: joint {j} projects to ({uv[j, 0]:.0f}, {uv[j, 1]:.0f}), far outside the "
            f"{size[1]} x {size[0]} picture; "
            "expected joints and camera of this picture"
        )
    bone = float(np.linalg.norm(joints_mm[9] - joints_mm[10]))
    if not 5 < bone < 120:
        found.append(
            f"{name}: |middle MCP - middle PIP| is {bone:.3g} mm; expected a hand's bone, 5 to "
            "120 mm (is the unit right?)"
        )
    return found


def refuse_implausible(joints_mm, K, size, name):
    """Raises InputError with the first thing that `implausible` finds."""
    if found := implausible(joints_mm, K, size, name):
        raise InputError(found[0])
