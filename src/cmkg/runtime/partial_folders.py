"""Folders that are written under a temporary name and renamed when complete.

Each holds a mark from its creation on; folders without it are neither resumed nor deleted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import InputError

MARK = ".cmkg-half-written"


def take_up(partial: Path) -> None:
    """Creates the folder, or resumes one that a killed cmkg command left.

    Raises:
        InputError: If another folder has this name.
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
    """Creates an empty folder, deleting one that a killed cmkg command left.

    Raises:
        InputError: If another folder has this name.
    """
    take_up(partial)
    shutil.rmtree(partial)
    take_up(partial)


def rename_whole(partial: Path, folder: Path) -> None:
    """Renames the folder and removes its mark last, so that a killed command can resume.

    Raises:
        OSError: If the name is taken.
    """
    os.replace(partial, folder)
    (folder / MARK).unlink(missing_ok=True)
