"""Calibrates a student's confidence from its heatmaps, and measures the calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import open_frames
from ..network.augment import Augmentation
from ..network.hand_student import NEAR, HandStudent
from ..network.heatmaps import spread_of
from ..network.loader import Loader
from ..skeleton import WRIST_TO_TIP, bone_scale

BATCH = 128
# Boxes of photographs are less accurate than those from labels.
ROUGH = Augmentation(turn_deg=20.0, shift=0.08, zoom=0.15, colour=0.1, noise=0.0, erase=0.1)


class Judged(NamedTuple):
    """For each joint: the log of its heatmap's spread, and whether its place was correct."""

    log_spread: Float[np.ndarray, " n"]
    is_near: Bool[np.ndarray, " n"]


@torch.no_grad()
def judge_joints(student: HandStudent, packed: Packed, numbers: range, seed: int = 0) -> Judged:
    """Compares a student's predictions for these hands, in perturbed boxes, with the truth."""
    student.eval()
    packed.expect_labels()
    loader = Loader(
        open_frames(packed), student.px, augmentation=ROUGH, upright=student.config.upright
    )
    draws = torch.Generator().manual_seed(seed)
    spreads, near = [], []
    for at in range(0, len(numbers), BATCH):
        batch = loader.fetch(numbers[at : at + BATCH], draws)
        pose = student(batch.picture("rgb"))
        spreads.append(spread_of(pose.heatmaps).log().flatten())
        off = (pose.uv - batch.uv).norm(dim=2)  # the picture is 2 wide
        near.append((off < 2 * NEAR).flatten())
    return Judged(torch.cat(spreads).double().numpy(), torch.cat(near).numpy())


def halves(packed: Packed) -> tuple[range, range]:
    """The numbers for fitting the calibration, and those for evaluating it."""
    middle = (len(packed) + 1) // 2
    return range(middle), range(middle, len(packed))


def judged_confidence(student: HandStudent, judged: Judged) -> Float[np.ndarray, " n"]:
    """The student's confidence in the judged joints."""
    a, b = student.calibration
    return 1 / (1 + np.exp(-(a + b * judged.log_spread)))


def fit_calibration(judged: Judged) -> tuple[float, float]:
    """a and b of sigmoid(a + b log spread), by maximum likelihood."""
    x, y = judged.log_spread, judged.is_near.astype(float)

    def negative_log_likelihood(ab: np.ndarray) -> float:
        logit = ab[0] + ab[1] * x
        return float(np.mean(np.logaddexp(0, logit) - y * logit))

    optimum = minimize(negative_log_likelihood, np.array([0.0, -1.0]), method="Nelder-Mead")
    a, b = optimum.x
    return round(float(a), 4), round(float(b), 4)


def calibrated(student: HandStudent, packed: Packed) -> HandStudent:
    """The student with its confidence fitted on half of a set, and with the set's mean bone."""
    calibration = fit_calibration(judge_joints(student, packed, halves(packed)[0]))
    bone_mm = round(float(bone_scale(np.array(packed.joints_mm)).mean()), 2)
    net = student.config
    again = HandStudent(  # a new one, because its arguments are saved with it
        net.backbone,
        net.width,
        net.head,
        net.stem_stride,
        net.px,
        bone_mm,
        list(calibration),
        net.upright,
        round(sum(packed.bone_lengths[WRIST_TO_TIP]), 3),
    )
    again.load_state_dict(student.state_dict())
    return again.eval()


class Bin(NamedTuple):
    """Joints of similar confidence: the mean confidence, the share that is correct, the count."""

    confidence: float
    share: float
    joints: int


def reliability(
    confidence: Float[np.ndarray, " n"], is_near: Bool[np.ndarray, " n"], bins: int = 10
) -> list[Bin]:
    """The share of correct joints for each confidence bin; empty bins are omitted."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    filled = []
    for number in range(bins):
        in_bin = place == number
        if in_bin.any():
            mean, share = confidence[in_bin].mean(), is_near[in_bin].mean()
            filled.append(Bin(float(mean), float(share), int(in_bin.sum())))
    return filled


def calibration_error(found: list[Bin]) -> float:
    """Mean difference of confidence and share, weighted by the joints of each bin (ECE)."""
    total = sum(b.joints for b in found)
    return sum(b.joints * abs(b.confidence - b.share) for b in found) / total
