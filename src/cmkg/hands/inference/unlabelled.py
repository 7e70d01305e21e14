"""Locates the hand in unlabeled pairs of picture and depth.

Distillation needs the box, the wrist's depth and the upright direction, but no label. The bundled
network provides them, and the measured depth provides the size. These joints are packed as assumed,
and are never used as training targets or scored.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ..datasets.sample import Joints, Matrix
from .hand import Hand, Thresholds
from .hand_result import HandResult

UNDER_SKIN_MM = 8.0  # depth of a joint behind the measured surface


# A hand is known to be there, so the most likely candidate is accepted at any confidence.
THRESHOLDS = Thresholds(palm=0.05, presence=0.0)


@lru_cache(maxsize=1)
def _hand() -> Hand:
    return Hand.from_pretrained(thresholds=THRESHOLDS)


def assumed_joints(
    rgb: Shaped[np.ndarray, "h w 3"],
    K: Matrix,
    left: bool,
    box: tuple[float, ...] | None,
    depth_mm: Shaped[np.ndarray, "h w"] | None,
    name: str,
) -> Joints:
    """Predicts the joints with the hand network, in mm in the camera's frame.

    Args:
        rgb: the picture.
        K: its camera.
        left: whether it is a left hand.
        box: x, y, width, height around the hand; None searches the whole picture.
        depth_mm: determines the distance, and therefore the size, where it was measured.
        name: the prefix of error messages.

    Raises:
        InputError: no hand is found.
    """
    try:
        results = _hand()(rgb, known_side="left" if left else "right", box=box, K=K)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if not results:
        raise InputError(
            f"{name} has no label, and no hand is found in its picture; give its box (x, y, width, "
            "height), or leave the record out"
        )
    return at_measured_depth(results[0], depth_mm)


def at_measured_depth(
    result: HandResult, depth_mm: Shaped[np.ndarray, "h w"] | None
) -> Float[np.ndarray, "21 3"]:
    """Scales a hand to the measured depth at its joints, so that it grows with the distance."""
    assert result.wrist_mm is not None  # K was given
    joints = result.wrist_mm + result.joints_mm
    if depth_mm is None:
        return joints
    x, y = np.rint(result.joints_px).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < depth_mm.shape[1]) & (y < depth_mm.shape[0])
    measured = depth_mm[y[inside], x[inside]].astype(float)
    seen = measured > 0
    if not seen.any():
        return joints
    ratios = (measured[seen] + UNDER_SKIN_MM) / joints[inside, 2][seen]
    scaled: Joints = joints * np.median(ratios)
    return scaled
