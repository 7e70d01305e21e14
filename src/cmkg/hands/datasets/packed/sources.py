"""Checksums of the source files of a packed set.

They reveal labels or pictures that changed after packing, when a pack is reused or resumed.
Rendered scenes have no files, since their settings determine them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....runtime.files import read_file
from ..sample import Dataset

MODULUS = 1 << 62  # keeps sums of checksums within 64 bits


def has_files(dataset: Dataset) -> bool:
    """Whether the dataset is read from files, not rendered."""
    return hasattr(dataset, "files") and hasattr(dataset, "label_files")


def labels_checksum(dataset: Dataset) -> int | None:
    """The crc32 of all label files; None for a dataset without files."""
    if not has_files(dataset):
        return None
    value = 0
    for path in dataset.label_files():  # type: ignore[attr-defined]
        if path.is_file():
            value = zlib.crc32(read_file(path, "labels", "copy it again"), value)
    return value


def files_checksum(dataset: Dataset, numbers: Iterable[int]) -> int:
    """An additive checksum of the contents of these samples' files.

    Missing files are skipped here; they are reported when they are read.
    """
    total = 0
    if not has_files(dataset):
        return 0
    for number in numbers:
        value = zlib.crc32(str(number).encode())
        for path in dataset.files(number):  # type: ignore[attr-defined]
            if path.is_file():
                value = zlib.crc32(read_file(path, "a picture", "copy it again"), value)
        total = (total + value * 0x9E3779B1) % MODULUS
    return total


def files_stamp(dataset: Dataset) -> int:
    """A fast checksum of file names, sizes and times, which reveals possible changes."""
    value = 0
    if not has_files(dataset):
        return 0
    for number in range(len(dataset)):
        for path in dataset.files(number):  # type: ignore[attr-defined]
            value = zlib.crc32(f"{path.name} {_facts(path)}".encode(), value)
    return value


def _facts(path: Path) -> Any:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def expect_same_files(dataset: Dataset, held: Any, folder: Path) -> None:
    """Rejects a packed set whose source pictures have changed since.

    Args:
        dataset: the dataset in its current state.
        held: "sources" of the set's meta.json.
        folder: the set's folder.

    Raises:
        InputError: the pictures have changed.
    """
    if not has_files(dataset) or not isinstance(held, dict):
        return
    if files_stamp(dataset) == held.get("stamp"):
        return
    if files_checksum(dataset, range(len(dataset))) != held.get("files"):
        raise InputError(
            f"{folder}: was packed from other pictures than lie there now (checksums); remove it "
            "or choose another folder"
        )
