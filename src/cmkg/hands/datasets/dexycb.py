"""DexYCB (Chao et al., CVPR 2021): real RGB-D of ten people grasping objects, seen by 8 cameras.

    <day-person>/<sequence>/meta.yml, <sequence>/<camera>/color_%06d.jpg (640 x 480),
    aligned_depth_to_color_%06d.png (16 bits, mm), labels_%06d.npz: joint_3d (1, 21, 3) meters in
    the camera's frame, -1 if no hand is visible; joint_2d (1, 21, 2)
    calibration/intrinsics/<camera>_640x480.yml

The dataset already uses this project's joint order. The official splits are s0 by frames, s1 by
people, s2 by cameras and s3 by objects, each with train, val and test (the authors' toolkit,
dex_ycb.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ...runtime.progress import Bar
from ..files.reading import (
    as_numbers,
    expect_folder,
    expected_counts,
    is_made,
    read_depth,
    read_npz,
    read_photograph,
    read_yaml,
)
from .label_checks import disagreements
from .sample import (
    Frame,
    Joints,
    Matrix,
    Reading,
    Sample,
    crop_frame,
    implausible,
    read_once,
    refuse_implausible,
)

LAYOUT = (
    "expected DexYCB: <day-person>/<sequence>/<camera>/color_%06d.jpg and so on, calibration/ "
    "beside them; its owners publish it at dex-ycb.github.io"
)
SIZE = (480, 640)
CAMERAS = (
    *("836212060125", "839512060362", "840412060917", "841412060263"),
    *("932122060857", "932122060861", "932122061900", "932122062010"),
)
PEOPLE, SEQUENCES = 10, 100  # number of people; sequences per person
COUNTS = {"people": PEOPLE, "sequences": SEQUENCES}
PARTS = ("train", "val", "test")
SPLITS = tuple(f"{setup}-{part}" for setup in ("s0", "s1", "s2", "s3") for part in PARTS)
EVERYONE, EVERY_CAMERA = range(PEOPLE), range(len(CAMERAS))
NO_HAND = -1.0


class Chosen(NamedTuple):
    """Indices of the selected people, cameras, and sequences per person."""

    people: Iterable[int]
    cameras: Iterable[int]
    sequences: Iterable[int]


def official(split: str) -> Chosen:
    """Returns the selection of an official split."""
    setup, part = split.split("-")
    every = range(SEQUENCES)
    if setup == "s0":
        people = {"train": EVERYONE, "val": range(2), "test": range(2, PEOPLE)}[part]
        return Chosen(people, EVERY_CAMERA, [i for i in every if (i % 5 == 4) != (part == "train")])
    if setup == "s1":
        people_of = {"train": [0, 1, 2, 3, 4, 5, 9], "val": [6], "test": [7, 8]}
        return Chosen(people_of[part], EVERY_CAMERA, every)
    if setup == "s2":
        return Chosen(EVERYONE, {"train": range(6), "val": [6], "test": [7]}[part], every)
    held_out = {"val": (3, 19), "test": (7, 11, 15)}
    kept = held_out.get(part, [i for i in range(20) if i not in (3, 7, 11, 15, 19)])
    return Chosen(EVERYONE, EVERY_CAMERA, [i for i in every if i // 5 in kept])


@lru_cache(maxsize=4096)
def read_sequence_facts(path: Path) -> tuple[int, str]:
    """The number of frames of a sequence, and the side of its hand."""
    meta = read_yaml(path, "a sequence's facts")
    count = meta.get("num_frames") if isinstance(meta, dict) else None
    sides = meta.get("mano_sides") if isinstance(meta, dict) else None
    if not isinstance(count, int) or not 0 < count < 10**6:
        raise InputError(f"{path}: field 'num_frames' is {count!r}; expected a positive number")
    if not isinstance(sides, list) or not sides or sides[0] not in ("right", "left"):
        raise InputError(f"{path}: field 'mano_sides' is {sides!r}; expected [right] or [left]")
    return count, sides[0]


@lru_cache(maxsize=16)
def read_camera(path: Path) -> Matrix:
    """Reads the intrinsics K of a camera."""
    intrinsics = read_yaml(path, "a camera's intrinsics")
    color = intrinsics.get("color") if isinstance(intrinsics, dict) else None
    if not isinstance(color, dict):
        raise InputError(f"{path}: field 'color' is {color!r:.40}; expected fx, fy, ppx and ppy")
    fx, fy, cx, cy = (
        float(as_numbers(color.get(name), (), f"{path}: field 'color', {name!r}"))
        for name in ("fx", "fy", "ppx", "ppy")
    )
    if min(fx, fy) <= 0:
        raise InputError(f"{path}: fx, fy are {fx:g}, {fy:g}; expected positive pixels")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def read_label(path: Path, field: str, shape: tuple[int, ...]) -> np.ndarray:
    """Reads one field of labels_%06d.npz."""
    arrays = read_npz(path, "labels")
    if field not in arrays:
        raise InputError(f"{path}: has no field {field!r}; copy it again")
    return as_numbers(arrays[field], shape, f"{path}: field {field!r}")


class Place(NamedTuple):
    """The location of a frame."""

    sequence: str  # <day-person>/<sequence>
    camera: str
    frame: int


def places_of(root: str, split: str, complete: bool) -> list[Place]:
    """Lists every frame of a split in the official order, with or without a hand.

    Raises:
        InputError: the folder is incomplete, so the split cannot be determined.
    """
    expect_folder(root, LAYOUT)
    people = sorted(path for path in Path(root).glob("*-*") if path.is_dir())
    counts = expected_counts(root, **COUNTS)
    if complete and len(people) != counts["people"]:
        raise InputError(
            f"{root}: holds {len(people)} people's folders, expected {counts['people']}; "
            f"{LAYOUT}; or take what is there: --only-present"
        )
    chosen, places = official(split), []
    by_number = {person: folder for person, folder in enumerate(people) if person in chosen.people}
    if len(people) < counts["people"] and split[:2] != "s1":
        by_number = dict(enumerate(people))  # the split does not depend on people
    elif len(people) < counts["people"]:
        raise InputError(
            f"{root}: holds {len(people)} of {counts['people']} people: who they are among "
            f"them, which {split} needs, cannot be told; take a split by cameras (s2)"
        )
    for folder in by_number.values():
        sequences = sorted(path for path in folder.iterdir() if path.is_dir())
        numbers = [number for number in chosen.sequences if number < counts["sequences"]]
        if len(sequences) != counts["sequences"]:
            if complete or len(numbers) < counts["sequences"]:
                raise InputError(
                    f"{folder}: holds {len(sequences)} sequences, expected "
                    f"{counts['sequences']}: a split by sequences cannot be told; copy them "
                    "again, or take a split by people or cameras (s1, s2) with --only-present"
                )
            numbers = list(range(len(sequences)))
        for sequence in (sequences[number] for number in numbers):
            count, _ = read_sequence_facts(sequence / "meta.yml")
            name = f"{folder.name}/{sequence.name}"
            for camera in (CAMERAS[number] for number in chosen.cameras):
                places += [Place(name, camera, frame) for frame in range(count)]
    return places


@lru_cache(maxsize=4)
def shown(root: str, split: str, complete: bool) -> tuple[Place, ...]:
    """Lists the frames of a split in which a hand is visible."""
    places = places_of(root, split, complete)
    kept = []
    with Bar("frames with a hand", max(len(places) // 1000, 1), per_step=1000) as advance:
        for number, place in enumerate(places):
            path = frame_file(root, place, "labels_{:06d}.npz")
            if not path.exists() or (read_label(path, "joint_3d", (1, 21, 3)) != NO_HAND).any():
                kept.append(place)
            if number % 1000 == 999:
                advance()
    return tuple(kept)


def frame_file(root: str, place: Place, name: str) -> Path:
    """A file of a frame."""
    return Path(root) / place.sequence / place.camera / name.format(place.frame)


@dataclass(frozen=True)
class DexYcb:
    """The frames of a DexYCB split in which a hand is visible; `of` opens it.

    places: locations of the frames, so that other processes do not repeat the search.
    """

    root: str
    split: str
    places: tuple[Place, ...]
    px: int = 320
    margin: float = 1.25

    @classmethod
    def of(
        cls, root: str, split: str, px: int = 320, margin: float = 1.25, complete: bool = True
    ) -> DexYcb:
        """Scans the labels of a split for frames with a hand.

        Raises:
            InputError: the split is unknown, or its files are missing.
        """
        if split not in SPLITS:
            raise InputError(f"DexYCB: --split is one of {', '.join(SPLITS)}, got {split!r}")
        return cls(root, split, shown(root, split, complete), px, margin)

    def __len__(self) -> int:
        return len(self.places)

    def path(self, name: str, i: int) -> Path:
        """A file of a frame; `name` is a format string for the frame's number."""
        return frame_file(self.root, self.places[i], name)

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        names = ("color_{:06d}.jpg", "aligned_depth_to_color_{:06d}.png", "labels_{:06d}.npz")
        return [self.path(name, i) for name in names]

    def label_files(self) -> list[Path]:
        """Label files that samples share."""
        root = Path(self.root)
        sequences = dict.fromkeys(place.sequence for place in self.places)
        cameras = dict.fromkeys(place.camera for place in self.places)
        return [root / name / "meta.yml" for name in sequences] + [
            root / f"calibration/intrinsics/{name}_640x480.yml" for name in cameras
        ]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """The RGB picture."""
        return read_photograph(self.files(i)[0], SIZE)

    def depth(self, i: int) -> Shaped[np.ndarray, "h w"]:
        """Depth in millimeters, registered to the color picture."""
        return read_depth(self.files(i)[1], size=SIZE)

    def joints(self, i: int) -> Joints:
        """Joints in millimeters in the camera's frame."""
        return 1000.0 * read_label(self.files(i)[2], "joint_3d", (1, 21, 3))[0]

    def joints_px(self, i: int) -> Float[np.ndarray, "21 2"]:
        """Annotated joint positions on the picture."""
        return read_label(self.files(i)[2], "joint_2d", (1, 21, 2))[0]

    def camera(self, i: int) -> Matrix:
        """The camera intrinsics K."""
        folder = Path(self.root) / "calibration/intrinsics"
        return read_camera(folder / f"{self.places[i].camera}_640x480.yml")

    def is_left(self, i: int) -> bool:
        """Whether the sample shows a left hand."""
        return (
            read_sequence_facts(Path(self.root) / self.places[i].sequence / "meta.yml")[1] == "left"
        )

    def frame(self, i: int) -> Frame:
        """The picture with its labels."""
        joints, K = self.joints(i), self.camera(i)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, self.is_left(i), depth_mm=self.depth(i))

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number; a box that leaves the picture is padded by edge replication."""
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(f, self.px, self.margin, border=cv2.BORDER_REPLICATE) for f in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """The location of a sample's labels, for messages."""
        return f"{self.files(i)[2]}: field 'joint_3d'"

    def file_checks(self) -> list[Callable[[], Any]]:
        """Returns no checks, since opening the dataset has already read its sequences."""
        return []

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample; each returns findings or raises InputError."""
        color, depth = read_once(self.color, i), read_once(self.depth, i)
        return [color, depth, lambda: self._look(i, color, depth)]

    def _look(self, i: int, color: Reading, depth: Reading) -> list[str]:
        joints, K = self.joints(i), self.camera(i)
        if problems := implausible(joints, K, SIZE, self.name(i)):
            return problems
        frame = Frame(color(), joints, K, self.is_left(i), depth_mm=depth())
        return disagreements(frame, self.name(i), self.joints_px(i))

    def checked_count(self) -> int:
        """The number of samples to check."""
        return len(self)

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""
        return {
            "dataset": "DexYCB",
            "split": self.split,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }
