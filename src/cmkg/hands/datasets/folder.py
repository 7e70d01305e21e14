"""User recordings: a folder with joints.json (or joints.npz) beside its pictures.

joints.json is a list with one record per hand, or {"samples": that list, ...}, where the fields
beside the list are defaults for every record:

    image       the picture's path, relative to the folder; several records may name one picture
    K           the camera: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], or [fx, fy, cx, cy], in pixels
    side        "right" or "left"
    joints_mm   21 x 3 in the camera's frame (x right, y down, z forward); or joints_cm, joints_m.
                If omitted, the hand is unlabeled; distillation can still use it
    depth       the depth map's file, registered to the picture: a 16-bit PNG, a PNG with a depth's
                two bytes in red and green, or .npy; 0 = not measured
    depth_unit_mm     millimeters per depth step
    depth_two_bytes   "red-high" or "red-low": which byte of the depth is in red
    visible     21 booleans: which joints are visible; all by default
    joints_px   21 x 2: joint positions on the picture, for `cmkg data verify`
    box         x, y, width, height in pixels, of an unlabeled hand
    split       "train", "test", ...; by default the last fifth is the test split
    person, sequence   identifiers of the person and the recording; no split divides either
    order       the names of the 21 joints in the file's order, if it differs from skeleton.JOINTS

joints.npz holds the same fields as arrays with one entry per hand; a label of NaN means unlabeled.
The folder of the 460 real hands (images/, params.mat, pose_gt.mat) is read in the same way.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ..files.reading import (
    TWO_BYTES,
    as_numbers,
    expect_folder,
    is_made,
    read_depth,
    read_photograph,
)
from ..geometry import is_camera
from ..skeleton import JOINTS
from .folder_records import (
    HINT,
    LAYOUT,
    UNITS_MM,
    Record,
    Records,
    modification_times,
    read_records,
    read_records_once,
)
from .folder_splits import TRAIN, numbers_in_split, splits_of
from .label_checks import disagreements
from .sample import (
    EVERY_JOINT,
    Frame,
    Joints,
    Matrix,
    Sample,
    Visible,
    crop_frame,
    implausible,
    refuse_implausible,
)


class Label(NamedTuple):
    """The label of one hand in this project's joint order; joints_mm is None if unlabeled."""

    joints_mm: Joints | None
    K: Matrix
    left: bool
    visible: Visible


# ---- the dataset ---------------------------------------------------------------------------------
# (picture, K, is left, box, depth in mm, prefix of error messages) -> joints in mm.
Locate = Callable[
    [np.ndarray, Matrix, bool, tuple[float, ...] | None, np.ndarray | None, str], Joints
]


@dataclass(frozen=True)
class Folder:
    """A split of a folder of recordings."""

    root: str
    split: str = ""
    """A split named by the records, otherwise train or test. fit and validation are parts of
    train; all is everything. Empty = train, or all if there is no train split."""
    px: int = 320
    margin: float = 1.25
    locate: Locate | None = None
    """Estimates the rough joint positions of an unlabeled hand, which distillation crops around.
    None = unlabeled records are rejected."""

    @property
    def _records(self) -> Records:
        return read_records(self.root)

    def numbers(self) -> tuple[int, ...]:
        """The records of the split."""
        expect_folder(self.root, LAYOUT)
        return numbers_in_split(self.root, self.split, modification_times(self.root))

    def __len__(self) -> int:
        return len(self.numbers())

    def record(self, i: int) -> Record:
        """The record of a sample, as read from the file."""
        return self._records.records[self.numbers()[i]]

    def name(self, i: int) -> str:
        """The location of a sample, for messages."""
        return f"{self._records.name}: record {self.numbers()[i]}"

    def _text(self, i: int, field: str, among: Sequence[str] = ()) -> str:
        value = self.record(i).get(field)
        is_text = isinstance(value, str) and bool(value) and "\0" not in value
        if not is_text or (among and value not in among):
            expected = " or ".join(map(repr, among)) if among else "text"
            raise InputError(
                f"{self.name(i)}, field {field!r} is {value!r:.60}; expected {expected}"
            )
        return str(value)

    def _number(self, i: int, field: str, shape: tuple[int, ...]) -> np.ndarray:
        name = f"{self.name(i)}, field {field!r}"
        return as_numbers(self.record(i)[field], shape, name, HINT)

    def image(self, i: int) -> Path:
        """The file of a sample's picture."""
        return Path(self.root) / self._text(i, "image")

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        paths = [self.image(i)]
        if "depth" in self.record(i):
            paths.append(Path(self.root) / self._text(i, "depth"))
        return paths

    def label_files(self) -> list[Path]:
        """Label files that samples share."""
        return [Path(read_records_once(self.root, modification_times(self.root)).name)]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """The RGB picture."""
        return read_photograph(self.image(i), hint=HINT)

    def depth(self, i: int, size: tuple[int, int]) -> Shaped[np.ndarray, "h w"] | None:
        """Depth in millimeters, of the picture's size; None if there is no depth map."""
        record = self.record(i)
        if "depth" not in record:
            return None
        path = Path(self.root) / self._text(i, "depth")
        if "depth_unit_mm" not in record:
            raise InputError(
                f"{self.name(i)} has a depth map and no field 'depth_unit_mm'; expected the "
                "millimetres of a step: 1 for a RealSense or Kinect in mm"
            )
        unit = float(self._number(i, "depth_unit_mm", ()))
        if unit <= 0:
            raise InputError(f"{self.name(i)}, field 'depth_unit_mm' is {unit:g}; expected more")
        two_bytes = ""
        if "depth_two_bytes" in record:
            two_bytes = self._text(i, "depth_two_bytes", TWO_BYTES)
        depth = read_depth(path, unit, two_bytes, hint=HINT)
        if depth.shape != size:
            raise InputError(
                f"{path}: expected {size[1]} x {size[0]} pixels as the picture {self.image(i)}, "
                f"found {depth.shape[1]} x {depth.shape[0]}; register the depth to the picture"
            )
        return depth

    def label(self, i: int) -> Label:
        """The label of a sample."""
        record = self.record(i)
        left = self._text(i, "side", ("right", "left")) == "left"
        if "K" not in record:
            raise InputError(f"{self.name(i)} has no field 'K'; expected the camera; {HINT}")
        short = np.shape(record["K"]) == (4,) if _is_even(record["K"]) else False
        if short:
            fx, fy, cx, cy = self._number(i, "K", (4,))
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        else:
            K = self._number(i, "K", (3, 3))
        order = self._order(i)
        visible = EVERY_JOINT.copy()
        if "visible" in record:
            visible = self._number(i, "visible", (21,))[order] > 0
        units = [unit for unit in UNITS_MM if unit in record and record[unit] is not None]
        if len(units) > 1:
            raise InputError(f"{self.name(i)} has {' and '.join(units)}; expected one of them")
        joints = None
        if units:
            joints = UNITS_MM[units[0]] * self._number(i, units[0], (21, 3))[order]
        return Label(joints, K, left, visible)

    def _order(self, i: int) -> list[int]:
        order = self.record(i).get("order")
        if order is None:
            return list(range(21))
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(JOINTS):
            raise InputError(
                f"{self.name(i)}, field 'order': expected the names {', '.join(JOINTS)}, each once"
            )
        return [order.index(joint) for joint in JOINTS]

    def joints_px(self, i: int) -> Float[np.ndarray, "21 2"] | None:
        """Annotated joint positions on the picture."""
        if "joints_px" not in self.record(i):
            return None
        return self._number(i, "joints_px", (21, 2))[self._order(i)]

    def box(self, i: int) -> tuple[float, ...] | None:
        """The box of an unlabeled hand: x, y, width, height."""
        if self.record(i).get("box") is None:
            return None
        box = tuple(self._number(i, "box", (4,)).tolist())
        if min(box[2:]) <= 0:
            raise InputError(
                f"{self.name(i)}, field 'box' is {list(box)}; expected x, y, width, height in "
                "pixels"
            )
        return box

    def frame(self, i: int) -> Frame:
        """The picture with its label, or with assumed joints if it is unlabeled."""
        joints, K, left, visible = self.label(i)
        rgb = self.color(i)
        size = (rgb.shape[0], rgb.shape[1])
        depth = self.depth(i, size)
        labelled = joints is not None
        if joints is None:
            refuse_camera(K, self.name(i))
            if self.locate is None:
                raise InputError(f"{self.name(i)} has no label (joints_mm, joints_cm or joints_m)")
            joints = self.locate(rgb, K, left, self.box(i), depth, self.name(i))
            if problems := implausible(joints, K, size, "there"):
                raise InputError(
                    f"{self.name(i)} has no label, and what is assumed of its hand cannot be "
                    f"({problems[0]}); look at its 'box', 'K' and 'depth_unit_mm'"
                )
        refuse_implausible(joints, K, size, self.name(i))
        return Frame(rgb, joints, K, left, visible, depth, labelled)

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number; a box that leaves the picture is padded by edge replication."""
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(f, self.px, self.margin, border=cv2.BORDER_REPLICATE) for f in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of the whole dataset; each returns findings or raises InputError."""
        return [self.numbers, self._same_hand_twice]

    def has_label(self, i: int) -> bool:
        """Whether a sample is labeled."""
        return any(self.record(i).get(unit) is not None for unit in UNITS_MM)

    def _same_hand_twice(self) -> list[str]:
        seen: dict[tuple[str, str], int] = {}
        duplicates = []
        for i in range(len(self)):
            record = self.record(i)
            what = [record.get(field) for field in (*UNITS_MM, "side", "box")]
            key = (str(record.get("image")), str(what))
            if key in seen:
                duplicates.append(
                    f"{self.name(i)} is record {seen[key]} again: the same hand twice"
                )
            seen.setdefault(key, self.numbers()[i])
        return duplicates

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample; each returns findings or raises InputError."""
        return [lambda: self._look(i)]

    def _look(self, i: int) -> list[str]:
        joints, K, left, visible = self.label(i)
        if joints is None:
            self.frame(i)  # checks the assumed joints
            return []
        rgb = self.color(i)
        size = (rgb.shape[0], rgb.shape[1])
        depth = self.depth(i, size)
        if problems := implausible(joints, K, size, self.name(i)):
            return problems
        frame = Frame(rgb, joints, K, left, visible, depth)
        return disagreements(frame, self.name(i), uv=self.joints_px(i))

    def checked_count(self) -> int:
        """The number of samples to check; 0 if the split cannot be determined."""
        try:
            return len(self)
        except InputError:
            return 0

    def _checksum(self) -> int:
        """Checksum of the split's records and file sizes, which detects changed labels."""
        records = json.dumps(
            [self.record(i) for i in range(len(self))], sort_keys=True, default=str
        )
        sizes = [
            path.stat().st_size if path.is_file() else -1
            for i in range(len(self))
            for path in self._named_files(i)
        ]
        return zlib.crc32(f"{records}{sizes}".encode())

    def _named_files(self, i: int) -> list[Path]:
        """The files that a record names, even if the record is invalid otherwise."""
        names = [self.record(i).get(field) for field in ("image", "depth")]
        return [Path(self.root) / name for name in names if isinstance(name, str)]

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""
        without = sum(not self.has_label(i) for i in range(len(self)))
        depth = [("depth" in self.record(i)) for i in range(len(self))]
        if any(depth) and not all(depth):
            raise InputError(
                f"{self.name(depth.index(False))} has no depth map, others of its split have one; "
                "expected depth in all records of a split or in none"
            )
        return {
            "dataset": "folder",
            "recordings": Path(self.root).resolve().name,
            "split": self.split or TRAIN,
            "rule": splits_of(self._records).rule,
            "count": len(self),
            "without_label": without,
            "records_crc32": self._checksum(),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }


def refuse_camera(K: Matrix, name: str) -> None:
    """Rejects an invalid camera matrix."""
    if not is_camera(K):
        raise InputError(
            f"{name}, field 'K': focal lengths {K[0, 0]:g} and {K[1, 1]:g}, last row "
            f"{K[2].tolist()}; expected positive pixels and [0, 0, 1]"
        )


def _is_even(value: Any) -> bool:
    """Whether a value is a flat list of numbers."""
    return isinstance(value, list) and all(isinstance(item, (int, float)) for item in value)
