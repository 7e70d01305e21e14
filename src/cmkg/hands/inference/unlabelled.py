"""Pairs of picture and depth that nobody has labelled: where the hand is, all the same.

Distillation needs their box, the wrist's depth and which way is up, not their label. They are taken
from the network that comes with cmkg, and the size from the measured depth; what it says is packed
as assumed, and never trained on or scored.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ..datasets.sample import Joints, Matrix
from .hand import Hand, Thresholds
from .hand_result import HandResult

UNDER_SKIN_MM = 8.0  # how far a joint lies behind the surface that depth is measured on


# Somebody says that there is a hand: the likeliest place is taken, however unlike one it looks.
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
    """Where the hand network sees the joints, mm in the camera's frame.

    Args:
        rgb: the picture.
        K: its camera.
        left: which hand.
        box: x, y, width, height around it; None looks in the whole picture.
        depth_mm: gives the distance, and so the size, where it was measured.
        name: begins the message.

    Raises:
        InputError: no hand is found.
    """
    try:
        found = _hand()(rgb, known_side="left" if left else "right", box=box, K=K)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if not found:
        raise InputError(
            f"{name} has no label, and no hand is found in its picture; give its box (x, y, width, "
            "height), or leave the record out"
        )
    return at_measured_depth(found[0], depth_mm)


def at_measured_depth(
    result: HandResult, depth_mm: Shaped[np.ndarray, "h w"] | None
) -> Float[np.ndarray, "21 3"]:
    """A hand as far away as the depth under its joints says: larger, where it is farther."""
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
