"""What a student's heatmaps say of their own mistakes: its confidence, fitted and looked at."""

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
# The boxes that photographs get are not the labels' own.
ROUGH = Augmentation(turn_deg=20.0, shift=0.08, zoom=0.15, colour=0.1, noise=0.0, erase=0.1)


class Judged(NamedTuple):
    """Of every joint: log of its heatmap's spread, and whether its place was right."""

    log_spread: Float[np.ndarray, " n"]
    is_near: Bool[np.ndarray, " n"]


@torch.no_grad()
def judge_joints(student: HandStudent, packed: Packed, numbers: range, seed: int = 0) -> Judged:
    """What a student says of these hands of a set in rough boxes, beside the truth."""
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
        off = (pose.uv - batch.uv).norm(dim=2)  # the sides are 2 apart
        near.append((off < 2 * NEAR).flatten())
    return Judged(torch.cat(spreads).double().numpy(), torch.cat(near).numpy())


def halves(packed: Packed) -> tuple[range, range]:
    """Numbers to fit the calibration on, and others to look at it."""
    middle = (len(packed) + 1) // 2
    return range(middle), range(middle, len(packed))


def judged_confidence(student: HandStudent, judged: Judged) -> Float[np.ndarray, " n"]:
    """The student's confidence of what was judged."""
    a, b = student.calibration
    return 1 / (1 + np.exp(-(a + b * judged.log_spread)))


def fit_calibration(judged: Judged) -> tuple[float, float]:
    """a and b of sigmoid(a + b log spread), by maximum likelihood."""
    x, y = judged.log_spread, judged.is_near.astype(float)

    def negative_log_likelihood(ab: np.ndarray) -> float:
        logit = ab[0] + ab[1] * x
        return float(np.mean(np.logaddexp(0, logit) - y * logit))

    found = minimize(negative_log_likelihood, np.array([0.0, -1.0]), method="Nelder-Mead")
    a, b = found.x
    return round(float(a), 4), round(float(b), 4)


def calibrated(student: HandStudent, packed: Packed) -> HandStudent:
    """The student with its confidence fitted on half of a set, and that set's mean bone."""
    calibration = fit_calibration(judge_joints(student, packed, halves(packed)[0]))
    bone_mm = round(float(bone_scale(np.array(packed.joints_mm)).mean()), 2)
    net = student.config
    again = HandStudent(  # anew: its arguments are what is saved with it
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
    """Joints of about one confidence: its mean, the share that was right, how many."""

    confidence: float
    share: float
    joints: int


def reliability(
    confidence: Float[np.ndarray, " n"], is_near: Bool[np.ndarray, " n"], bins: int = 10
) -> list[Bin]:
    """How often joints of each confidence were right; empty bins are left out."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        own = place == number
        if own.any():
            mean, share = confidence[own].mean(), is_near[own].mean()
            found.append(Bin(float(mean), float(share), int(own.sum())))
    return found


def calibration_error(found: list[Bin]) -> float:
    """Mean distance of confidence and share, weighted by the joints of each bin (ECE)."""
    total = sum(one.joints for one in found)
    return sum(one.joints * abs(one.confidence - one.share) for one in found) / total
