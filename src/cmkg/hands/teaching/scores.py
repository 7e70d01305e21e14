"""Measures how well hands are found in whole pictures, with or without comparison to labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ..inference.hand import SHARES, Hand
from ..inference.hand_files import USUAL_PALM_SCORE
from ..inference.hand_result import HandResult
from ..mediapipe.backend import Networks
from ..mediapipe.regions import Region
from ..metrics import procrustes
from ..skeleton import WRIST
from .frames import FROM_AFAR, Frames

SAMPLED, FOUND = 100, 0.95  # number of frames examined; share of them that should be found
BELOW = 0.8  # factor on the lowest score among them, as other frames may score lower
LOWEST = 0.05  # palm score below which everything counts as a palm
SAME_HAND = 0.5  # distance between centers, as a share of the label's region


class Answers(NamedTuple):
    """The prediction for each labeled hand; nan where none was found.

    joints_mm: relative to the wrist.
    """

    joints_px: Float[np.ndarray, "n 21 2"]
    joints_mm: Float[np.ndarray, "n 21 3"]
    is_right: Bool[np.ndarray, " n"]


class Scores(NamedTuple):
    """Means over the hands that were found. found, side: shares of all hands.

    px_percent: mean distance in the picture, in percent of the hand's extent.
    """

    hands: int
    found: float
    side: float
    epe_mm: float
    procrustes_mm: float
    px_percent: float

    def sentence(self) -> str:
        """A sentence for the user."""
        return (
            f"{self.epe_mm:.1f} mm, {self.procrustes_mm:.1f} after Procrustes, "
            f"{self.px_percent:.1f} % of the hand on the picture; found {100 * self.found:.0f} %, "
            f"right side {100 * self.side:.0f} %"
        )


def find_in_frames(
    hand: Hand, frames: Frames, advance: Callable[[], None] = lambda: None
) -> Answers:
    """Predictions for every frame's hand, detected independently in the whole picture."""
    joints_px = np.full((len(frames), 21, 2), np.nan)
    joints_mm = np.full((len(frames), 21, 3), np.nan)
    is_right = np.zeros(len(frames), bool)
    for number in range(len(frames)):
        K = frames.K[number]
        camera = None if K[0, 0] == FROM_AFAR[0, 0] else K
        hands = hand(frames.pictures[number], K=camera)
        best = nearest(hands, frames.joints_px[number])
        if best is not None:
            joints_px[number], joints_mm[number] = best.joints_px, best.joints_mm
            is_right[number] = best.side == "right"
        advance()
    return Answers(joints_px, joints_mm, is_right)


def nearest(found: list[HandResult], joints_px: Float[np.ndarray, "21 2"]) -> HandResult | None:
    """The hand at a label's place; None if there is none."""
    label = Region.of_joints(joints_px)

    def off(one: HandResult) -> float:
        return Region.of_joints(one.joints_px).distance(label) / label.side

    near = sorted((one for one in found if off(one) < SAME_HAND), key=off)
    return near[0] if near else None


class Findable(NamedTuple):
    """How well the untrained networks find hands.

    palm_score: the lowest palm score that finds nearly all hands in whole pictures.
    missed: share of the hands whose presence or side the landmark network gets wrong.
    """

    palm_score: float
    missed: float


def findable(networks: Networks, frames: Frames) -> Findable:
    """Examines up to SAMPLED labeled frames."""
    numbers = np.linspace(0, len(frames) - 1, min(SAMPLED, len(frames))).round().astype(int)
    scores, missed = [], 0
    for number in map(int, numbers):
        picture, joints_px = frames.pictures[number], frames.joints_px[number]
        label = Region.of_joints(joints_px)
        palms = [p for share in SHARES for p in networks.find_palms(picture, LOWEST, share)]
        near = [
            palm.score for palm in palms if palm.region.distance(label) < SAME_HAND * label.side
        ]
        scores.append(max(near, default=0.0))
        answer = networks.look(picture, label)
        is_right = answer.right >= 0.5
        missed += answer.presence < 0.5 or is_right != bool(frames.is_right[number])
    least = float(np.quantile(scores, 1 - FOUND))
    needed = min(max(BELOW * least, LOWEST), USUAL_PALM_SCORE)
    return Findable(round(needed, 3), missed / len(numbers))


def extents(joints_px: Float[np.ndarray, "n 21 2"]) -> Float[np.ndarray, " n"]:
    """The longer side of each hand's box, in pixels."""
    return (joints_px.max(1) - joints_px.min(1)).max(1)


def errors_of(answers: Answers, frames: Frames) -> dict[str, Float[np.ndarray, " n"]]:
    """{"mm", "procrustes_mm", "px_percent"} of each hand; nan if it was not found."""
    truth = frames.joints_mm - frames.joints_mm[:, WRIST : WRIST + 1]
    predicted = answers.joints_mm - answers.joints_mm[:, WRIST : WRIST + 1]
    seen = np.isfinite(predicted).all((1, 2))
    fitted = np.full_like(predicted, np.nan)
    fitted[seen] = procrustes(predicted[seen], truth[seen])
    off = np.linalg.norm(answers.joints_px - frames.joints_px, axis=2).mean(1)
    return {
        "mm": np.linalg.norm(predicted - truth, axis=2).mean(1),
        "procrustes_mm": np.linalg.norm(fitted - truth, axis=2).mean(1),
        "px_percent": 100 * off / np.maximum(extents(frames.joints_px), 1.0),
    }


def score_answers(answers: Answers, frames: Frames) -> Scores:
    """The mean scores."""
    errors = errors_of(answers, frames)
    is_found = np.isfinite(answers.joints_mm).all((1, 2))
    is_side = is_found & (answers.is_right == frames.is_right)
    means = {
        name: float(np.nanmean(values)) if is_found.any() else float("nan")
        for name, values in errors.items()
    }
    return Scores(
        hands=len(frames),
        found=float(is_found.mean()),
        side=float(is_side.mean()),
        epe_mm=means["mm"],
        procrustes_mm=means["procrustes_mm"],
        px_percent=means["px_percent"],
    )
