"""Checks of settings; messages name the flag, the expected value and the given one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import PathLike
from .settings import flatten_settings

MOST = 2**53  # largest integer that every JSON reader represents exactly


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
    """Refuses invalid settings: numbers that are not finite, seeds below 0, empty folders.

    Args:
        config: A dataclass of settings; nested groups are checked, too.

    Raises:
        InputError: If a setting is invalid; the message names the flag.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            expect_sane(value)
            continue
        flag = f"--{field.name.replace('_', '-')}"
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, float) and not math.isfinite(part):
                raise InputError(f"{flag}: expected a finite number, got {part}")
            if isinstance(part, int) and not -MOST <= part <= MOST:
                raise InputError(f"{flag}: expected a number below {MOST:,}, got {part}")
            if "seed" in field.name and isinstance(part, int) and part < 0:
                raise InputError(f"{flag}: expected a number from 0, got {part}")
            if isinstance(part, str) and "\0" in part:
                raise InputError(f"{flag}: holds a null character; expected a name")
        if field.name == "out" and str(value).strip() == "":
            raise InputError(f"{flag}: expected a folder or a file to write, got an empty name")


def expect_fractions(config: Any, *names: str) -> None:
    """Refuses settings outside the range 0 to 1, by name."""
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
    """Refuses negative or duplicate seeds."""
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
)  # settings that name a command's input folders


def expect_out_of_inputs(config: Any) -> None:
    """Refuses an --out that is, or lies in, an input folder of the command.

    Raises:
        InputError: If so; the message names both.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return
    flat = flatten_settings(dataclasses.asdict(config))
    out = flat.get("out")
    if not isinstance(out, str) or not out:
        return
    output = Path(out).resolve()
    for name in READ:
        value = flat.get(name)
        for folder in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(folder, str) or not folder or not Path(folder).is_dir():
                continue
            read = Path(folder).resolve()
            if output == read or read in output.parents:
                raise InputError(
                    f"--out {out}: is or lies in what this command reads (--{name} {folder}); "
                    "choose another folder"
                )


def expect_apart(out: PathLike, *inputs: PathLike) -> None:
    """Refuses an output folder that is, contains, or lies in an input folder.

    Raises:
        InputError: If so; the message names the folder.
    """
    output = Path(out).resolve()
    for source in inputs:
        read = Path(source).resolve()
        if output == read or read in output.parents or output in read.parents:
            raise InputError(
                f"--out {out}: is, holds or lies in what this command reads ({source}); choose "
                "another folder"
            )


def expect_new_file(path: PathLike, suffix: str, *inputs: PathLike) -> None:
    """Refuses an output file with another suffix, a folder, or an input file.

    It creates the file's parent folder.
    """
    path = Path(path)
    if path.suffix != suffix or path.is_dir():
        note = ", this is a folder" if path.is_dir() else ""
        raise InputError(f"--out {path}: expected the name of a file that ends in {suffix}{note}")
    for source in map(Path, inputs):
        inside = source.is_dir() and source.resolve() in path.resolve().parents
        if path.resolve() == source.resolve() or inside:
            raise InputError(
                f"--out {path}: is among what this command reads ({source}); choose another name"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
