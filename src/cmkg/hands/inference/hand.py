"""Hand: 21 joints of every hand in anybody's picture, by MediaPipe's networks, taught further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ...errors import InputError
from ...runtime.files import PathLike
from ..geometry import rotation_to_axis
from ..mediapipe.backend import Answer, Networks
from ..mediapipe.regions import Picture, Region
from ..placing import place_wrist
from ..skeleton import WRIST
from .hand_files import HandFacts, read_hand_folder
from .hand_result import HandResult, Side
from .picture_view import SMALLEST, Box, PictureView, expect_side

OWN = Path(__file__).with_name("shipped")  # what comes with cmkg: README.md there is its card
BONE_MM = (5.0, 120.0)
LOOKS_RAD = (0.0, -0.35, 0.35)  # turns of the looks that are averaged
QUARTERS_RAD = (0.0, np.pi / 2, np.pi, -np.pi / 2)  # where nobody says which way a hand points
SHARES = (1.0, 0.6)  # of what the palm network sees, that the picture fills: one after another
SAME_HAND = 0.35  # of the smaller region's side, between the middles of two
AROUND_BOX = 1.6  # times a given box: what is searched for its palm
MOST_HANDS = 100


@dataclass(frozen=True)
class Thresholds:
    """What is called a hand: MediaPipe's own numbers."""

    palm: float | None = None
    """Least score of a palm in the whole picture; None takes what the folder says: 0.5, or less
    where adapting found that its hands need it."""
    presence: float = 0.5
    """Least chance that there is a hand, after a closer look."""


class Hand:
    """Finds hands in pictures.

        hand = Hand.from_pretrained()  # what comes with cmkg
        for one in hand("photograph.jpg"):
            print(one.side, one.joints_px, one.joints_mm)

    Args:
        networks: of palms and of joints.
        facts: what its folder says of it.
        bone_mm: what a ruler says of the hands to come, from the middle finger's knuckle to its
            next joint, the finger bent; None takes a usual hand's.
        max_hands: of a picture, the surest ones.
        thresholds: see Thresholds.
        looks: 1, or 3 that are averaged: more exact, and slower.

    Raises:
        InputError: a number that cannot be.
    """

    def __init__(
        self,
        networks: Networks,
        facts: HandFacts,
        bone_mm: float | None = None,
        max_hands: int = 4,
        thresholds: Thresholds | None = None,
        looks: Literal[1, 3] = 1,
    ) -> None:
        if bone_mm is not None and not BONE_MM[0] < bone_mm < BONE_MM[1]:
            raise InputError(
                f"bone_mm: expected a finger's first bone, 5 to 120 mm, got {bone_mm:g}"
            )
        if not 1 <= max_hands <= MOST_HANDS:
            raise InputError(f"max_hands: expected 1 to {MOST_HANDS}, got {max_hands}")
        if looks not in (1, 3):
            raise InputError(f"looks: expected 1 or 3, got {looks!r}")
        self.networks, self.facts = networks, facts
        self.bone_mm = facts.bone_mm if bone_mm is None else float(bone_mm)
        self.max_hands = max_hands
        asked = thresholds or Thresholds()
        self.least_palm = facts.palm_score if asked.palm is None else asked.palm
        self.least_presence = asked.presence
        for name, value in (("palm", self.least_palm), ("presence", self.least_presence)):
            if not 0 <= value <= 1:
                raise InputError(f"thresholds.{name}: expected 0 to 1, got {value!r}")
        self.looks = looks

    @classmethod
    def from_pretrained(cls, folder: PathLike = OWN, **settings: Any) -> Hand:
        """The networks that come with cmkg, or of a folder that `cmkg adapt` or `export` wrote.

        Args:
            folder: of the networks.
            settings: as of Hand: bone_mm, max_hands, thresholds, looks.

        Raises:
            InputError: there is none.
        """
        return cls(*read_hand_folder(folder), **settings)

    def __call__(
        self,
        pictures: Any,
        *,
        side: Side | None = None,
        known_side: Side | None = None,
        box: Sequence[float] | None = None,
        K: Float[np.ndarray, "3 3"] | None = None,
    ) -> Any:
        """The hands of a picture, the surest first; of several pictures a list of such lists.

        Args:
            pictures: (H, W, 3) uint8 RGB, a path, a PIL image, a list of such, or (N, H, W, 3).
            side: only hands that look like right, or left, ones.
            known_side: whose hands these are; what they look like does not matter.
            box: x, y, width, height of the one hand's rough box, in pixels; None looks for hands
                in the whole picture.
            K: the camera of the pictures, in their pixels: turns the joints into its frame, and
                gives where the wrist is.

        Raises:
            InputError: a picture, box, side or camera that is none; it says what was expected.
        """
        if isinstance(pictures, (list, tuple)) or getattr(pictures, "ndim", 0) == 4:
            given: dict[str, Any] = {"side": side, "known_side": known_side, "box": box, "K": K}
            return [self(picture, **given) for picture in pictures]
        view = PictureView.of(pictures, K)
        results = self.look_at(view, side=side, known_side=known_side, box=box)
        return [view.in_file_pixels(result) for result in results]

    # ---- looking ---------------------------------------------------------------------------------
    def look_at(
        self,
        view: PictureView,
        *,
        side: Side | None = None,
        known_side: Side | None = None,
        box: Sequence[float] | None = None,
    ) -> list[HandResult]:
        """The hands of a view, in the pixels of its picture.

        Args:
            view: the picture with its camera.
            side, known_side: see `__call__`.
            box: of the one hand, in the file's pixels.
        """
        expect_side("side", side)
        expect_side("known_side", known_side)
        if box is None:
            answers = self.find(view.picture)
        else:
            regions = self.regions_in(view.picture, view.box_of(box))
            answers = self.likeliest(view.picture, regions)
        results = [self.result_of(answer, known_side, view.K) for answer in answers]
        return [result for result in results if side in (None, result.side)]

    def find(self, picture: Picture) -> list[Answer]:
        """The hands of a whole picture, the surest first.

        Where none is found it is looked at again from farther away: a hand may fill it.
        """
        for share in SHARES:
            if found := self._find(picture, share):
                return found
        return []

    def _find(self, picture: Picture, share: float) -> list[Answer]:
        found: list[Answer] = []
        for palm in self.networks.find_palms(picture, self.least_palm, share):
            if len(found) == self.max_hands:
                break
            first = self.networks.look(picture, palm.region)
            if first.presence < self.least_presence or is_among(first, found):
                continue
            answer = self.look_again(picture, first)
            if answer.presence >= self.least_presence and not is_among(answer, found):
                found.append(answer)
        return sorted(found, key=attrgetter("presence"), reverse=True)

    def look_again(self, picture: Picture, last: Answer) -> Answer:
        """A hand in the region of its last joints: the mean of `looks` looks."""
        region = Region.of_joints(last.joints_px)
        turned = [region.changed(turn) for turn in LOOKS_RAD[: self.looks]]
        answers = [self.networks.look(picture, one) for one in turned]
        return Answer(
            np.mean([one.joints_px for one in answers], axis=0),
            np.mean([one.joints_mm - one.joints_mm[WRIST] for one in answers], axis=0),
            float(np.mean([one.presence for one in answers])),
            float(np.mean([one.right for one in answers])),
        )

    def follow(self, picture: Picture, last: HandResult) -> Answer | None:
        """The hand of a video's last frame in its next one; None where it is lost."""
        answer = self.networks.look(picture, Region.of_joints(last.joints_px))
        return answer if answer.presence >= self.least_presence else None

    def regions_in(self, picture: Picture, box: Box) -> list[Region]:
        """Where the one hand of a rough box may be: its palm's region, else all four directions."""
        x, y, width, height = box
        side = max(width, height)
        middle = np.array([x + width / 2, y + height / 2])
        low = np.floor(middle - AROUND_BOX * side / 2).astype(int).clip(0)
        high = np.ceil(middle + AROUND_BOX * side / 2).astype(int)
        part = picture[low[1] : high[1], low[0] : high[0]]
        whole = Region(float(middle[0]), float(middle[1]), 1.3 * side, 0.0)
        turned = [whole.changed(turn) for turn in QUARTERS_RAD]
        if min(part.shape[:2]) < SMALLEST:
            return turned
        palms = self.networks.find_palms(np.ascontiguousarray(part), self.least_palm)
        moved = [
            one.region._replace(x=one.region.x + low[0], y=one.region.y + low[1]) for one in palms
        ]
        near = [r for r in moved if np.hypot(r.x - middle[0], r.y - middle[1]) < side / 2]
        return near[:1] or turned

    def likeliest(self, picture: Picture, regions: Sequence[Region]) -> list[Answer]:
        """The surest of some regions, looked at again; none where there is no hand."""
        answers = [self.networks.look(picture, one) for one in regions]
        best = self.look_again(picture, max(answers, key=attrgetter("presence")))
        return [best] if best.presence >= self.least_presence else []

    # ---- results ---------------------------------------------------------------------------------
    def result_of(
        self, answer: Answer, known_side: Side | None, K: Float[np.ndarray, "3 3"] | None
    ) -> HandResult:
        """An answer in the caller's terms."""
        own: Side = "right" if answer.right >= 0.5 else "left"
        side = known_side or own
        joints = answer.joints_mm - answer.joints_mm[WRIST]
        joints = joints * (self.bone_mm / self.facts.bone_mm)
        region = Region.of_joints(answer.joints_px)
        wrist = None
        if K is not None:
            # The network sees the hand as if the camera looked at it.
            ray = np.linalg.solve(K, [region.x, region.y, 1.0])
            joints = joints @ rotation_to_axis(ray)
            wrist = place_wrist(joints, answer.joints_px, K, np.ones(21))
        return HandResult(
            joints_px=answer.joints_px,
            joints_mm=joints,
            side=side,
            box=region.corner_and_size(),
            confidence=answer.presence,
            side_confidence=1.0 if known_side else max(answer.right, 1 - answer.right),
            wrist_mm=wrist,
        )


def is_among(answer: Answer, others: Sequence[Answer]) -> bool:
    """Whether a hand is one of those that are there already."""
    own = Region.of_joints(answer.joints_px)
    for other in others:
        region = Region.of_joints(other.joints_px)
        if own.distance(region) < SAME_HAND * min(own.side, region.side):
            return True
    return False
