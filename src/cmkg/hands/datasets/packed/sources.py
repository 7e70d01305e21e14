"""What a packed set was made from: checksums of the dataset's own files.

A set whose labels or pictures were corrected after it was packed is told, in a pack that is reused
or gone on with. Rendered scenes have no files: their settings say all.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....runtime.files import read_file
from ..sample import Dataset

MODULUS = 1 << 62  # sums of checksums stay in 64 bits


def has_files(dataset: Dataset) -> bool:
    """Whether it is read from files, not rendered."""
    return hasattr(dataset, "files") and hasattr(dataset, "label_files")


def labels_checksum(dataset: Dataset) -> int | None:
    """The crc32 of the bytes of all label files; None of a dataset without files."""
    if not has_files(dataset):
        return None
    value = 0
    for path in dataset.label_files():  # type: ignore[attr-defined]
        if path.is_file():
            value = zlib.crc32(read_file(path, "labels", "copy it again"), value)
    return value


def files_checksum(dataset: Dataset, numbers: Iterable[int]) -> int:
    """A number that any change of these samples' files changes; that of parts adds up.

    A file that is missing counts, too: it is named where it is read.
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
    """A number that says, without reading them, that the files may have changed."""
    value = 0
    if not has_files(dataset):
        return 0
    for number in range(len(dataset)):
        for path in dataset.files(number):  # type: ignore[attr-defined]
            value = zlib.crc32(f"{path.name} {_facts(path)}".encode(), value)
    return value


def _facts(path: Path) -> Any:
    try:
        held = path.stat()
    except OSError:
        return None
    return held.st_size, held.st_mtime_ns


def expect_same_files(dataset: Dataset, held: Any, folder: Path) -> None:
    """Refuses a packed set whose dataset's pictures were changed since.

    Args:
        dataset: as it is now.
        held: "sources" of the set's meta.json.
        folder: the set's.

    Raises:
        InputError: they were.
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
