"""Hand: 21 joints of every hand in anybody's picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from ...errors import InputError
from ...runtime.files import PathLike
from ..geometry import is_camera
from ..network.hand_student import HandStudent, load_student
from .finding import find_candidates, first_boxes
from .pictures import read_with_scale
from .placing import place_wrist
from .running import Networks
from .seeing import (
    UP,
    Box,
    Direction,
    Picture,
    Place,
    Points,
    Side,
    assumed_camera,
    direction_of,
    look_at,
)

Sides = Literal["right", "left", "auto"]

OWN = Path(__file__).with_name("student")  # what comes with cmkg: README.md there is its card
FAR_PX = 1e6  # no box begins or ends there
SMALLEST = 8  # pixels a side of a picture that is looked at
PASSES = 3  # looks at a hand at most, each at the box of the joints that the last one found
# Which way a hand may point where nobody says it.
WAYS: tuple[Direction, ...] = (UP, (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0))
FIRST = 6  # places in a picture that are looked at closely
AVERAGED_DEG, AVERAGED_ZOOM = (-20.0, 20.0), 0.9  # of the looks beside the last one
# What is called a hand: the chance that it is one, the mean confidence of its joints; their product
# below which one is followed no more. docs/hands.md: how many are found where none is.
IS_HAND, FOUND, LOST = 0.998, 0.4, 0.35


@dataclass(frozen=True)
class HandResult:
    """One hand, its joints in the order of skeleton.JOINTS: wrist, thumb, index, … to the tips.

    joints_px: on the picture, x and y in pixels, the first pixel's middle being (0, 0). joints_mm:
    from the wrist on, in the camera's frame (x right, y down, z forward), with the bone length that
    was given or assumed. wrist_mm: the wrist in that frame where the camera was given; None else.
    box: x, y of the corner, width and height of what was looked at, in pixels. confidence: of each
    joint, see HandStudent.
    """

    joints_px: Float[np.ndarray, "21 2"]
    joints_mm: Float[np.ndarray, "21 3"]
    side: Side
    box: tuple[float, float, float, float]
    confidence: Float[np.ndarray, " 21"]
    wrist_mm: Float[np.ndarray, "3"] | None = None


class _Look(NamedTuple):
    """What was said of a place. joints: from the wrist on, in bones, in the picture's camera.

    is_hand: the chance that there is a hand, 1 where no network tells it.
    """

    place: Place
    joints: Float[np.ndarray, "21 3"]
    joints_px: Points
    confidence: Float[np.ndarray, " 21"]
    is_hand: float = 1.0

    @property
    def certainty(self) -> float:
        """That there is a hand, and that its joints are where they were seen."""
        return self.is_hand * float(self.confidence.mean())

    @property
    def is_found(self) -> bool:
        return self.is_hand >= IS_HAND and float(self.confidence.mean()) >= FOUND

    @property
    def own_box(self) -> Box:
        return Box.of_joints(self.joints_px)


class Hand:
    """A hand student, ready for pictures.

        hand = Hand.from_pretrained()  # the student that comes with cmkg
        for one in hand("photograph.jpg"):
            print(one.side, one.joints_px, one.joints_mm)

    Args:
        student: the network, with its bone length and its calibration.
        bone_mm: what a ruler says of the hands to come, from the middle finger's knuckle to its
            next joint, the finger bent; None takes the people that the student was trained on.
        networks: how the student is run, and its companions; None runs it by torch, alone.

    Raises:
        InputError: a student that does not say where on the picture joints are.
    """

    def __init__(
        self, student: HandStudent, bone_mm: float | None = None, networks: Networks | None = None
    ) -> None:
        if student.config.head != "integral":
            raise InputError(
                "this student has the pooled head, which does not say where on the picture joints "
                "are: train one with --head integral"
            )
        self.student = student.eval()
        self.networks = networks or Networks(self.student)
        own = float(student.net.unit_mm) or student.bone_mm
        self.bone_mm = own if bone_mm is None else student.unit_of(float(bone_mm))
        if bone_mm is not None and not 5 < bone_mm < 120:
            raise InputError(
                f"bone_mm: expected a finger's first bone, 5 to 120 mm, got {bone_mm:g}"
            )

    @classmethod
    def from_pretrained(cls, folder: PathLike = OWN, bone_mm: float | None = None) -> Hand:
        """The student that comes with cmkg, or of a folder that `cmkg export` wrote.

        Run by onnxruntime where the folder has student.onnx, else by torch, as `Hand(student)` is.

        Raises:
            InputError: there is none.
        """
        student = load_student(folder)
        return cls(student, bone_mm, Networks.of_folder(folder, student))

    def __call__(
        self,
        pictures: Any,
        *,
        side: Sides = "auto",
        box: Sequence[float] | None = None,
        K: Float[np.ndarray, "3 3"] | None = None,
    ) -> Any:
        """The hands of a picture, the surest first; of several pictures a list of such lists.

        Args:
            pictures: (H, W, 3) uint8 RGB, a path, a list of such, or (N, H, W, 3).
            side: "right", "left", or both are tried.
            box: x, y, width, height of the one hand's rough box, in pixels; None looks for hands
                in the whole picture.
            K: the camera of the pictures, in their pixels; None assumes a usual lens.

        Raises:
            InputError: a picture, box or camera that is none; the sentence says what was expected.
        """
        if isinstance(pictures, (list, tuple)) or getattr(pictures, "ndim", 0) == 4:
            return [self(one, side=side, box=box, K=K) for one in pictures]
        if isinstance(pictures, (str, Path)):
            picture, scale = read_with_scale(pictures)
            picture = as_picture(picture)
        else:
            picture, scale = as_picture(pictures), 1.0
        if side not in ("right", "left", "auto"):
            raise InputError(f"side: expected right, left or auto, got {side!r}")
        sides: tuple[Side, ...] = ("right", "left") if side == "auto" else (side,)
        camera = assumed_camera(picture) if K is None else smaller_camera(expect_camera(K), scale)
        if box is not None:
            own = smaller_box(expect_box(box), scale)
            looks = [self.refine(picture, camera, self.ways(own, sides))]
        else:
            looks = self.find(picture, camera, sides)
        results = [self._result(look) for look in looks]
        if K is not None:
            results = [self._placed(one, camera) for one in results]
        return [in_file_pixels(one, scale) for one in results]

    def follow(
        self, picture: Picture, last: HandResult, K: Float[np.ndarray, "3 3"] | None = None
    ) -> HandResult | None:
        """The hand of a video's last frame in its next one; None where it is lost.

        Looked for at the box of the last joints alone: the quick way.
        """
        camera = assumed_camera(picture) if K is None else K
        box = Box.of_joints(last.joints_px).loosened()
        place = Place(box, last.side, self._way_of(last.joints_px))
        _, is_hand = self.likeliest(picture, camera, [place])
        (look,) = self.look(picture, camera, [place])
        if look._replace(is_hand=is_hand).certainty < LOST:
            return None
        result = self._result(self._average(picture, camera, look))
        return result if K is None else self._placed(result, camera)

    # ---- looking ---------------------------------------------------------------------------------
    def look(
        self, picture: Picture, K: Float[np.ndarray, "3 3"], places: Sequence[Place]
    ) -> list[_Look]:
        """One pass of the student over these places, together."""
        views = [look_at(picture, place, K, self.student.px) for place in places]
        seen = self.networks.see(np.stack([view.picture for view in views]))
        return [
            _Look(place, view.to_camera(joints - joints[:1]), view.to_picture(uv), confidence)
            for view, place, joints, uv, confidence in zip(views, places, *seen, strict=True)
        ]

    def likeliest(
        self, picture: Picture, K: Float[np.ndarray, "3 3"], places: Sequence[Place]
    ) -> tuple[Place, float]:
        """Where a hand of that side is the likeliest, and the chance that there is one of any.

        The mean confidence tells it where no network does; the chance is 1 then.
        """
        if self.networks.presence is None:
            if len(places) == 1:  # nothing to choose
                return places[0], 1.0
            looks = self.look(picture, K, places)
            return max(looks, key=attrgetter("certainty")).place, 1.0
        views = [look_at(picture, place, K, self.student.px) for place in places]
        hand, right = self.networks.judge(np.stack([view.picture for view in views]))
        best = int((hand * right).argmax())
        return places[best], float(hand[best])

    def refine(
        self, picture: Picture, K: Float[np.ndarray, "3 3"], places: Sequence[Place]
    ) -> _Look:
        """The likeliest of some places, and again what is found there, until that stands still.

        Whose hand it is, is asked again there.
        """
        sides = list(dict.fromkeys(place.side for place in places))
        place, is_hand = self.likeliest(picture, K, places)
        best = self._settle(picture, K, place)
        if len(sides) > 1 or self.networks.presence is not None:
            both = [best.place._replace(side=side) for side in sides]
            place, is_hand = self.likeliest(picture, K, both)
            if place.side != best.place.side:
                best = self._settle(picture, K, place)
        return self._average(picture, K, best)._replace(is_hand=is_hand)

    def _settle(self, picture: Picture, K: Float[np.ndarray, "3 3"], place: Place) -> _Look:
        """Looks, and again at what was found, until that stands still.

        The surest look counts: a network that is lost in a box may be more so in its own.
        """
        (best,) = (look,) = self.look(picture, K, [place])
        for _ in range(PASSES - 1):
            box = look.place.box.towards(look.own_box.loosened())
            place = Place(box, look.place.side, self._way_of(look.joints_px))
            if place.agrees(look.place):
                break
            (look,) = self.look(picture, K, [place])
            best = max(best, look, key=attrgetter("certainty"))
        return best

    def _average(self, picture: Picture, K: Float[np.ndarray, "3 3"], look: _Look) -> _Look:
        """The mean of what is said of a place as it is, and turned to both sides."""
        if not self.student.config.upright:
            return look
        turned = [look.place.turned(angle, AVERAGED_ZOOM) for angle in AVERAGED_DEG]
        looks = [look, *self.look(picture, K, turned)]
        return look._replace(
            joints=np.mean([one.joints for one in looks], axis=0),
            joints_px=np.mean([one.joints_px for one in looks], axis=0),
            confidence=np.mean([one.confidence for one in looks], axis=0),
        )

    def _way_of(self, joints_px: Points) -> Direction:
        """What is up for the student where these joints are."""
        return direction_of(joints_px) if self.student.config.upright else UP

    def ways(self, box: Box, sides: Sequence[Side]) -> list[Place]:
        """How a hand of unknown direction may lie in a box."""
        ways = WAYS if self.student.config.upright else (UP,)
        return [Place(box, side, way) for side in sides for way in ways]

    def find(
        self, picture: Picture, K: Float[np.ndarray, "3 3"], sides: Sequence[Side]
    ) -> list[_Look]:
        """The hands of a whole picture, the surest first; none where nothing is sure enough."""
        found: list[_Look] = []
        for places in self._first_places(picture, K, sides):
            if any(places[0].box.is_same_hand(other.own_box) for other in found):
                continue
            refined = self.refine(picture, K, places)
            is_known = any(refined.own_box.is_same_hand(one.own_box) for one in found)
            if refined.is_found and not is_known:
                found.append(refined)
        return sorted(found, key=attrgetter("certainty"), reverse=True)

    def _first_places(
        self, picture: Picture, K: Float[np.ndarray, "3 3"], sides: Sequence[Side]
    ) -> list[list[Place]]:
        """Of each hand that there may be, the likeliest first, the places to look at."""
        if self.networks.finder is None:
            first = [place for box in first_boxes(picture) for place in self.ways(box, sides)]
            looks = self.look(picture, K, first)
            looks.sort(key=attrgetter("certainty"), reverse=True)
            return [
                [
                    Place(look.own_box.loosened(), side, self._way_of(look.joints_px))
                    for side in sides
                ]
                for look in looks[:FIRST]
            ]
        return [
            [
                Place(one.box.loosened(), side, one.towards if self.student.config.upright else UP)
                for side in sides
            ]
            for one in find_candidates(self.networks, picture)[:FIRST]
        ]

    # ---- results ---------------------------------------------------------------------------------
    def _result(self, look: _Look) -> HandResult:
        return HandResult(
            joints_px=look.joints_px,
            joints_mm=self.bone_mm * look.joints,
            side=look.place.side,
            box=look.place.box.corner_and_size(),
            confidence=look.confidence,
        )

    def _placed(self, result: HandResult, K: Float[np.ndarray, "3 3"]) -> HandResult:
        wrist = place_wrist(result.joints_mm, result.joints_px, K, result.confidence)
        return replace(result, wrist_mm=wrist)


# ---- pictures that were decoded smaller ----------------------------------------------------------
def smaller_box(box: Box, scale: float) -> Box:
    """A box of a file's pixels on the picture, one of whose pixels is `scale` of the file's."""
    return Box((box.x + 0.5) / scale - 0.5, (box.y + 0.5) / scale - 0.5, box.side / scale)


def smaller_camera(K: Float[np.ndarray, "3 3"], scale: float) -> Float[np.ndarray, "3 3"]:
    """A camera of a file's pixels, likewise."""
    half = 0.5 / scale - 0.5
    return np.array([[1 / scale, 0, half], [0, 1 / scale, half], [0, 0, 1.0]]) @ K


def in_file_pixels(result: HandResult, scale: float) -> HandResult:
    """A result on the picture in the file's pixels."""
    if scale == 1:
        return result
    x, y, width, height = (scale * number for number in result.box)
    half = (scale - 1) / 2
    return replace(
        result,
        joints_px=scale * (result.joints_px + 0.5) - 0.5,
        box=(x + half, y + half, width, height),
    )


# ---- what comes from outside ---------------------------------------------------------------------
def as_picture(given: Any) -> Shaped[np.ndarray, "h w 3"]:
    """An array that is a picture.

    Raises:
        InputError: it is no (H, W, 3) uint8.
    """
    if isinstance(given, Tensor):
        given = given.cpu().numpy()
    if not isinstance(given, np.ndarray):
        found = type(given).__name__
        raise InputError(f"a picture: expected (H, W, 3) uint8, or a path, got {found}")
    if given.ndim != 3 or given.shape[2] != 3:
        hints = {2: "; grey: give np.stack([grey] * 3, -1)"}
        hint = hints.get(given.ndim, "")
        if given.ndim == 3 and given.shape[2] == 4:
            hint = "; RGBA: give picture[..., :3]"
        if given.ndim == 3 and given.shape[0] == 3:
            hint = "; channels come last: give picture.transpose(1, 2, 0)"
        raise InputError(f"a picture: expected (H, W, 3) RGB, got shape {given.shape}{hint}")
    if given.dtype != np.uint8:
        hint = "; from 0 to 1: give (255 * picture).astype(np.uint8)" * (given.dtype.kind == "f")
        raise InputError(f"a picture: expected uint8, 0 to 255, got {given.dtype}{hint}")
    if min(given.shape[:2]) < SMALLEST:
        height, width = given.shape[:2]
        raise InputError(
            f"a picture: expected at least {SMALLEST} pixels a side, got {width} x {height}"
        )
    return given


def expect_box(box: Sequence[float]) -> Box:
    """A square around x, y, width, height.

    Raises:
        InputError: these are no four finite numbers with a size.
    """
    try:
        x, y, width, height = (float(number) for number in box)
    except (TypeError, ValueError):
        raise InputError(f"box: expected x, y, width, height in pixels, got {box!r:.80}") from None
    largest = float(np.abs([x, y, width, height]).max())
    if not largest < FAR_PX or min(width, height) < 2:
        raise InputError(f"box: expected finite numbers and 2 pixels a side or more, got {box!r}")
    return Box.around(x, y, width, height)


def expect_camera(K: Any) -> Float[np.ndarray, "3 3"]:
    """A camera matrix in pixels.

    Raises:
        InputError: it is none.
    """
    try:
        camera = np.asarray(K, np.float64)
    except (TypeError, ValueError):
        camera = np.zeros(0)
    if not is_camera(camera):
        raise InputError(
            "K: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in the picture's pixels, got "
            f"{np.array2string(camera, precision=4, separator=', ')}"
        )
    return camera
