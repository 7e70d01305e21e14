"""`cmkg prior merge`: merges several priors learned from the same initialization."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import InputError
from ...prior.make import merged
from ...prior.prior import Prior
from ...runtime.checks import expect_new_file


@dataclass(frozen=True)
class MergePriors:
    """Merge several priors that were learned from the same initialization."""

    files: tuple[str, ...]
    out: str
    how: Literal["mean", "precision", "sign"] = "mean"


def run(config: MergePriors) -> None:
    """Writes the merged prior."""
    if len(config.files) < 2:
        raise InputError(f"--files: expected at least two priors, got {len(config.files)}")
    if len({Path(file).resolve() for file in config.files}) < len(config.files):
        raise InputError("--files: the same prior is there twice; expected different ones")
    expect_new_file(config.out, ".safetensors", *config.files)
    whole = merged([Prior.load(file) for file in config.files], config.how)
    whole.save(config.out)
    print(
        f"{config.out}: {len(config.files)} priors merged by {config.how}, rms of phi "
        f"{whole.rms():.3g}"
    )


SETTINGS = MergePriors
