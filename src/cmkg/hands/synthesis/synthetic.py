"""Synthetic data in the exact layout of each dataset, from rendered hands.

It serves for trying out cmkg, for `--quick` and for tests. made.json in the folder gives the
counts, and marks every set packed from it as synthetic. A new writer is one file and a line of
WRITERS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from ...runtime.files import PathLike, read_json, write_json
from ...runtime.partial_folders import begin_anew, rename_whole
from . import (
    write_dexycb,
    write_folder,
    write_freihand,
    write_ho3d,
    write_interhand,
    write_rhd,
    write_stb,
)
from .drawing_tools import Counts


class Writer(NamedTuple):
    """The writer of a layout.

    write: takes the folder, the counts and the seed of the scenes. part_sizes: the counts {part:
    size} for a number of training pictures.
    """

    write: Callable[[Path, Counts, int], None]
    part_sizes: Callable[[int], Counts]


WRITERS = {
    "folder": Writer(write_folder.write_folder, write_folder.part_sizes),
    "rhd": Writer(write_rhd.write_rhd, write_rhd.part_sizes),
    "stb": Writer(write_stb.write_stb, write_stb.part_sizes),
    "freihand": Writer(write_freihand.write_freihand, write_freihand.part_sizes),
    "dexycb": Writer(write_dexycb.write_dexycb, write_dexycb.part_sizes),
    "ho3d": Writer(write_ho3d.write_ho3d, write_ho3d.part_sizes),
    "interhand": Writer(write_interhand.write_interhand, write_interhand.part_sizes),
}


def make_dataset(dataset: str, root: PathLike, count: int = 40, seed: int = 0) -> Counts:
    """Writes `count` synthetic training pictures, and a quarter as many for evaluation, to `root`.

    Args:
        dataset: a key of WRITERS.
        root: the output folder.
        count: number of training pictures.
        seed: of the scenes.

    Returns:
        The number of pictures written: {part: count}.

    Raises:
        InputError: the layout is unknown, or the folder exists and holds other files.
    """
    if dataset not in WRITERS:
        raise InputError(f"--dataset: expected one of {', '.join(WRITERS)}, got {dataset!r}")
    root = Path(root)
    write, part_sizes = WRITERS[dataset]
    counts = part_sizes(count)
    facts = {"dataset": dataset, "seed": seed} | counts
    if root.exists():
        existing = root / "made.json"
        if not existing.exists() or read_json(existing) != facts:
            raise InputError(
                f"{root}: is there already and holds something else; choose another folder or "
                "remove this one"
            )
        return counts
    partial = root.with_name(root.name + ".partial")
    begin_anew(partial)
    write(partial, counts, seed)
    write_json(partial / "made.json", facts)
    rename_whole(partial, root)
    return counts
