"""Settings that several stages share; on the command line they have no prefix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import tyro

from ...errors import InputError
from ...runtime.checks import expect_from_zero, expect_positive
from ...runtime.distributed import Precision
from ...runtime.run import checkpoint_seconds as default_seconds
from ..datasets.packed.format import MARGINS
from ..datasets.packed.labelled_set import LabelledSet, open_source

Flat = tyro.conf.OmitArgPrefixes  # a group of settings without a prefix on the command line


@dataclass(frozen=True)
class OptimConfig:
    """The training of a network with Adam."""

    epochs: int = 100
    batch: int = 32
    lr: float = 2.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning-rate schedule: constant, as in the paper, or a cosine decay to zero after a short
    warm-up."""
    seed: int = 0
    """Seed of the sample order, the augmentation and the random weights."""
    precision: Precision = "auto"
    checkpoint_seconds: float = field(default_factory=default_seconds)
    """Seconds between checkpoints: a kill costs at most this time and one step. It may be changed
    when a run is resumed; the default can be set with CMKG_CHECKPOINT_SECONDS."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "epochs", "seed", "checkpoint_seconds")  # 0 epochs: only score
        expect_positive(self, "batch", "lr")

    def rate_at(self, step: int, total: int) -> float:
        """The learning rate of a step."""
        if self.schedule == "constant":
            return self.lr
        warm_up = max(total // 30, 1)
        falling = 0.5 + 0.5 * math.cos(math.pi * step / total)
        return self.lr * min((step + 1) / warm_up, falling)

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
        """Sets the learning rate of all parameter groups for a step."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate_at(step, total)


@dataclass(frozen=True)
class SourceData:
    """The packed sets of a source."""

    data: str = "data/source"
    """Packed set to train on, with depth."""
    extra: str = ""
    """Packed set mixed into the training set, its joints converted to the same bone convention: the
    paper's synthetic augmentation."""
    test: str = "data/source-test"
    labels: int = 0
    """Number of training samples that have labels, drawn by --label-seed; 0 = all. Use the same
    number for the teacher and the student. An epoch has as many steps as for all samples."""
    label_seed: int = 0

    def __post_init__(self) -> None:
        expect_from_zero(self, "labels")

    def open(self) -> LabelledSet:
        """The samples to train on, and which of their labels may be used.

        Raises:
            InputError: there is no such set, or it has fewer labels.
        """
        return open_source(self.data, self.extra, self.labels, self.label_seed)


def expect_margin(margin: float) -> None:
    """Refuses a margin of stored boxes that is out of range for a packed set."""
    low, high = MARGINS
    if not low <= margin <= high:
        raise InputError(f"--margin: expected a number from {low:g} to {high:g}, got {margin}")
