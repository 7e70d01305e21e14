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

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ...runtime.files import read_file
from ..geometry import is_camera
from ..picture_files import MOST_PICTURE_BYTES
from ..skeleton import JOINTS
from . import real_hands
from .checks import disagreements
from .reading import (
    TWO_BYTES,
    as_numbers,
    expect_folder,
    is_made,
    read_depth,
    read_json_value,
    read_npz,
    read_photograph,
)
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
from .without_label import assumed_joints

FILES = ("joints.json", "joints.npz")
LAYOUT = "expected a folder with joints.json or joints.npz beside its pictures (docs/recordings.md)"
HINT = "see docs/recordings.md"
UNITS_MM = {"joints_mm": 1.0, "joints_cm": 10.0, "joints_m": 1000.0}
FIELDS = (
    *("image", "K", "side", *UNITS_MM, "depth", "depth_unit_mm", "depth_two_bytes", "visible"),
    *("joints_px", "box", "split", "person", "sequence", "order"),
)
TEST_SHARE, VALIDATION_SHARE = 1 / 5, 1 / 6  # of all; of the training frames
ALL, TRAIN, TEST, FIT, VALIDATION = "all", "train", "test", "fit", "validation"

Record = dict[str, Any]


class Records(NamedTuple):
    """What a folder's file holds. name: of the file."""

    name: str
    records: list[Record]


class Label(NamedTuple):
    """Of one hand, in our order. joints_mm: None where there is no label."""

    joints_mm: Joints | None
    K: Matrix
    left: bool
    visible: Visible


@lru_cache(maxsize=4)
def _read_records(root: str, _changed: tuple[float, ...]) -> Records:
    home = Path(root)
    for name in FILES:
        if (home / name).exists():
            path = home / name
            records = _from_json(path) if path.suffix == ".json" else _from_npz(path)
            return Records(str(path), records)
    if all((home / name).exists() for name in real_hands.FILES):
        return Records(str(home / real_hands.LABELS), real_hands.records_of(root))
    raise InputError(f"{root}: has neither {' nor '.join(FILES)}; {LAYOUT}")


def _changed(root: str) -> tuple[float, ...]:
    paths = [Path(root) / name for name in (*FILES, *real_hands.FILES)]
    return tuple(path.stat().st_mtime for path in paths if path.exists())


def read_records(root: str) -> Records:
    """The records of a folder, read again when its file has changed.

    Raises:
        InputError: there is no such file, or it is not as described above.
    """
    expect_folder(root, LAYOUT)
    return _read_records(root, _changed(root))


def _from_json(path: Path) -> list[Record]:
    held = read_json_value(path, "a list of records")
    shared: Record = {}
    if isinstance(held, dict):
        shared = {key: value for key, value in held.items() if key != "samples"}
        held = held.get("samples")
    if not isinstance(held, list) or not held:
        found = f"an empty {type(held).__name__}" if held in ([], {}) else type(held).__name__
        raise InputError(
            f'{path}: expected a list of records, or {{"samples": that list}}, found {found}; '
            f"{HINT}"
        )
    for number, record in enumerate(held):
        if not isinstance(record, dict):
            raise InputError(
                f"{path}: record {number} is {type(record).__name__}, expected fields; {HINT}"
            )
        _expect_known(record, f"{path}: record {number}")
    _expect_known(shared, str(path))
    return [_without_null(shared | record) for record in held]


def _without_null(record: Record) -> Record:
    """JSON's null is what is left out."""
    return {field: value for field, value in record.items() if value is not None}


def _expect_known(record: Record, name: str) -> None:
    for field in record:
        if field not in FIELDS:
            raise InputError(
                f"{name} has a field {field!r}, which nothing here reads; known are "
                f"{', '.join(FIELDS)}"
            )


def _from_npz(path: Path) -> list[Record]:
    held = read_npz(path, "labels", HINT)
    _expect_known(held, str(path))
    images = held.get("image")
    if images is None or images.ndim != 1 or not len(images) or images.dtype.kind != "U":
        raise InputError(f"{path}: expected the field 'image', names of (N,); {HINT}")
    count = len(images)
    records: list[Record] = [{} for _ in range(count)]
    for field, values in held.items():
        shared = values.ndim == 0 or field == "order"
        shared = shared or (field == "K" and (values.ndim == 1 or values.shape == (3, 3)))
        if not shared and len(values) != count:
            raise InputError(
                f"{path}: field {field!r} has {len(values)} entries, 'image' {count}; expected one "
                "a hand"
            )
        for number, record in enumerate(records):
            value = values if shared else values[number]
            may_miss = field in UNITS_MM or field == "box"
            if may_miss and value.dtype.kind == "f" and np.isnan(value).all():
                continue
            if value.dtype.kind == "U" and not value.ndim and not str(value):
                continue  # an empty name is none
            record[field] = value.tolist()
    return records


# ---- splits --------------------------------------------------------------------------------------
class Splits(NamedTuple):
    """{split: numbers of its records}, and how they came about."""

    numbers: dict[str, list[int]]
    rule: str


def splits_of(held: Records) -> Splits:
    """The splits that the records name; else the last fifth is the test, people or sequences whole.

    Raises:
        InputError: a split cuts through a person or a sequence, or only some records name one.
    """
    records = held.records
    _refuse_half_named(held)
    named = [record.get("split") for record in records]
    if any(split is not None for split in named):
        for number, split in enumerate(named):
            if not isinstance(split, str) or split in ("", ALL, FIT, VALIDATION):
                raise InputError(
                    f"{held.name}: record {number}, field 'split' is {split!r}; expected a name "
                    f"other than {ALL}, {FIT} and {VALIDATION}, in every record or in none"
                )
        found: dict[str, list[int]] = {}
        for number, split in enumerate(named):
            found.setdefault(str(split), []).append(number)
        _refuse_cut(held, named)
        return Splits(found, "as the records name it")
    first, last, rule = _cut(held, range(len(records)), TEST_SHARE)
    return Splits({TRAIN: first, TEST: last}, rule)


@lru_cache(maxsize=16)
def _numbers_of(root: str, split: str, _changed: tuple[float, ...]) -> tuple[int, ...]:
    held = read_records(root)
    known = splits_of(held).numbers
    numbers: Sequence[int]
    if split in (FIT, VALIDATION, TRAIN, "") and TRAIN in known:
        fit, validation, _ = _cut(held, known[TRAIN], VALIDATION_SHARE)
        numbers = {FIT: fit, VALIDATION: validation}.get(split, [*fit, *validation])
    elif split == ALL or (not split and TRAIN not in known):
        numbers = range(len(held.records))
    elif (split or TRAIN) in known:
        numbers = known[split or TRAIN]
    else:
        raise InputError(
            f"{held.name}: --split: expected one of {', '.join([*known, ALL])}, got {split!r}"
        )
    if not numbers:
        raise InputError(
            f"{held.name}: the split {split or TRAIN!r} has no records: there are "
            f"{len(held.records)} in all; take --split {ALL}, or name splits"
        )
    return tuple(numbers)


# What no split may cut through, the widest first: all that share one are together.
TOGETHER = (("person", "sequence", "image"), ("sequence", "image"), ("image",))
WHOLE = {"person": "people", "sequence": "sequences", "image": "pictures"}


def _cut(held: Records, numbers: Sequence[int], share: float) -> tuple[list[int], list[int], str]:
    """The numbers in two: about `share` of them at the end; no group is cut.

    Groups are whole people where there are several, else whole sequences, else whole pictures.
    """
    for fields in TOGETHER:
        if fields[0] != "image" and not any(fields[0] in held.records[n] for n in numbers):
            continue
        groups = _groups(held, numbers, fields)
        if len(groups) > 1:
            break
    last: list[int] = []
    while len(groups) > 1 and len(last) < share * len(numbers) - 0.5:
        last += groups.pop()
    if not last:
        return [], list(numbers), "all of one picture"
    kept = sorted(number for group in groups for number in group)
    rule = f"the last of them are held out, whole {WHOLE[fields[0]]}"
    return kept, sorted(last), rule


def _groups(held: Records, numbers: Sequence[int], fields: Sequence[str]) -> list[list[int]]:
    """The numbers, those together that share a field's value, in the order of their last ones."""
    home = {number: number for number in numbers}

    def root_of(number: int) -> int:
        while home[number] != number:
            number = home[number]
        return number

    first: dict[tuple[str, str], int] = {}
    pictures = pictures_of(held)
    for number in numbers:
        for field in fields:
            if field in held.records[number]:
                value = pictures[number] if field == "image" else held.records[number][field]
                other = first.setdefault((field, str(value)), number)
                home[root_of(number)] = root_of(other)
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(root_of(number), []).append(number)
    return sorted(groups.values(), key=lambda group: group[-1])


def pictures_of(held: Records) -> list[str]:
    """Which picture each record is of, however its file is spelled, linked or copied."""
    home = Path(held.name).parent
    names = [str(record.get("image", "")) for record in held.records]
    facts: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(names):
        try:
            found = (home / name).stat()
        except (OSError, ValueError):  # named where it is read
            facts[name] = (-1, 0)
        else:
            facts[name] = (found.st_size, found.st_mtime_ns)
    known = _identities(str(home), tuple(facts.items()))
    return [known[name] for name in names]


@lru_cache(maxsize=8)
def _identities(home: str, facts: tuple[tuple[str, tuple[int, int]], ...]) -> dict[str, str]:
    """{name: its picture}: of files of one size their bytes decide, of others their place."""
    sizes = Counter(size for _, (size, _) in facts)
    found = {}
    for name, (size, _) in facts:
        path = Path(home) / name
        found[name] = os.path.normpath(path)
        if size > 0 and sizes[size] > 1 and path.is_file():
            data = read_file(path, "a picture", HINT, MOST_PICTURE_BYTES)
            found[name] = hashlib.blake2b(data).hexdigest()
    return found


def _refuse_half_named(held: Records) -> None:
    for field in ("person", "sequence"):
        named = [field in record for record in held.records]
        if any(named) and not all(named):
            raise InputError(
                f"{held.name}: record {named.index(False)} has no field {field!r}, others "
                "have one; expected it in every record or in none: no split may cut through one"
            )


def _refuse_cut(held: Records, named: Sequence[Any]) -> None:
    pictures = pictures_of(held)
    for field in ("person", "sequence", "image"):
        home: dict[str, str] = {}
        for number, (record, split) in enumerate(zip(held.records, named, strict=True)):
            name = record.get(field)
            if name is None:
                continue
            value = pictures[number] if field == "image" else str(name)
            other = home.setdefault(value, split)
            if other != split:
                raise InputError(
                    f"{held.name}: record {number}: {field} {name!r} is in the splits {other!r} "
                    f"and {split!r}; give each {field} to one"
                )


# ---- the dataset ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Folder:
    """A split of a folder of recordings."""

    root: str
    split: str = ""
    """A split that the records name; else train or test. fit and validation are parts of train,
    all is everything. Empty = train, or all where there is no such split."""
    px: int = 320
    margin: float = 1.25

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
            joints = assumed_joints(rgb, K, left, self.box(i), depth, self.name(i))
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
