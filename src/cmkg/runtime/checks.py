"""Checks of settings, each a sentence that names the flag, what was expected and what came."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import PathLike
from .settings import flatten_settings

MOST = 2**53  # what every number of JSON can be


def expect_positive(config: Any, *names: str) -> None:
    """Refuses settings that are not positive, by name."""
    _expect(config, names, lambda value: 0 < value < math.inf, "a positive number")


def expect_from_zero(config: Any, *names: str) -> None:
    """Refuses settings below zero, by name."""
    _expect(config, names, lambda value: 0 <= value < math.inf, "a number from 0")


def expect_between(config: Any, low: float, high: float, *names: str) -> None:
    """Refuses settings below `low` or above `high`, by name."""
    _expect(config, names, lambda value: low <= value <= high, f"{low:g} to {high:g}")


def expect_sane(config: Any) -> None:
    """Refuses what no setting can be: numbers that are not finite, seeds below 0, no folder.

    Args:
        config: a dataclass of settings; its groups are looked through, too.

    Raises:
        InputError: names the flag.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            expect_sane(value)
            continue
        flag = f"--{field.name.replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise InputError(f"{flag}: expected a finite number, got {one}")
            if isinstance(one, int) and not -MOST <= one <= MOST:
                raise InputError(f"{flag}: expected a number below {MOST:,}, got {one}")
            if "seed" in field.name and isinstance(one, int) and one < 0:
                raise InputError(f"{flag}: expected a number from 0, got {one}")
            if isinstance(one, str) and "\0" in one:
                raise InputError(f"{flag}: holds a null character; expected a name")
        if field.name == "out" and str(value).strip() == "":
            raise InputError(f"{flag}: expected a folder or a file to write, got an empty name")


def expect_fractions(config: Any, *names: str) -> None:
    """Refuses settings that are not a share from 0 to 1, by name."""
    _expect(config, names, lambda value: 0 <= value <= 1, "a share from 0 to 1")


def expect_at_least_one(config: Any, *names: str) -> None:
    """Refuses empty lists, by name."""
    _expect(config, names, lambda value: len(value) > 0, "at least one number")


def _expect(
    config: Any, names: tuple[str, ...], holds: Callable[[Any], bool], expected: str
) -> None:
    for name in names:
        value = getattr(config, name)
        if not holds(value):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag}: expected {expected}, got {value!r}")


def expect_different_seeds(seeds: Sequence[int]) -> None:
    """Refuses seeds below zero or there twice."""
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds: expected different numbers from 0, got {tuple(seeds)}")


READ = (
    "data",
    "test",
    "root",
    "source",
    "student",
    "teacher",
    "stage",
    "weights",
    "folders",
    "convention",
    "extra",
)  # settings that name folders which a command reads


def expect_out_of_inputs(config: Any) -> None:
    """Refuses --out that is or lies in a folder which the command reads.

    Raises:
        InputError: names both.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return
    flat = flatten_settings(dataclasses.asdict(config))
    out = flat.get("out")
    if not isinstance(out, str) or not out:
        return
    own = Path(out).resolve()
    for name in READ:
        value = flat.get(name)
        for folder in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(folder, str) or not folder or not Path(folder).is_dir():
                continue
            read = Path(folder).resolve()
            if own == read or read in own.parents:
                raise InputError(
                    f"--out {out}: is or lies in what this command reads (--{name} {folder}); "
                    "choose another folder"
                )


def expect_apart(out: PathLike, *inputs: PathLike) -> None:
    """Refuses an output folder that is, holds, or lies in one that the command reads.

    Raises:
        InputError: names which.
    """
    own = Path(out).resolve()
    for source in inputs:
        read = Path(source).resolve()
        if own == read or read in own.parents or own in read.parents:
            raise InputError(
                f"--out {out}: is, holds or lies in what this command reads ({source}); choose "
                "another folder"
            )


def expect_new_file(path: PathLike, suffix: str, *inputs: PathLike) -> None:
    """Refuses an output file of another kind, a folder, or one that is read as well.

    Makes the folder that the file will lie in.
    """
    path = Path(path)
    if path.suffix != suffix or path.is_dir():
        found = ", this is a folder" if path.is_dir() else ""
        raise InputError(f"--out {path}: expected the name of a file that ends in {suffix}{found}")
    for source in map(Path, inputs):
        inside = source.is_dir() and source.resolve() in path.resolve().parents
        if path.resolve() == source.resolve() or inside:
            raise InputError(
                f"--out {path}: is among what this command reads ({source}); choose another name"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
