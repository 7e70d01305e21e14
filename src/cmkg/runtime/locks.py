"""Exclusive folders, by operating-system locks that end with their process."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from ..errors import InputError
from .files import named
from .ranks import rank

HOLDER = "process "  # start of a lock file
WINDOWS_BYTE = 1 << 20  # the file offset of the byte that msvcrt locks
HELD, MOST_LOCK = re.compile(r"process \d+ on \S*, since \S+,$"), 400


@contextmanager
def hold_lock(path: Path, folder: Path) -> Iterator[None]:
    """Holds the operating system's lock on a file inside the block; it ends with the process.

    Args:
        path: The lock file, removed afterwards.
        folder: The guarded folder, for error messages.

    Raises:
        InputError: If another process holds the lock; the message says which.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: expected a lock's file, this is none; remove it")
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(
                f"{folder}: {holder} works on this folder; wait for it, stop it, or give "
                "another --out"
            )
        if not _is_file_at(file.fileno(), path):  # its holder has removed it meanwhile
            raise InputError(f"{folder}: another process has just left it; start again")
        file.seek(0)
        content = file.read(MOST_LOCK)
        if content and HELD.match(content) is None:
            raise InputError(f"{path}: is in the way and none of cmkg's locks; move it")
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            file.truncate(0)
            file.write(f"{HOLDER}{os.getpid()} on {platform.node()}, since {started},\n")
            file.flush()
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise named(error, path) from None
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _is_file_at(descriptor: int, path: Path) -> bool:
    """Returns whether an open file is still at this path; otherwise two files could be locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return _try_lock_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def _try_lock_windows(descriptor: int) -> bool:
    try:
        import msvcrt
    except ImportError:  # neither kind of lock exists
        return True
    # Lock a byte beyond all content, because Windows prevents reading a locked byte.
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, WINDOWS_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
    return True


def is_leftover(name: str) -> bool:
    """Returns whether a file is left over from a killed cmkg command: a lock or a partial file."""
    return name == ".lock" or name.endswith(".partial")


def expect_own_folder(
    folder: Path, names: Collection[str] | None, marks: Collection[str] = ()
) -> None:
    """Refuses a folder with files that the command does not write.

    Args:
        folder: The folder; it may be missing or empty.
        names: The names that the command writes; None allows any.
        marks: Names of which one must exist, unless the folder is empty.

    Raises:
        InputError: If there are other files; the message names one.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise InputError(f"--out {folder}: is no folder; give a new or an empty one")
    there = sorted(file.name for file in folder.iterdir() if not is_leftover(file.name))
    strange = [name for name in there if names is not None and name not in names]
    if there and marks and not any(name in there for name in marks):
        strange = strange or there
    if strange:
        raise InputError(
            f"--out {folder}: holds something else ({strange[0]}); give an empty or a new folder"
        )


@contextmanager
def hold_folder_of(
    folder: Path, names: Collection[str], marks: Collection[str] = ()
) -> Iterator[None]:
    """Creates such a folder and holds it exclusively inside the block; see expect_own_folder.

    Raises:
        InputError: If it has other files, or another command works on it.
    """
    expect_own_folder(folder, names, marks)
    with hold_folder(folder):
        yield


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Creates a folder and holds it exclusively inside the block; only the first process locks it.

    Raises:
        InputError: If another command works on it.
    """
    if rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / ".lock", folder):
        yield
