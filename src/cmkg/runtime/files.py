"""Atomic writes, and readers that fail with one clear message.

Only regular files of limited size are opened. Files that cmkg writes hold their own checksum, and
results with a changed bit are refused. For weights and checkpoints see weight_files.py.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import platform
import stat
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from ..errors import InputError
from .ranks import rank

PathLike = str | Path
MOST_BYTES = 8 << 30  # limit for any file that is read whole
MOST_JSON_BYTES = 64 << 20  # limit for a run's own JSON
MOST_HEADER_BYTES = 16 << 20  # limit for a safetensors header: names and shapes
MOST_ARRAY_BYTES = 1 << 30  # limit for an unpacked .npz
SEAL = b"\ncmkg sha256 "  # followed by 64 hexadecimal digits, at a file's end
CHECKSUM = "checksum"  # field of a sealed JSON file, over all its other fields
WEIGHTS_CHECKSUM = "cmkg_sha256"  # in the metadata of a safetensors file
AGAIN = "run the stage that writes it again"
BROKEN = Exception  # a damaged file can cause any exception in its parser


# ---- reading -------------------------------------------------------------------------------------
def read_file(path: PathLike, what: str, hint: str = AGAIN, most_bytes: int = MOST_BYTES) -> bytes:
    """Returns the bytes of a regular file.

    Args:
        path: The file.
        what: What the file should be, for error messages.
        hint: What to do if it cannot be read, for error messages.
        most_bytes: The size limit, checked before reading.

    Raises:
        InputError: If the file is missing, not a regular file (a folder, pipe or device), too
            large, or unreadable.
    """
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "no regular file"
            raise InputError(f"{path}: expected {what}, this is {kind}; {hint}")
        if facts.st_size > most_bytes:
            raise InputError(
                f"{path}: expected {what} of at most {most_bytes:,} bytes, it has "
                f"{facts.st_size:,}; {hint}"
            )
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {what}; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: expected {what}, could not read it ({reason}); {hint}") from None


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def parse_json(data: bytes, path: PathLike, what: str, hint: str = AGAIN) -> Any:
    """Parses JSON bytes.

    Raises:
        InputError: If they are not JSON, or nested too deeply.
    """
    try:
        return json.loads(data, object_pairs_hook=_expect_each_once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected JSON ({what}), could not read it ({first_line(error)}); {hint}"
        ) from None


def _expect_each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore
        raise ValueError(f"the field {twice!r:.60} stands twice")
    return fields


def read_json(path: PathLike, what: str = "a file of a finished run") -> Any:
    """Reads a JSON file of a run.

    Raises:
        InputError: If the file is missing or not JSON.
    """
    data = read_file(path, what, "run the stage that writes it first", MOST_JSON_BYTES)
    return parse_json(data, path, what, "remove the folder and run its stage again")


def load_array(data: bytes) -> np.ndarray:
    """Returns the array of an .npy file's bytes, after checking its header against their size.

    Raises:
        ValueError: If it is not an .npy file, or its size differs from its header.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of .npy is not known")
    shape, _, dtype = read_header(file)
    expected = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or expected != len(data) - file.tell():
        raise ValueError(f"its header says {shape} of {dtype}, which are not its bytes")
    file.seek(0)
    return np.asarray(np.load(file, allow_pickle=False))


def read_arrays(
    path: PathLike,
    what: str = "arrays (.npz)",
    hint: str = AGAIN,
    most_bytes: int = MOST_ARRAY_BYTES,
) -> dict[str, np.ndarray]:
    """Reads all of an .npz of plain arrays: {name: array}.

    The unpacked size is checked first.

    Args:
        path: The file.
        what: What the file should be, for error messages.
        hint: What to do if it cannot be read, for error messages.
        most_bytes: The limit of the unpacked size.

    Raises:
        InputError: If the file cannot be read, or exceeds the limit.
    """
    data = read_file(path, what, hint, most_bytes)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > most_bytes:
            raise InputError(
                f"{path}: expected {what} of at most {most_bytes:,} bytes, it unpacks to "
                f"{unpacked:,}; {hint}"
            )
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {
                member.removesuffix(".npy"): load_array(archive.read(member))
                for member in archive.namelist()
            }
        expected = arrays.pop(CHECKSUM, None)
        if expected is not None and str(expected) != _array_checksum(arrays):
            raise InputError(
                f"{path}: expected {what}, its numbers are not those that were written "
                f"(checksum); {hint}"
            )
        return arrays
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(
            f"{path}: expected {what}, could not read it ({type(error).__name__}: "
            f"{first_line(error)}); {hint}"
        ) from None


# ---- writing -------------------------------------------------------------------------------------
def write_atomically(path: PathLike, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path), then renames it to `path`; readers never see a partial file.

    Only the first process writes. The file's permissions follow the user's umask.

    Raises:
        OSError: If the file cannot be written; it names `path`, and the old file is unchanged.
    """
    if rank():
        return
    path = Path(path)
    host = platform.node()  # machines may share a folder
    partial = path.with_name(f"{path.name}.{host}-{os.getpid()}.partial")
    try:
        write(partial)
        partial.chmod(0o666 & ~_umask())
        _to_disk(partial)
        os.replace(partial, path)
        _to_disk(path.parent)
    except OSError as error:
        if error.filename in (None, str(partial)):  # messages name the requested file
            raise named(error, path) from None
        raise
    except (
        RuntimeError,
        SafetensorError,
    ) as error:  # how torch and safetensors report a full disk
        reason = str(error).splitlines()[0]
        raise OSError(errno.EIO, f"could not be written ({reason})", str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def named(error: OSError, path: PathLike) -> OSError:
    """Returns the error with the file's name, which Python omits for a full disk."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def _to_disk(path: Path) -> None:
    """Flushes a file to disk, so that a power cut leaves the old file or the new one."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder, on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes bytes, atomically."""
    write_atomically(path, lambda partial: Path(partial).write_bytes(data))


def write_text(path: PathLike, text: str) -> None:
    """Writes text as UTF-8, atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def append_line(path: PathLike, line: str) -> None:
    """Appends a line to a log, and removes a partial line left by a full disk or a power cut."""
    try:
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            whole = _end_of_last_line(file, end)
            if whole < end:
                file.truncate(whole)
            file.write(line.encode() + b"\n")
    except OSError as error:
        raise named(error, path) from None


def _end_of_last_line(file: Any, end: int, block: int = 1 << 16) -> int:
    """Returns where the last complete line of an open file ends; 0 if there is none."""
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return int(start + at + 1)
        end = start
    return 0


def write_json(path: PathLike, value: object) -> None:
    """Writes a JSON file, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_arrays(path: PathLike, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz of NumPy arrays and their checksum, atomically."""
    contents = {**arrays, CHECKSUM: np.array(_array_checksum(arrays))}

    def write(partial: Path) -> None:
        with open(partial, "wb") as file:
            np.savez_compressed(file, **contents)  # type: ignore[arg-type]

    write_atomically(path, write)


# ---- files that show a change --------------------------------------------------------------------
def write_sealed_json(path: PathLike, value: Mapping[str, Any]) -> None:
    """Writes a JSON file with a checksum of all its fields, atomically."""
    write_json(path, {**value, CHECKSUM: _json_checksum(value)})


def read_sealed_json(path: PathLike, required: bool = True) -> dict[str, Any]:
    """Reads a file that `write_sealed_json` wrote, without the checksum.

    Args:
        path: The file.
        required: If True, a file without a checksum is refused.

    Raises:
        InputError: If the file cannot be read, holds no fields, or was changed.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected fields by name, found {type(fields).__name__}; {AGAIN}")
    expected = fields.pop(CHECKSUM, None)
    if expected is None and required:
        raise InputError(
            f"{path}: has no checksum: it is an older cmkg's, or was written by hand; remove it "
            "and run its stage again"
        )
    if expected is not None and expected != _json_checksum(fields):
        raise InputError(
            f"{path}: its checksum is not that of its fields: it was changed after it was written; "
            "remove it and run its stage again"
        )
    return fields


def _array_checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:32]


def _json_checksum(value: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # as it reads back
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def stored_checksum(path: PathLike) -> str | None:
    """Returns the checksum in a safetensors file's metadata; None if it has none."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, MOST_HEADER_BYTES))
    with suppress(BROKEN):
        checksum = json.loads(header).get("__metadata__", {}).get(WEIGHTS_CHECKSUM)
        return checksum if isinstance(checksum, str) else None
    return None
