"""How well hands are found in whole pictures: beside labels, or beside nothing."""

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

SAMPLED, FOUND = 100, 0.95  # frames that are looked at; share of them that should be found
BELOW = 0.8  # times the score of the least sure of them: others may be less sure
LOWEST = 0.05  # score of a palm: below it everything is one
SAME_HAND = 0.5  # of the label's region, between the middles


class Answers(NamedTuple):
    """What was found of each labelled hand; nan where nothing was.

    joints_mm: from the wrist on.
    """

    joints_px: Float[np.ndarray, "n 21 2"]
    joints_mm: Float[np.ndarray, "n 21 3"]
    is_right: Bool[np.ndarray, " n"]


class Scores(NamedTuple):
    """Means over the hands that were found. found, side: shares of all hands.

    px_percent: mean distance on the picture, in per cent of the hand's extent.
    """

    hands: int
    found: float
    side: float
    epe_mm: float
    procrustes_mm: float
    px_percent: float

    def sentence(self) -> str:
        """For a person."""
        return (
            f"{self.epe_mm:.1f} mm, {self.procrustes_mm:.1f} after Procrustes, "
            f"{self.px_percent:.1f} % of the hand on the picture; found {100 * self.found:.0f} %, "
            f"right side {100 * self.side:.0f} %"
        )


def find_in_frames(
    hand: Hand, frames: Frames, advance: Callable[[], None] = lambda: None
) -> Answers:
    """Every frame's hand, found by itself in the whole picture."""
    joints_px = np.full((len(frames), 21, 2), np.nan)
    joints_mm = np.full((len(frames), 21, 3), np.nan)
    is_right = np.zeros(len(frames), bool)
    for number in range(len(frames)):
        K = frames.K[number]
        camera = None if K[0, 0] == FROM_AFAR[0, 0] else K
        found = hand(frames.pictures[number], K=camera)
        best = nearest(found, frames.joints_px[number])
        if best is not None:
            joints_px[number], joints_mm[number] = best.joints_px, best.joints_mm
            is_right[number] = best.side == "right"
        advance()
    return Answers(joints_px, joints_mm, is_right)


def nearest(found: list[HandResult], joints_px: Float[np.ndarray, "21 2"]) -> HandResult | None:
    """The hand at a label's place; None where there is none."""
    label = Region.of_joints(joints_px)

    def off(one: HandResult) -> float:
        return Region.of_joints(one.joints_px).distance(label) / label.side

    near = sorted((one for one in found if off(one) < SAME_HAND), key=off)
    return near[0] if near else None


class Findable(NamedTuple):
    """How hands are found by the untaught networks.

    palm_score: the least score of a palm at which nearly all hands are seen in whole pictures.
    missed: share of the hands that the landmark network does not call one, or of the other side.
    """

    palm_score: float
    missed: float


def findable(networks: Networks, frames: Frames) -> Findable:
    """Looks at up to SAMPLED labelled frames."""
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
    """{"mm", "procrustes_mm", "px_percent"} of each hand; nan where it was not found."""
    truth = frames.joints_mm - frames.joints_mm[:, WRIST : WRIST + 1]
    said = answers.joints_mm - answers.joints_mm[:, WRIST : WRIST + 1]
    seen = np.isfinite(said).all((1, 2))
    fitted = np.full_like(said, np.nan)
    fitted[seen] = procrustes(said[seen], truth[seen])
    off = np.linalg.norm(answers.joints_px - frames.joints_px, axis=2).mean(1)
    return {
        "mm": np.linalg.norm(said - truth, axis=2).mean(1),
        "procrustes_mm": np.linalg.norm(fitted - truth, axis=2).mean(1),
        "px_percent": 100 * off / np.maximum(extents(frames.joints_px), 1.0),
    }


def score_answers(answers: Answers, frames: Frames) -> Scores:
    """The means."""
    errors = errors_of(answers, frames)
    found = np.isfinite(answers.joints_mm).all((1, 2))
    is_side = found & (answers.is_right == frames.is_right)
    means = {
        name: float(np.nanmean(one)) if found.any() else float("nan")
        for name, one in errors.items()
    }
    return Scores(
        hands=len(frames),
        found=float(found.mean()),
        side=float(is_side.mean()),
        epe_mm=means["mm"],
        procrustes_mm=means["procrustes_mm"],
        px_percent=means["px_percent"],
    )
