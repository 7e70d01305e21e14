"""The samples that a stage draws from: rows of packed sets, and whose labels it may use."""

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
    """Rows of packed sets, one after the other, in the bone convention of the first.

    Args:
        parts: the packed sets.
        rows: numbers of the samples to draw, counted through all parts, ascending.
        labelled: of each row, whether its label may be used.
    """

    parts: tuple[Packed, ...]
    rows: Int[np.ndarray, " n"]
    labelled: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> Packed:
        """The set whose bone convention is the whole's."""
        return self.parts[0]

    @cached_property
    def with_label(self) -> Int[np.ndarray, " m"]:
        """The rows whose label may be used."""
        return self.rows[self.labelled]

    @cached_property
    def without_label(self) -> Int[np.ndarray, " m"]:
        """The other rows."""
        return self.rows[~self.labelled]

    def expect_modalities(self, modalities: Sequence[str]) -> None:
        """Refuses parts that lack one of "rgb" and "depth".

        Raises:
            InputError: names the set.
        """
        for packed in self.parts:
            for modality in modalities:
                if getattr(packed, modality) is None:
                    raise InputError(
                        f"{packed.folder}: has no {modality}; this stage needs a packed set with "
                        f"{' and '.join(modalities)}"
                    )

    def expect_labels(self) -> None:
        """Refuses rows without a label: they cannot be scored.

        Raises:
            InputError: how many there are.
        """
        self.first.expect_labels(int(self.rows[0]), int(self.rows[-1]) + 1)


def frame_range(packed: Packed, frames: FrameRange | None) -> FrameRange:
    """[first, last) of the frames to use; all when None.

    Raises:
        InputError: they are not inside the set.
    """
    first, last = frames or (0, len(packed))
    if not 0 <= first < last <= len(packed):
        raise InputError(
            f"frames {first} to {last}: expected a range inside the {len(packed)} of "
            f"{packed.folder}"
        )
    return first, last


def open_frames(packed: Packed, frames: FrameRange | None = None) -> LabelledSet:
    """The frames [first, last) of a packed set, all when None, with all labels they have.

    Raises:
        InputError: they are not inside the set.
    """
    first, last = frame_range(packed, frames)
    return LabelledSet((packed,), np.arange(first, last), packed.labels()[first:last])


def open_source(
    data: PathLike, extra: PathLike = "", labels: int = 0, label_seed: int = 0
) -> LabelledSet:
    """The packed set `data`, with `extra` mixed in, of which `labels` samples may use their label.

    Which ones follows from `label_seed` alone, and fewer of them are among the more. `extra` keeps
    its labels.

    Args:
        data: the folder of a packed set.
        extra: another one, or empty.
        labels: how many samples of `data` may use their label; 0 is all that have one.
        label_seed: which ones.

    Raises:
        InputError: there are not so many.
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
    """Which samples of a set may use their label: `labels` of them, or all that have one when 0.

    Raises:
        InputError: there are not so many.
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
