"""InterHand2.6M (Moon et al., ECCV 2020): RGB of one or two hands; each complete hand is a sample.

    images/<split>/<file_name>, annotations/[all/ or <split>/]InterHand2.6M_<split>_{data,camera,
    joint_3d}.json

joint_3d[capture][frame]: world_coord (42, 3) mm, right 0-20, left 21-41, each finger from its tip
to its base, thumb to little, the wrist last. X_camera = camrot (X_world - campos). There is no
depth. A hand with an invalid joint is skipped, since the coordinates of that joint are meaningless.
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
    """A hand in a picture; capture, camera and frame are keys in the label files."""

    file: str
    capture: str
    camera: str
    frame: str
    side: str


def label_file(root: str, split: str, kind: str) -> Path:
    """The path of a label file, which depends on the release."""
    name = f"InterHand2.6M_{split}_{kind}.json"
    home = Path(root) / "annotations"
    places = [home / split / name, home / "all" / name, home / name]
    return next((path for path in places if path.exists()), places[0])


@lru_cache(maxsize=6)
def read_labels(root: str, split: str, kind: str) -> dict[str, Any]:
    """Reads a label file."""
    expect_folder(root, LAYOUT)
    path = label_file(root, split, kind)
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    labels = read_json_value(path, "InterHand2.6M's labels")
    if not isinstance(labels, dict):
        raise InputError(f"{path}: expected fields, found {type(labels).__name__}; copy it again")
    return labels


def entry_of(root: str, split: str, kind: str, *keys: str) -> Any:
    """Looks up an entry of a label file by its keys, outermost first.

    Raises:
        InputError: there is no such entry; the message names the file and the keys.
    """
    entry: Any = read_labels(root, split, kind)
    for depth, key in enumerate(keys):
        if not isinstance(entry, dict) or key not in entry:
            place = ", ".join(map(repr, keys[: depth + 1]))
            raise InputError(
                f"{label_file(root, split, kind)}: has no entry {place}; copy it again"
            )
        entry = entry[key]
    return entry


@lru_cache(maxsize=3)
def hands_of(root: str, split: str) -> tuple[Seen, ...]:
    """Lists the hands of a split whose joints are all valid, in the order of the annotations."""
    path = label_file(root, split, "data")
    labels = read_labels(root, split, "data")
    for field in ("images", "annotations"):
        if not isinstance(labels.get(field), list):
            raise InputError(f"{path}: field {field!r}: expected a list; copy it again")
    pictures = {entry.get("id"): entry for entry in labels["images"] if isinstance(entry, dict)}
    hands = []
    for number, annotation in enumerate(labels["annotations"]):
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
                hands.append(Seen(file, capture, camera, frame, side))
    return tuple(hands)


def _validity(value: Any, name: str) -> np.ndarray:
    """The validity of the 42 joints; some releases wrap each value in a list."""
    nested = isinstance(value, list) and value and isinstance(value[0], list)
    return as_numbers(value, (42, 1) if nested else (42,), name).ravel()


@dataclass(frozen=True)
class InterHand:
    """The complete hands of a split of InterHand2.6M."""

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
        """Label files that samples share."""
        return [label_file(self.root, self.split, kind) for kind in ("data", "camera", "joint_3d")]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """The RGB picture."""
        return read_photograph(self.files(i)[0])

    def labels(self, i: int) -> tuple[Joints, Matrix]:
        """Joints in mm in the camera's frame, and K."""
        seen, path = self._seen(i), label_file(self.root, self.split, "camera")

        def of_camera(field: str, *shape: int) -> np.ndarray:
            by_camera = entry_of(self.root, self.split, "camera", seen.capture, field)
            value = by_camera.get(seen.camera) if isinstance(by_camera, dict) else None
            name = f"{path}: capture {seen.capture}, field {field!r}, camera {seen.camera}"
            return as_numbers(value, shape, name)

        R, position = of_camera("camrot", 3, 3), of_camera("campos", 3)
        (fx, fy), (cx, cy) = of_camera("focal", 2), of_camera("princpt", 2)
        frame = entry_of(self.root, self.split, "joint_3d", seen.capture, seen.frame)
        world = frame.get("world_coord") if isinstance(frame, dict) else None
        points = as_numbers(world, (42, 3), self.name(i))
        hand = points[FIRST[seen.side] + TO_OUR_ORDER]
        return (hand - position) @ R.T, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    def frame(self, i: int) -> Frame:
        """The picture with the labels of one hand."""
        joints, K = self.labels(i)
        rgb = self.color(i)
        refuse_implausible(joints, K, (rgb.shape[0], rgb.shape[1]), self.name(i))
        return Frame(rgb, joints, K, self._seen(i).side == "left")

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number; a box that leaves the picture is padded by edge replication."""
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(f, self.px, self.margin, border=cv2.BORDER_REPLICATE) for f in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """The location of a sample's labels, for messages."""
        seen = self._seen(i)
        path = label_file(self.root, self.split, "joint_3d")
        return f"{path}: capture {seen.capture}, frame {seen.frame}, {seen.side} hand"

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of whole files; each raises InputError if it fails."""
        checks = [partial(read_labels, self.root, self.split, kind) for kind in KINDS]
        return [*checks, partial(hands_of, self.root, self.split)]

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample; each returns findings or raises InputError."""
        return [lambda: self._look(i)]

    def _look(self, i: int) -> list[str]:
        joints, K = self.labels(i)
        rgb = self.color(i)
        if problems := implausible(joints, K, (rgb.shape[0], rgb.shape[1]), self.name(i)):
            return problems
        frame = Frame(rgb, joints, K, self._seen(i).side == "left")
        return disagreements(frame, self.name(i))

    def checked_count(self) -> int:
        """The number of samples to check."""
        return 0

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""
        return {
            "dataset": "InterHand2.6M",
            "split": self.split,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }
