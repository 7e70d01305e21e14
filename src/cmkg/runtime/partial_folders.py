"""Folders that are written under another name and renamed when whole.

Each holds a mark from its first moment on: nothing without it is taken up, and nothing is deleted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import InputError

MARK = ".cmkg-half-written"


def take_up(partial: Path) -> None:
    """Makes the folder, or goes on with one that a killed command of ours left.

    Raises:
        InputError: somebody else's folder has this name.
    """
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise InputError(f"{partial}: is in the way and none of cmkg's; move it, or choose another")
    if partial.is_dir() and any(partial.iterdir()) and not (partial / MARK).is_file():
        raise InputError(
            f"{partial}: is in the way: it was not begun by cmkg; move it, or choose another folder"
        )
    partial.mkdir(parents=True, exist_ok=True)
    (partial / MARK).touch()


def begin_anew(partial: Path) -> None:
    """An empty folder of that name; what a killed command of ours left is deleted.

    Raises:
        InputError: somebody else's folder has this name.
    """
    take_up(partial)
    shutil.rmtree(partial)
    take_up(partial)


def rename_whole(partial: Path, folder: Path) -> None:
    """Gives the folder its name; its mark goes last, so that a killed command can be gone on with.

    Raises:
        OSError: something has this name.
    """
    os.replace(partial, folder)
    (folder / MARK).unlink(missing_ok=True)
