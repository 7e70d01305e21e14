"""InterHand2.6M (Moon et al., ECCV 2020): RGB of one or two hands; each whole hand is a sample.

    images/<split>/<file_name>, annotations/[all/ or <split>/]InterHand2.6M_<split>_{data,camera,
    joint_3d}.json

joint_3d[capture][frame]: world_coord (42, 3) mm, right 0-20, left 21-41, each finger from its tip
to its base, thumb to little, the wrist last. X_camera = camrot (X_world - campos). No depth. A hand
with a joint that is not valid is left out: its coordinates there mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped

from ...errors import InputError
from ..files.reading import as_numbers, expect_folder, is_made, read_json_value, read_photograph
from .label_checks import disagreements
from .sample import Frame, Joints, Matrix, Sample, crop_frame, implausible, refuse_implausible

LAYOUT = (
    "expected InterHand2.6M: images/<split>/ and annotations/ with "
    "InterHand2.6M_<split>_data.json, _camera.json and _joint_3d.json; its owners publish it "
    "at mks0601.github.io/InterHand2.6M"
)
SPLITS = ("train", "val", "test")
FIRST = {"right": 0, "left": 21}
TO_OUR_ORDER = np.array([20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16])
KINDS = ("data", "camera", "joint_3d")


class Seen(NamedTuple):
    """A hand in a picture. capture, camera, frame: names in the label files."""

    file: str
    capture: str
    camera: str
    frame: str
    side: str


def label_file(root: str, split: str, kind: str) -> Path:
    """Where a label file lies, by its release."""
    name = f"InterHand2.6M_{split}_{kind}.json"
    home = Path(root) / "annotations"
    places = [home / split / name, home / "all" / name, home / name]
    return next((path for path in places if path.exists()), places[0])


@lru_cache(maxsize=6)
def read_labels(root: str, split: str, kind: str) -> dict[str, Any]:
    """What a label file holds."""
    expect_folder(root, LAYOUT)
    path = label_file(root, split, kind)
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    held = read_json_value(path, "InterHand2.6M's labels")
    if not isinstance(held, dict):
        raise InputError(f"{path}: expected fields, found {type(held).__name__}; copy it again")
    return held


def entry_of(root: str, split: str, kind: str, *keys: str) -> Any:
    """An entry of a label file, by its names from the outside in.

    Raises:
        InputError: there is none; names file and place.
    """
    held: Any = read_labels(root, split, kind)
    for depth, key in enumerate(keys):
        if not isinstance(held, dict) or key not in held:
            place = ", ".join(map(repr, keys[: depth + 1]))
            raise InputError(
                f"{label_file(root, split, kind)}: has no entry {place}; copy it again"
            )
        held = held[key]
    return held


@lru_cache(maxsize=3)
def hands_of(root: str, split: str) -> tuple[Seen, ...]:
    """Every hand of a split all of whose joints are valid, in the order of the annotations."""
    path = label_file(root, split, "data")
    held = read_labels(root, split, "data")
    for field in ("images", "annotations"):
        if not isinstance(held.get(field), list):
            raise InputError(f"{path}: field {field!r}: expected a list; copy it again")
    pictures = {entry.get("id"): entry for entry in held["images"] if isinstance(entry, dict)}
    found = []
    for number, annotation in enumerate(held["annotations"]):
        name = f"{path}: annotation {number}"
        picture = pictures.get(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if picture is None:
            raise InputError(f"{name}, field 'image_id': names no picture; copy it again")
        facts = [picture.get(key) for key in ("file_name", "capture", "camera", "frame_idx")]
        if not isinstance(facts[0], str) or None in facts or ".." in facts[0]:
            raise InputError(
                f"{name}: its picture has file_name, capture, camera, frame_idx {facts}; "
                "expected a file and three names; copy it again"
            )
        valid = _validity(annotation.get("joint_valid"), f"{name}, field 'joint_valid'")
        for side, first in FIRST.items():
            if (valid[first : first + 21] > 0).all():
                file, capture, camera, frame = map(str, facts)
                found.append(Seen(file, capture, camera, frame, side))
    return tuple(found)


def _validity(value: Any, name: str) -> np.ndarray:
    """Of the 42 joints; some releases have a list around each."""
    nested = isinstance(value, list) and value and isinstance(value[0], list)
    return as_numbers(value, (42, 1) if nested else (42,), name).ravel()


@dataclass(frozen=True)
class InterHand:
    """The whole hands of a split of InterHand2.6M."""

    root: str
    split: str = "train"
    """train, val or test."""
    px: int = 320
    margin: float = 1.25

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(
                f"InterHand2.6M: --split is one of {', '.join(SPLITS)}, got {self.split!r}"
            )

    def _seen(self, i: int) -> Seen:
        return hands_of(self.root, self.split)[i]

    def __len__(self) -> int:
        return len(hands_of(self.root, self.split))

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        return [Path(self.root) / "images" / self.split / self._seen(i).file]

    def label_files(self) -> list[Path]:
        """The files of labels that are no sample's own."""
        return [label_file(self.root, self.split, kind) for kind in ("data", "camera", "joint_3d")]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """RGB."""
        return read_photograph(self.files(i)[0])

    def labels(self, i: int) -> tuple[Joints, Matrix]:
        """joints_mm in the camera's frame, K."""
        seen, path = self._seen(i), label_file(self.root, self.split, "camera")

        def of_camera(field: str, *shape: int) -> np.ndarray:
            held = entry_of(self.root, self.split, "camera", seen.capture, field)
            value = held.get(seen.camera) if isinstance(held, dict) else None
            name = f"{path}: capture {seen.capture}, field {field!r}, camera {seen.camera}"
            return as_numbers(value, shape, name)

        R, position = of_camera("camrot", 3, 3), of_camera("campos", 3)
        (fx, fy), (cx, cy) = of_camera("focal", 2), of_camera("princpt", 2)
        frame = entry_of(self.root, self.split, "joint_3d", seen.capture, seen.frame)
        world = frame.get("world_coord") if isinstance(frame, dict) else None
        points = as_numbers(world, (42, 3), self.name(i))
        own = points[FIRST[seen.side] + TO_OUR_ORDER]
        return (own - position) @ R.T, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    def frame(self, i: int) -> Frame:
        """The picture with the labels of one hand."""
        joints, K = self.labels(i)
        rgb = self.color(i)
        refuse_implausible(joints, K, (rgb.shape[0], rgb.shape[1]), self.name(i))
        return Frame(rgb, joints, K, self._seen(i).side == "left")

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """The samples of these numbers; where a box leaves the picture its edge is repeated."""
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(f, self.px, self.margin, border=cv2.BORDER_REPLICATE) for f in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """Where the labels of a sample stand."""
        seen = self._seen(i)
        path = label_file(self.root, self.split, "joint_3d")
        return f"{path}: capture {seen.capture}, frame {seen.frame}, {seen.side} hand"

    def file_checks(self) -> list[Callable[[], Any]]:
        """What must hold of whole files: each raises InputError where it does not."""
        checks = [partial(read_labels, self.root, self.split, kind) for kind in KINDS]
        return [*checks, partial(hands_of, self.root, self.split)]

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """What must hold of a sample: each returns sentences, or raises InputError."""
        return [lambda: self._look(i)]

    def _look(self, i: int) -> list[str]:
        joints, K = self.labels(i)
        rgb = self.color(i)
        if found := implausible(joints, K, (rgb.shape[0], rgb.shape[1]), self.name(i)):
            return found
        frame = Frame(rgb, joints, K, self._seen(i).side == "left")
        return disagreements(frame, self.name(i))

    def checked_count(self) -> int:
        """How many samples there are to check."""
        return 0

    def describe(self) -> dict[str, Any]:
        """What the set is, as plain JSON."""
        return {
            "dataset": "InterHand2.6M",
            "split": self.split,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }
