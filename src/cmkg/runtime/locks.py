"""One folder, one owner: the operating system's lock, which ends with its process."""

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

HOLDER = "process "  # what a lock's file begins with
WINDOWS_BYTE = 1 << 20  # which msvcrt locks: by its place in the file
HELD, MOST_LOCK = re.compile(r"process \d+ on \S*, since \S+,$"), 400


@contextmanager
def hold_lock(path: Path, folder: Path) -> Iterator[None]:
    """Holds the operating system's lock on a file inside the block; it ends with the process.

    Args:
        path: the file, removed afterwards.
        folder: what it guards, for the sentence.

    Raises:
        InputError: another process holds it; the sentence says which.
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
        if not _is_file_at(file.fileno(), path):  # whoever held it has removed it meanwhile
            raise InputError(f"{folder}: another process has just left it; start again")
        file.seek(0)
        held = file.read(MOST_LOCK)
        if held and HELD.match(held) is None:
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
    """Whether an open file is still the one of this name: else another one can be locked beside."""
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
    except OSError:  # a disk without locks: nothing can be said
        return True
    return True


def _try_lock_windows(descriptor: int) -> bool:
    try:
        import msvcrt
    except ImportError:  # neither: nothing can be said
        return True
    # One byte behind all that is ever written: Windows lets nobody read a byte that is locked.
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
    """Whether a file is what a killed command of ours left: a lock, a half-written file."""
    return name == ".lock" or name.endswith(".partial")


def expect_own_folder(
    folder: Path, names: Collection[str] | None, marks: Collection[str] = ()
) -> None:
    """Refuses a folder in which something else lies than a command writes there.

    Args:
        folder: it may be missing or empty.
        names: of what the command writes; None is any.
        marks: one of which must be there, if anything is.

    Raises:
        InputError: names what lies there.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise InputError(f"--out {folder}: is no folder; give a new or an empty one")
    there = sorted(one.name for one in folder.iterdir() if not is_leftover(one.name))
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
    """Makes a folder of such files and works in it alone, inside the block; see expect_own_folder.

    Raises:
        InputError: something else lies there, or another command works on it.
    """
    expect_own_folder(folder, names, marks)
    with hold_folder(folder):
        yield


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and works in it alone, inside the block; of several processes the first holds.

    Raises:
        InputError: another command works on it.
    """
    if rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / ".lock", folder):
        yield
