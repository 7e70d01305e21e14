"""Hand: predicts 21 joints of every hand in a picture, with fine-tuned MediaPipe networks."""

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

OWN = Path(__file__).with_name("shipped")  # the bundled networks; README.md is their model card
BONE_MM = (5.0, 120.0)
LOOKS_RAD = (0.0, -0.35, 0.35)  # rotations of the averaged views
QUARTERS_RAD = (0.0, np.pi / 2, np.pi, -np.pi / 2)  # tried if a hand's direction is unknown
SHARES = (1.0, 0.6)  # share of the palm network's input that the picture fills, tried in order
SAME_HAND = 0.35  # largest distance between two regions of one hand, of the smaller one's side
AROUND_BOX = 1.6  # size of the search area for a palm, relative to a given box
MOST_HANDS = 100


@dataclass(frozen=True)
class Thresholds:
    """Detection thresholds; the defaults are MediaPipe's."""

    palm: float | None = None
    """Lowest score of a palm in the whole picture; None uses the folder's value, which is 0.5 or
    was lowered by `cmkg adapt`."""
    presence: float = 0.5
    """Lowest probability that there is a hand, after a closer look."""


class Hand:
    """Detects hands in pictures and predicts their joints.

        hand = Hand.from_pretrained()  # the bundled networks
        for result in hand("photograph.jpg"):
            print(result.side, result.joints_px, result.joints_mm)

    Args:
        networks: the palm and landmark networks.
        facts: the metadata of their folder.
        bone_mm: length of the hands' bone measured by a ruler, from the middle finger's knuckle to
            its next joint, the finger bent; None uses a typical hand's.
        max_hands: the number of most confident hands to keep per picture.
        thresholds: see Thresholds.
        looks: 1, or 3 averaged views, which are more accurate but slower.

    Raises:
        InputError: a setting is out of range.
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
        """Loads the bundled networks, or those in a folder that `cmkg adapt` or `export` wrote.

        Args:
            folder: the networks' folder.
            settings: the settings of Hand: bone_mm, max_hands, thresholds, looks.

        Raises:
            InputError: the folder contains no valid networks.
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
        """Returns the hands of a picture, most confident first, or one such list per picture.

        Args:
            pictures: (H, W, 3) uint8 RGB, a path, a PIL image, a list of these, or (N, H, W, 3).
            side: keeps only hands predicted to be of this side.
            known_side: the known side of all hands, which overrides the predicted one.
            box: x, y, width, height of a single hand's rough box, in pixels; None searches the
                whole picture.
            K: the camera of the pictures, in their pixels, which yields the joints in its frame
                and the wrist's position.

        Raises:
            InputError: a picture, box, side or camera is invalid; the message says what was
                expected.
        """
        if isinstance(pictures, (list, tuple)) or getattr(pictures, "ndim", 0) == 4:
            given: dict[str, Any] = {"side": side, "known_side": known_side, "box": box, "K": K}
            return [self(picture, **given) for picture in pictures]
        view = PictureView.of(pictures, K)
        results = self.look_at(view, side=side, known_side=known_side, box=box)
        return [view.in_file_pixels(result) for result in results]

    # ---- detection -------------------------------------------------------------------------------
    def look_at(
        self,
        view: PictureView,
        *,
        side: Side | None = None,
        known_side: Side | None = None,
        box: Sequence[float] | None = None,
    ) -> list[HandResult]:
        """Detects the hands of a view, in the pixels of its picture.

        Args:
            view: the picture with its camera.
            side, known_side: see `__call__`.
            box: the box of a single hand, in the file's pixels.
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
        """Detects the hands of a picture, the most confident first.

        If no hand is found, the search repeats at a smaller scale, since a hand may fill the
        picture.
        """
        for share in SHARES:
            if answers := self._find(picture, share):
                return answers
        return []

    def _find(self, picture: Picture, share: float) -> list[Answer]:
        answers: list[Answer] = []
        for palm in self.networks.find_palms(picture, self.least_palm, share):
            if len(answers) == self.max_hands:
                break
            first = self.networks.look(picture, palm.region)
            if first.presence < self.least_presence or is_among(first, answers):
                continue
            answer = self.look_again(picture, first)
            if answer.presence >= self.least_presence and not is_among(answer, answers):
                answers.append(answer)
        return sorted(answers, key=attrgetter("presence"), reverse=True)

    def look_again(self, picture: Picture, last: Answer) -> Answer:
        """Refines a hand in the region of its last joints, as the mean of `looks` views."""
        region = Region.of_joints(last.joints_px)
        turned = [region.changed(turn) for turn in LOOKS_RAD[: self.looks]]
        answers = [self.networks.look(picture, view) for view in turned]
        return Answer(
            np.mean([answer.joints_px for answer in answers], axis=0),
            np.mean([answer.joints_mm - answer.joints_mm[WRIST] for answer in answers], axis=0),
            float(np.mean([answer.presence for answer in answers])),
            float(np.mean([answer.right for answer in answers])),
        )

    def follow(self, picture: Picture, last: HandResult) -> Answer | None:
        """Tracks a hand from a video's last frame to the next one; None if it is lost."""
        answer = self.networks.look(picture, Region.of_joints(last.joints_px))
        return answer if answer.presence >= self.least_presence else None

    def regions_in(self, picture: Picture, box: Box) -> list[Region]:
        """Candidate regions of the hand in a rough box: its palm's, otherwise four directions."""
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
            palm.region._replace(x=palm.region.x + low[0], y=palm.region.y + low[1])
            for palm in palms
        ]
        near = [r for r in moved if np.hypot(r.x - middle[0], r.y - middle[1]) < side / 2]
        return near[:1] or turned

    def likeliest(self, picture: Picture, regions: Sequence[Region]) -> list[Answer]:
        """Refines the most confident of some regions; returns nothing if there is no hand."""
        answers = [self.networks.look(picture, region) for region in regions]
        best = self.look_again(picture, max(answers, key=attrgetter("presence")))
        return [best] if best.presence >= self.least_presence else []

    # ---- results ---------------------------------------------------------------------------------
    def result_of(
        self, answer: Answer, known_side: Side | None, K: Float[np.ndarray, "3 3"] | None
    ) -> HandResult:
        """Converts the networks' answer to a HandResult."""
        predicted: Side = "right" if answer.right >= 0.5 else "left"
        side = known_side or predicted
        joints = answer.joints_mm - answer.joints_mm[WRIST]
        joints = joints * (self.bone_mm / self.facts.bone_mm)
        region = Region.of_joints(answer.joints_px)
        wrist = None
        if K is not None:
            # The network predicts the hand as if the camera's axis passed through it.
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
    """Whether a hand duplicates one of the others."""
    candidate = Region.of_joints(answer.joints_px)
    for other in others:
        region = Region.of_joints(other.joints_px)
        if candidate.distance(region) < SAME_HAND * min(candidate.side, region.side):
            return True
    return False
