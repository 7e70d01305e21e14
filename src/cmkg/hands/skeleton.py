"""The 21 joints and the bones between them, in the order used throughout the project.

Order ("MANO order"): wrist, then thumb, index, middle, ring, little, each from base to tip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

FINGERS = ("thumb", "index", "middle", "ring", "little")
PARTS = ("base", "second", "third", "tip")
JOINTS = ("wrist", *(f"{finger} {part}" for finger in FINGERS for part in PARTS))
WRIST, INDEX_MCP, MIDDLE_MCP, MIDDLE_PIP, LITTLE_MCP = 0, 5, 9, 10, 17
TIPS = (4, 8, 12, 16, 20)

# (parent, child) of each bone, finger by finger from the wrist.
BONES = tuple(
    (WRIST if part == 0 else 4 * finger + part, 4 * finger + part + 1)
    for finger in range(5)
    for part in range(4)
)
FINGER_OF_BONE = tuple(bone // 4 for bone in range(20))
# Okabe-Ito hues, distinguishable for color-blind readers and in grayscale.
FINGER_COLOURS = ("#d55e00", "#e69f00", "#009e73", "#0072b2", "#cc79a7")

WRIST_TO_TIP = slice(8, 12)  # the middle finger's entries of BONES
# Ruler length from the middle finger's knuckle to its next joint, relative to the hand's length
# from the wrist to that finger's tip (Buryanov and Kotiuk, 2010: 45 mm of 192). Annotators put the
# knuckle elsewhere, but the hand's length is the same.
RULER_SHARE = 0.235

Array = TypeVar("Array", bound=Any)  # a NumPy array or a torch tensor


def bone_scale(joints: Array) -> Array:
    """The protocol's scale: |middle MCP - middle PIP| of joints (..., 21, 3), in their unit."""
    bone = joints[..., MIDDLE_MCP, :] - joints[..., MIDDLE_PIP, :]
    length: Array = (bone**2).sum(-1) ** 0.5
    return length


def retarget_matrix(
    from_lengths: Sequence[float] | np.ndarray, to_lengths: Sequence[float] | np.ndarray
) -> Float[np.ndarray, "21 21"]:
    """The linear map of wrist-relative joints to another convention's mean bone lengths.

    Annotators place the same joint ("wrist", "base of the finger") differently; the unit bone
    itself differs by up to 1.5x. The map uses mean bone lengths of both training splits.

    Args:
        from_lengths, to_lengths: (20,) each, of BONES, in units of |middle MCP - middle PIP|.
    """
    matrix = np.zeros((21, 21))
    matrix[WRIST, WRIST] = 1.0
    ratios = np.asarray(to_lengths) / np.asarray(from_lengths)
    for (parent, child), ratio in zip(BONES, ratios, strict=True):
        matrix[child] = matrix[parent]
        matrix[child, child] += ratio
        matrix[child, parent] -= ratio
    return matrix
