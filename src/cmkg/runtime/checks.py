"""Checks of settings, each a sentence that names the flag, what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import PathLike


def expect_positive(config: Any, *names: str) -> None:
    """Refuses settings that are not positive, by name."""
    _expect(config, names, lambda value: value > 0, "a positive number")


def expect_from_zero(config: Any, *names: str) -> None:
    """Refuses settings below zero, by name."""
    _expect(config, names, lambda value: value >= 0, "a number from 0")


def expect_share(config: Any, *names: str) -> None:
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
