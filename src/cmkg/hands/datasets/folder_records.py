"""Reads joints.json or joints.npz of a folder of recordings: one record per hand."""

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
    """The records of a folder, and the name of the file that they were read from."""

    name: str
    records: list[Record]


@lru_cache(maxsize=4)
def read_records_once(root: str, _times: tuple[float, ...]) -> Records:
    """Reads the records of a folder; cached until its files change.

    Raises:
        InputError: the folder has no such file.
    """
    home = Path(root)
    for name in FILES:
        if (home / name).exists():
            path = home / name
            records = _from_json(path) if path.suffix == ".json" else _from_npz(path)
            return Records(str(path), records)
    if all((home / name).exists() for name in real_hands.FILES):
        return Records(str(home / real_hands.LABELS), real_hands.records_of(root))
    raise InputError(f"{root}: has neither {' nor '.join(FILES)}; {LAYOUT}")


def modification_times(root: str) -> tuple[float, ...]:
    """Returns when the label files of a folder were last changed."""
    paths = [Path(root) / name for name in (*FILES, *real_hands.FILES)]
    return tuple(path.stat().st_mtime for path in paths if path.exists())


def read_records(root: str) -> Records:
    """Reads the records of a folder, again if its file has changed.

    Raises:
        InputError: the file is missing, or not in the documented format.
    """
    expect_folder(root, LAYOUT)
    return read_records_once(root, modification_times(root))


def _from_json(path: Path) -> list[Record]:
    content = read_json_value(path, "a list of records")
    shared: Record = {}
    if isinstance(content, dict):
        shared = {key: value for key, value in content.items() if key != "samples"}
        content = content.get("samples")
    if not isinstance(content, list) or not content:
        kind = (
            f"an empty {type(content).__name__}" if content in ([], {}) else type(content).__name__
        )
        raise InputError(
            f'{path}: expected a list of records, or {{"samples": that list}}, found {kind}; {HINT}'
        )
    for number, record in enumerate(content):
        if not isinstance(record, dict):
            raise InputError(
                f"{path}: record {number} is {type(record).__name__}, expected fields; {HINT}"
            )
        _expect_known(record, f"{path}: record {number}")
    _expect_known(shared, str(path))
    return [_without_null(shared | record) for record in content]


def _without_null(record: Record) -> Record:
    """Drops the fields whose value is null."""
    return {field: value for field, value in record.items() if value is not None}


def _expect_known(record: Record, name: str) -> None:
    for field in record:
        if field not in FIELDS:
            raise InputError(
                f"{name} has a field {field!r}, which nothing here reads; known are "
                f"{', '.join(FIELDS)}"
            )


def _from_npz(path: Path) -> list[Record]:
    arrays = read_npz(path, "labels", HINT)
    _expect_known(arrays, str(path))
    images = arrays.get("image")
    if images is None or images.ndim != 1 or not len(images) or images.dtype.kind != "U":
        raise InputError(f"{path}: expected the field 'image', names of (N,); {HINT}")
    count = len(images)
    records: list[Record] = [{} for _ in range(count)]
    for field, values in arrays.items():
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
                continue  # an empty name means that the field is absent
            record[field] = value.tolist()
    return records


def pictures_of(held: Records) -> list[str]:
    """Identifies each record's picture, even across links, copies and different spellings."""
    home = Path(held.name).parent
    names = [str(record.get("image", "")) for record in held.records]
    facts: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(names):
        try:
            status = (home / name).stat()
        except (OSError, ValueError):  # reported when the picture is read
            facts[name] = (-1, 0)
        else:
            facts[name] = (status.st_size, status.st_mtime_ns)
    known = _identities(str(home), tuple(facts.items()))
    return [known[name] for name in names]


@lru_cache(maxsize=8)
def _identities(home: str, facts: tuple[tuple[str, tuple[int, int]], ...]) -> dict[str, str]:
    """Maps names to pictures: by content for files of equal size, otherwise by path."""
    sizes = Counter(size for _, (size, _) in facts)
    identities = {}
    for name, (size, _) in facts:
        path = Path(home) / name
        identities[name] = os.path.normpath(path)
        if size > 0 and sizes[size] > 1 and path.is_file():
            data = read_file(path, "a picture", HINT, MOST_PICTURE_BYTES)
            identities[name] = hashlib.blake2b(data).hexdigest()
    return identities
