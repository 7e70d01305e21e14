"""The 21 joints and the bones between them, in the order used everywhere inside the project.

Order ("MANO order"): wrist, then thumb, index, middle, ring, little, each from base to tip.
"""

FINGERS = ("thumb", "index", "middle", "ring", "little")
JOINTS = (
    "wrist",
    *(f"{finger} {part}" for finger in FINGERS for part in ("base", "second", "third", "tip")),
)
WRIST, MIDDLE_MCP, MIDDLE_PIP = 0, 9, 10
TIPS = (4, 8, 12, 16, 20)

BONES = tuple(
    (WRIST if part == 0 else 4 * finger + part, 4 * finger + part + 1)
    for finger in range(5)
    for part in range(4)
)
FINGER_OF_BONE = tuple(i // 4 for i in range(20))
# Okabe-Ito hues: told apart by colour-blind readers and on grey prints.
FINGER_COLOURS = ("#d55e00", "#e69f00", "#009e73", "#0072b2", "#cc79a7")


def bone_scale(joints):
    """|middle MCP - middle PIP| of joints (..., 21, 3), in their unit: the protocol's global
    scale."""
    return ((joints[..., MIDDLE_MCP, :] - joints[..., MIDDLE_PIP, :]) ** 2).sum(-1) ** 0.5


def retarget_matrix(from_lengths, to_lengths):
    """The linear map (21, 21) on wrist-relative joints that gives each bone the other convention's
    mean length.

    Annotators place the same joint differently ("wrist", "base of the finger"): up to 1.5x in
    the very bone that is the unit. Mean bone lengths (20,) in bone units, measured on both
    training splits, carry a skeleton across.
    """
    import numpy as np

    matrix = np.zeros((21, 21))
    matrix[WRIST, WRIST] = 1.0
    for (parent, child), ratio in zip(
        BONES, np.asarray(to_lengths) / np.asarray(from_lengths), strict=True
    ):
        matrix[child] = matrix[parent]
        matrix[child, child] += ratio
        matrix[child, parent] -= ratio
    return matrix
