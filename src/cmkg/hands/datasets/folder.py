"""Anyone's recordings: a folder with joints.json (or joints.npz) beside its pictures.

joints.json is a list with one record a hand, or {"samples": that list, ...}, where what stands
beside the list holds for every record that does not say otherwise:

    image       the picture's file, from the folder on; several records may name one picture
    K           the camera: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], or [fx, fy, cx, cy], in pixels
    side        "right" or "left"
    joints_mm   21 x 3 in the camera's frame (x right, y down, z forward); or joints_cm, joints_m.
                Left out: a hand without a label, which distillation uses all the same
    depth       the depth map's file, registered to the picture: a 16-bit PNG, a PNG with a depth's
                two bytes in red and green, or .npy; 0 = not measured
    depth_unit_mm     millimetres of a step of the depth
    depth_two_bytes   "red-high" or "red-low": which byte of a depth is in red
    visible     21 of true and false: which joints are seen; left out: all
    joints_px   21 x 2: where the joints are on the picture, for `cmkg data verify`
    box         x, y, width, height in pixels, of a hand without a label
    split       "train", "test", ...; left out: the last fifth is the test
    person, sequence   whose hand it is, and what it was recorded in: no split cuts through one
    order       the names of the 21 joints in the file's order, if it is not skeleton.JOINTS

joints.npz holds the same names as arrays with an entry a hand; a label of nan is none. The folder
of the 460 real hands (images/, params.mat, pose_gt.mat) is read as such a folder.
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
    _changed,
    _read_records,
    read_records,
)
from .folder_splits import TRAIN, _numbers_of, splits_of
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
    """Of one hand, in our order. joints_mm: None where there is no label."""

    joints_mm: Joints | None
    K: Matrix
    left: bool
    visible: Visible


# ---- splits --------------------------------------------------------------------------------------


# ---- the dataset ---------------------------------------------------------------------------------
# (picture, K, is left, box, depth in mm, what begins a message) -> joints in mm.
Locate = Callable[
    [np.ndarray, Matrix, bool, tuple[float, ...] | None, np.ndarray | None, str], Joints
]


@dataclass(frozen=True)
class Folder:
    """A split of a folder of recordings."""

    root: str
    split: str = ""
    """A split that the records name; else train or test. fit and validation are parts of train,
    all is everything. Empty = train, or all where there is no such split."""
    px: int = 320
    margin: float = 1.25
    locate: Locate | None = None
    """Where the joints of a hand without a label are, roughly: distillation crops around them. None
    = such a record is refused."""

    @property
    def _records(self) -> Records:
        return read_records(self.root)

    def numbers(self) -> tuple[int, ...]:
        """The records of the split."""
        expect_folder(self.root, LAYOUT)
        return _numbers_of(self.root, self.split, _changed(self.root))

    def __len__(self) -> int:
        return len(self.numbers())

    def record(self, i: int) -> Record:
        """The record of a sample, as it stands in the file."""
        return self._records.records[self.numbers()[i]]

    def name(self, i: int) -> str:
        """Where a sample stands."""
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
        """The files of labels that are no sample's own."""
        return [Path(_read_records(self.root, _changed(self.root)).name)]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """RGB."""
        return read_photograph(self.image(i), hint=HINT)

    def depth(self, i: int, size: tuple[int, int]) -> Shaped[np.ndarray, "h w"] | None:
        """Millimetres, of the picture's size; None where there is none."""
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
        """The hand of a sample."""
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
        """Where the record says that the joints are on the picture."""
        if "joints_px" not in self.record(i):
            return None
        return self._number(i, "joints_px", (21, 2))[self._order(i)]

    def box(self, i: int) -> tuple[float, ...] | None:
        """x, y, width, height of a hand without a label."""
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
        """The picture with its labels; without any, with joints that were assumed."""
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
            if found := implausible(joints, K, size, "there"):
                raise InputError(
                    f"{self.name(i)} has no label, and what is assumed of its hand cannot be "
                    f"({found[0]}); look at its 'box', 'K' and 'depth_unit_mm'"
                )
        refuse_implausible(joints, K, size, self.name(i))
        return Frame(rgb, joints, K, left, visible, depth, labelled)

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """The samples of these numbers; where a box leaves the picture its edge is repeated."""
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(f, self.px, self.margin, border=cv2.BORDER_REPLICATE) for f in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def file_checks(self) -> list[Callable[[], Any]]:
        """What must hold of the whole: each returns sentences, or raises InputError."""
        return [self.numbers, self._same_hand_twice]

    def has_label(self, i: int) -> bool:
        """Whether a sample's record has joints."""
        return any(self.record(i).get(unit) is not None for unit in UNITS_MM)

    def _same_hand_twice(self) -> list[str]:
        seen: dict[tuple[str, str], int] = {}
        found = []
        for i in range(len(self)):
            record = self.record(i)
            what = [record.get(field) for field in (*UNITS_MM, "side", "box")]
            key = (str(record.get("image")), str(what))
            if key in seen:
                found.append(f"{self.name(i)} is record {seen[key]} again: the same hand twice")
            seen.setdefault(key, self.numbers()[i])
        return found

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """What must hold of a sample: each returns sentences, or raises InputError."""
        return [lambda: self._look(i)]

    def _look(self, i: int) -> list[str]:
        joints, K, left, visible = self.label(i)
        if joints is None:
            self.frame(i)  # what is assumed of it is looked at
            return []
        rgb = self.color(i)
        size = (rgb.shape[0], rgb.shape[1])
        depth = self.depth(i, size)
        if found := implausible(joints, K, size, self.name(i)):
            return found
        frame = Frame(rgb, joints, K, left, visible, depth)
        return disagreements(frame, self.name(i), uv=self.joints_px(i))

    def checked_count(self) -> int:
        """How many samples there are to check: none where the split cannot be told."""
        try:
            return len(self)
        except InputError:
            return 0

    def _checksum(self) -> int:
        """Of the split's records and their files' sizes: other labels, another packed set."""
        held = json.dumps([self.record(i) for i in range(len(self))], sort_keys=True, default=str)
        sizes = [
            path.stat().st_size if path.is_file() else -1
            for i in range(len(self))
            for path in self._named_files(i)
        ]
        return zlib.crc32(f"{held}{sizes}".encode())

    def _named_files(self, i: int) -> list[Path]:
        """The files that a record names, whatever else is wrong with it."""
        names = [self.record(i).get(field) for field in ("image", "depth")]
        return [Path(self.root) / name for name in names if isinstance(name, str)]

    def describe(self) -> dict[str, Any]:
        """What the set is, as plain JSON."""
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
    """Refuses a camera that cannot be one."""
    if not is_camera(K):
        raise InputError(
            f"{name}, field 'K': focal lengths {K[0, 0]:g} and {K[1, 1]:g}, last row "
            f"{K[2].tolist()}; expected positive pixels and [0, 0, 1]"
        )


def _is_even(value: Any) -> bool:
    """Whether a value is a list of numbers alone."""
    return isinstance(value, list) and all(isinstance(one, (int, float)) for one in value)
