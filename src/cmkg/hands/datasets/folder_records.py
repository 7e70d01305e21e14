"""Reads joints.json or joints.npz of a folder of recordings: one record a hand."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ...runtime.files import read_file
from ..files.picture_formats import MOST_PICTURE_BYTES
from ..files.reading import expect_folder, read_json_value, read_npz
from . import real_hands

FILES = ("joints.json", "joints.npz")


LAYOUT = "expected a folder with joints.json or joints.npz beside its pictures (docs/recordings.md)"


HINT = "see docs/recordings.md"


UNITS_MM = {"joints_mm": 1.0, "joints_cm": 10.0, "joints_m": 1000.0}


FIELDS = (
    *("image", "K", "side", *UNITS_MM, "depth", "depth_unit_mm", "depth_two_bytes", "visible"),
    *("joints_px", "box", "split", "person", "sequence", "order"),
)


Record = dict[str, Any]


class Records(NamedTuple):
    """What a folder's file holds. name: of the file."""

    name: str
    records: list[Record]


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
