"""The samples that a stage draws from: rows of packed sets, and which labels it may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int

from ....errors import InputError
from ....runtime.files import PathLike
from ....runtime.random import generator
from .format import Packed

FrameRange = tuple[int, int]  # [first, last)


@dataclass(frozen=True)
class LabelledSet:
    """Rows of concatenated packed sets, in the bone convention of the first set.

    Args:
        parts: the packed sets.
        rows: indices of the samples to draw, across all parts, ascending.
        labelled: whether the label of each row may be used.
    """

    parts: tuple[Packed, ...]
    rows: Int[np.ndarray, " n"]
    labelled: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> Packed:
        """The set whose bone convention applies."""
        return self.parts[0]

    @cached_property
    def with_label(self) -> Int[np.ndarray, " m"]:
        """The rows whose label may be used."""
        return self.rows[self.labelled]

    @cached_property
    def without_label(self) -> Int[np.ndarray, " m"]:
        """The rows whose label may not be used."""
        return self.rows[~self.labelled]

    def expect_modalities(self, modalities: Sequence[str]) -> None:
        """Rejects parts that lack a required modality, "rgb" or "depth".

        Raises:
            InputError: a modality is missing; the message names the set.
        """
        for packed in self.parts:
            for modality in modalities:
                if getattr(packed, modality) is None:
                    raise InputError(
                        f"{packed.folder}: has no {modality}; this stage needs a packed set with "
                        f"{' and '.join(modalities)}"
                    )

    def expect_labels(self) -> None:
        """Rejects unlabeled rows, which cannot be scored.

        Raises:
            InputError: there are unlabeled rows; the message gives their number.
        """
        self.first.expect_labels(int(self.rows[0]), int(self.rows[-1]) + 1)


def frame_range(packed: Packed, frames: FrameRange | None) -> FrameRange:
    """Returns the range [first, last) of frames to use; None is all.

    Raises:
        InputError: the range is not inside the set.
    """
    first, last = frames or (0, len(packed))
    if not 0 <= first < last <= len(packed):
        raise InputError(
            f"frames {first} to {last}: expected a range inside the {len(packed)} of "
            f"{packed.folder}"
        )
    return first, last


def open_frames(packed: Packed, frames: FrameRange | None = None) -> LabelledSet:
    """Opens the frames [first, last) of a packed set, or all if None, with all their labels.

    Raises:
        InputError: the range is not inside the set.
    """
    first, last = frame_range(packed, frames)
    return LabelledSet((packed,), np.arange(first, last), packed.labels()[first:last])


def open_source(
    data: PathLike, extra: PathLike = "", labels: int = 0, label_seed: int = 0
) -> LabelledSet:
    """Opens the packed set `data`, with `labels` usable labels, and mixes in `extra`.

    The choice of labels depends on `label_seed` alone, and smaller choices are subsets of larger
    ones. `extra` keeps its labels.

    Args:
        data: the folder of a packed set.
        extra: the folder of another packed set, or empty.
        labels: how many samples of `data` may use their label; 0 is all labeled ones.
        label_seed: the seed of the choice.

    Raises:
        InputError: there are fewer labeled samples.
    """
    parts = tuple(Packed(folder) for folder in (data, extra) if folder)
    return LabelledSet(
        parts,
        np.arange(sum(map(len, parts))),
        np.concatenate(
            [choose_labels(parts[0], labels, label_seed)] + [p.labels() for p in parts[1:]]
        ),
    )


def choose_labels(packed: Packed, labels: int, label_seed: int) -> Bool[np.ndarray, " n"]:
    """Chooses `labels` samples of a set that may use their label; 0 chooses all labeled ones.

    Raises:
        InputError: there are fewer labeled samples.
    """
    have = packed.labels()
    if labels > have.sum():
        raise InputError(
            f"--labels: expected at most the {have.sum()} labelled samples of {packed.folder}, got "
            f"{labels}"
        )
    if not labels:
        return have
    order = torch.randperm(len(packed), generator=generator("labels", label_seed)).numpy()
    chosen = np.zeros(len(packed), bool)
    chosen[order[have[order]][:labels]] = True
    return chosen
