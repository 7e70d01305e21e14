"""The .npy files of a packed set: checksums, and reading that cannot crash the process.

A file that is truncated or overwritten while a job reads it raises a clear error here. With memory
mapping it would kill the process (SIGBUS) or yield wrong numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ...runtime.files import BROKEN, PathLike, first_line, load_array, read_file, write_json

PACK_AGAIN = "pack the set again"
BLOCK = 1 << 24
MOST_HEADER_BYTES = 4096  # of an .npy
MOST_MEMORY_BYTES = 1 << 20  # of a cache file
WORTH_REMEMBERING = 1 << 26  # smallest file to cache, in bytes; others are read in milliseconds


# ---- checksums -----------------------------------------------------------------------------------
class _Stamp(NamedTuple):
    """File metadata that changes when the file is written."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> _Stamp:
        return cls(facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


_known: dict[str, tuple[_Stamp, int]] = {}  # {path: (stamp, checksum)} of this process


def checksum(path: PathLike) -> int:
    """Computes the crc32 of a file and caches it for `expect_checksum`."""
    path = Path(path).resolve()
    with open(path, "rb") as file:
        stamp = _Stamp.of(os.fstat(file.fileno()))
        value = 0
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    _remember(path, stamp, value)
    return value


def expect_checksum(path: PathLike, expected: int) -> None:
    """Rejects a file whose bytes have changed since packing.

    Checksums are cached across processes (see `remembered_in`), so a file with the same size and
    times is not read again.

    Raises:
        InputError: the file has changed, or cannot be read.
    """
    try:
        actual = _recall(Path(path).resolve())
        if actual is None:
            actual = checksum(path)
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); {PACK_AGAIN}") from None
    if actual != expected:
        raise InputError(
            f"{path}: its checksum is not the one in meta.json: its bytes are not those that were "
            f"packed; {PACK_AGAIN}"
        )


def remembered_in() -> Path:
    """The checksum cache's folder: $XDG_CACHE_HOME/cmkg/checksums."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()  # may raise
    return Path(home) / "cmkg" / "checksums"


def _memory_of(path: Path) -> Path:
    return remembered_in() / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def _recall(path: Path) -> int | None:
    """The cached checksum of a file in its current state; None if unknown."""
    stamp = _Stamp.of(os.stat(path))
    if str(path) not in _known:
        with suppress(BROKEN):
            data = read_file(_memory_of(path), "checksums", "", MOST_MEMORY_BYTES)
            *facts, value = (int(number) for number in json.loads(data))
            _known[str(path)] = _Stamp(*facts), value
    known = _known.get(str(path))
    return known[1] if known is not None and known[0] == stamp else None


def _remember(path: Path, stamp: _Stamp, value: int) -> None:
    _known[str(path)] = stamp, value
    if stamp.size < WORTH_REMEMBERING:
        return
    with suppress(
        OSError, RuntimeError
    ):  # without a writable home, checksums are cached per process only
        remembered_in().mkdir(parents=True, exist_ok=True)
        write_json(_memory_of(path), [*stamp, value])


# ---- reading -------------------------------------------------------------------------------------
def read_small_array(
    path: PathLike, shape: Sequence[int], dtype: str, expected_checksum: int
) -> np.ndarray:
    """Reads an .npy file into memory and verifies it.

    Raises:
        InputError: the file cannot be read, has another shape or type, or has changed.
    """
    described = f"{tuple(shape)} {dtype}"
    expected_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    data = read_file(path, described, PACK_AGAIN, expected_bytes + MOST_HEADER_BYTES)
    try:
        array = load_array(data)
    except BROKEN as error:
        raise InputError(
            f"{path}: expected {described}, could not read it ({first_line(error)}); {PACK_AGAIN}"
        ) from None
    _expect_described(path, array.shape, array.dtype, shape, dtype)
    if zlib.crc32(data) != expected_checksum:
        raise InputError(
            f"{path}: its checksum is not the one in meta.json: its bytes are not those that were "
            f"packed; {PACK_AGAIN}"
        )
    array.flags.writeable = False
    return array


def _expect_described(
    path: PathLike, shape: Sequence[int], dtype: np.dtype, expected: Sequence[int], kind: str
) -> None:
    if tuple(shape) != tuple(expected) or str(dtype) != kind:
        raise InputError(
            f"{path}: holds {tuple(shape)} {dtype}, meta.json says {tuple(expected)} {kind}; "
            f"{PACK_AGAIN}"
        )


class DiskArray:
    """An .npy file whose rows are read on demand: array[i], [i:j] or [numbers].

    Args:
        path: the file.
        shape: the required shape.
        dtype: the required type.

    Raises:
        InputError: the file cannot be read, or has another shape, type or length.
    """

    def __init__(self, path: PathLike, shape: Sequence[int], dtype: str) -> None:
        self.path = Path(path)
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        described = f"{self.shape} {dtype}"
        try:
            if not self.path.is_file():  # opening a pipe would block forever
                raise OSError("no such file")
            self._file: Any = open(path, "rb", buffering=0)  # noqa: SIM115 as long as this lives
            version = np.lib.format.read_magic(self._file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            stored_shape, column_major, kind = read(self._file, max_header_size=10_000)
        except BROKEN as error:
            raise InputError(
                f"{path}: expected {described}, could not read it ({first_line(error)}); "
                f"{PACK_AGAIN}"
            ) from None
        _expect_described(path, stored_shape, kind, shape, dtype)
        self._start = self._file.tell()
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._stamp = self._look()
        whole = self._start + len(self) * self._row_bytes
        if column_major or self._stamp.size != whole:
            raise InputError(
                f"{path}: expected {described} in {whole:,} bytes, it has {self._stamp.size:,}; "
                f"{PACK_AGAIN}"
            )

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Reads rows by number, slice or list of numbers, as NumPy does.

        Raises:
            InputError: the file was changed, or reading failed.
            IndexError: a row is out of range.
        """
        if isinstance(rows, (int, np.integer)):
            return self._read([int(rows)])[0]
        if isinstance(rows, slice):
            return self._read(range(*rows.indices(len(self))))
        return self._read(np.asarray(rows).tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the whole array into memory."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self, rows: Sequence[int]) -> np.ndarray:
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        flat = result.view(np.uint8).reshape(len(rows), -1).data if len(rows) else None
        self._expect_unchanged()
        for at, (first, count) in _runs(rows, len(self)):
            assert flat is not None
            self._fill(flat[at : at + count].cast("B"), self._start + first * self._row_bytes)
        return result

    def _fill(self, into: memoryview, at: int) -> None:
        try:
            while into:
                count = _read_at(self._file, into, at)
                if not count:
                    raise OSError("it ends before its last row")
                into, at = into[count:], at + count
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{self.path}: could not be read while this job ran ({reason}); {PACK_AGAIN}, then "
                "run the same command again"
            ) from None

    def _look(self) -> _Stamp:
        return _Stamp.of(os.fstat(self._file.fileno()))

    def _expect_unchanged(self) -> None:
        current = self._look()
        if (current.size, current.modified_ns) != (self._stamp.size, self._stamp.modified_ns):
            raise InputError(
                f"{self.path}: was changed while this job read it (now {current.size:,} bytes, "
                f"{self._stamp.size:,} before); {PACK_AGAIN}, then run the same command again"
            )


def _read_at(file: Any, into: memoryview, at: int) -> int:
    if hasattr(os, "preadv"):  # not on Windows
        return os.preadv(file.fileno(), [into], at)
    file.seek(at)
    return int(file.readinto(into))


def _runs(rows: Sequence[int], count: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yields runs of consecutive rows: (position in `rows`, (first row, count))."""
    at = 0
    while at < len(rows):
        first = rows[at] + count if rows[at] < 0 else rows[at]
        if not 0 <= first < count:
            raise IndexError(f"row {rows[at]} of {count}")
        end = at + 1
        while end < len(rows) and rows[end] == rows[end - 1] + 1 and rows[at] >= 0:
            end += 1
        if first + end - at > count:
            raise IndexError(f"row {rows[end - 1]} of {count}")
        yield at, (first, end - at)
        at = end
