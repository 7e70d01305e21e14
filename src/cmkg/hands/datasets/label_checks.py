"""Cross-checks redundant annotations, for `cmkg data verify`.

Each check reports at most one sentence per frame, prefixed by the location of the labels. The
thresholds were calibrated on 40,000 rendered hands in free poses and 460 photographs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from .. import geometry
from ..skeleton import BONES, JOINTS, WRIST
from .sample import Frame, Joints

UV_PX = 2.0  # largest reprojection error; RHD's genuine files reach 0.04
DEPTH_MM = 60.0  # limit for the nearest quarter of a hand's joints; free poses: 22 at p99
ON_MASK = 0.5  # smallest share of the joints on the hand's mask, which is dilated by
MASK_WIDER = 0.02  # this share of the picture's width
LARGE_MASK = 0.01  # a hand that covers this share of a picture surely has visible joints
FEWEST_MEASURED = 5
# Length of each of skeleton.BONES (middle of two annotators' means), and the allowed ratio to it.
USUAL_MM = np.array(
    [41, 36, 37, 29, 102, 35, 25, 26, 96, 43, 29, 25, 91, 39, 28, 26, 92, 27, 19, 20]
)
BONE_RATIOS = (0.3, 2.8)
TO_BASES = [4, 8, 12, 16]  # the bones from the wrist to the fingers' bases
LONGEST_TO_BASES = 1.9  # limit on the ratio of TO_BASES; fingers stored tip to base exceed it
# (tips - bases) along (index MCP - wrist) x (little MCP - wrist), in finger lengths, mean of four
# fingers: +0.3 for a typical right hand, below this for 1 in 1,000 right hands in free poses.
WRONG_CURL = -0.2
# The variable parts of findings of one kind: numbers and joints.
VARYING = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?|" + "|".join(JOINTS))
# A joint bends by at most 115 degrees; swapping two joints turns a bone by nearly 180. None of
# 5,000 rendered hands in free poses and 460 photographs has three such fingers.
RUNS_BACK = -0.8
FEWEST_FINGERS = 3
BASES, TIPS = [5, 9, 13, 17], [8, 12, 16, 20]


def disagreements(
    frame: Frame,
    name: str,
    uv: Float[np.ndarray, "21 2"] | None = None,
    mask: Shaped[np.ndarray, "h w"] | None = None,
) -> list[str]:
    """Lists the contradictions among the annotations of a labeled frame.

    Args:
        frame: the picture with its joints, camera, side and depth.
        name: the prefix of each sentence.
        uv: the dataset's own joint positions on the picture.
        mask: the dataset's own mask of this hand; positive on the hand.
    """
    findings = [
        _projection(frame, uv),
        _on_mask(frame, mask),
        _at_depth(frame),
        *_proportions(frame.joints_mm),
        _folded(frame.joints_mm),
        _side(frame),
    ]
    return [f"{name}: {sentence}" for sentence in findings if sentence]


def _projection(frame: Frame, uv: Float[np.ndarray, "21 2"] | None) -> str:
    if uv is None:
        return ""
    apart = np.linalg.norm(geometry.project(frame.joints_mm, frame.K) - uv, axis=1)
    worst = int(apart.argmax())
    if apart[worst] <= UV_PX:
        return ""
    return (
        f"the joints and K project {JOINTS[worst]} {apart[worst]:.1f} px from where the file "
        f"puts it on the picture; expected at most {UV_PX:g} px (is K this picture's?)"
    )


def _on_mask(frame: Frame, mask: Shaped[np.ndarray, "h w"] | None) -> str:
    if mask is None:
        return ""
    if not (mask > 0).any():
        return "the mask shows no hand; expected it where the joints are"
    if not frame.visible.any() and (mask > 0).mean() > LARGE_MASK:
        return (
            "the mask shows the hand, and none of its joints is marked visible; expected some (are "
            "joints and mask of one hand?)"
        )
    reach = 2 * max(round(MASK_WIDER * mask.shape[1]), 1) + 1
    wide = cv2.dilate((mask > 0).astype(np.uint8), np.ones((reach, reach), np.uint8))
    _, x, y = _visible_pixels(frame, mask.shape)
    on = wide[y, x] > 0
    if not len(on) or on.mean() >= ON_MASK:
        return ""
    return (
        f"{on.sum()} of {len(on)} visible joints are on the hand's mask; expected "
        f"{ON_MASK:.0%} or more (are joints and mask of one hand?)"
    )


def _visible_pixels(frame: Frame, size: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Selects the joints that are visible and inside the picture, with their columns and rows."""
    x, y = np.rint(geometry.project(frame.joints_mm, frame.K)).astype(int).T
    inside = frame.visible & (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    return inside, x[inside], y[inside]


def _at_depth(frame: Frame) -> str:
    depth_mm = frame.depth_mm
    if depth_mm is None:
        return ""
    if not depth_mm.any():
        return "the depth map measures nothing; expected depth where the hand is"
    inside, x, y = _visible_pixels(frame, depth_mm.shape)
    measured = depth_mm[y, x].astype(float)
    off = (measured - frame.joints_mm[inside, 2])[measured > 0]
    if len(off) < FEWEST_MEASURED or np.quantile(np.abs(off), 0.25) <= DEPTH_MM:
        return ""
    return (
        f"depth at the joints is {np.median(off):+.0f} mm from their z; expected within "
        f"{DEPTH_MM:g} mm (bytes, unit, or not registered to the picture?)"
    )


def _proportions(joints_mm: Joints) -> list[str]:
    parents, children = np.array(BONES).T
    ratios = np.linalg.norm(joints_mm[children] - joints_mm[parents], axis=1) / USUAL_MM
    relative = ratios / np.median(ratios)
    low, high = BONE_RATIOS
    findings = []
    if ((relative < low) | (relative > high)).any():
        worst = int(np.abs(np.log(np.maximum(relative, 1e-9))).argmax())
        findings.append(
            f"the bone from {JOINTS[parents[worst]]} to {JOINTS[children[worst]]} is "
            f"{relative[worst]:.2g} times a usual one beside this hand's others; expected {low:g} "
            f"to {high:g} (are the joints in order?)"
        )
    elif relative[TO_BASES].mean() > LONGEST_TO_BASES:
        findings.append(
            "the fingers' bases are too far from the wrist for the other bones; expected each "
            "finger from its base to its tip (are the joints in order?)"
        )
    across = joints_mm[BASES[3]] - joints_mm[BASES[0]]
    if (np.diff(joints_mm[BASES] @ across) <= 0).any():
        findings.append(
            "the fingers' bases do not lie side by side from index to little; expected thumb, "
            "index, middle, ring, little (are the fingers in order?)"
        )
    return findings


def _folded(joints_mm: Joints) -> str:
    """Detects fingers that double back because two of their joints are swapped."""
    fingers = joints_mm[1:].reshape(5, 4, 3)[1:]  # the thumb's joints bend differently
    bones = np.diff(fingers, axis=1)
    bones = bones / np.linalg.norm(bones, axis=2, keepdims=True).clip(1e-9)
    straight = (bones[:, 1:] * bones[:, :-1]).sum(2)  # cosine between consecutive bones
    back = (straight < RUNS_BACK).any(1)
    if back.sum() < FEWEST_FINGERS:
        return ""
    return (
        f"{back.sum()} fingers run back along themselves; expected each from its base to its tip "
        "(are two joints of each exchanged?)"
    )


def curl(joints_mm: Joints) -> float:
    """Measures how far the fingers bend towards (index MCP - wrist) x (little MCP - wrist).

    The value is the mean of four fingers in typical finger lengths. It is positive for right hands,
    unless fingers are bent backwards.
    """
    palm = joints_mm[[BASES[0], BASES[3]]] - joints_mm[WRIST]
    normal = np.cross(*palm)
    parents, children = np.array(BONES).T
    lengths = np.linalg.norm(joints_mm[children] - joints_mm[parents], axis=1)
    finger = 86 * np.median(lengths / USUAL_MM)  # a typical finger's length beyond its base, mm
    along = (joints_mm[TIPS] - joints_mm[BASES]) @ normal
    return float(along.mean() / max(np.linalg.norm(normal) * finger, 1e-9))


def _side(frame: Frame) -> str:
    bent = curl(frame.joints_mm) * (-1 if frame.left else 1)
    if bent >= WRONG_CURL:
        return ""
    given, seen = ("left", "right") if frame.left else ("right", "left")
    return (
        f"the fingers bend as a {seen} hand's, the file says {given}; expected one side (left for "
        "right, a mirrored picture, or fingers out of order?)"
    )


# ---- grouping findings across frames -------------------------------------------------------------
def grouped(findings: Iterable[str]) -> list[str]:
    """Merges findings of one kind into the first one and a count of the others.

    >>> grouped(["a/1.png: no such file", "a/2.png: no such file", "b: empty"])
    ['a/1.png: no such file (and 1 more like it)', 'b: empty']
    """
    kinds: dict[str, list[str]] = {}
    for sentence in dict.fromkeys(findings):
        kinds.setdefault(VARYING.sub("#", sentence), []).append(sentence)
    return [
        first[0] if len(first) == 1 else f"{first[0]} (and {len(first) - 1:,} more like it)"
        for first in kinds.values()
    ]
