"""Presents a packed set as a recording, to inspect or verify it, or to pack a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..label_checks import disagreements
from ..sample import Frame, Sample, implausible
from .format import Packed, verify_checksums


@lru_cache(maxsize=4)
def _open(folder: str) -> Packed:
    return Packed(folder)


@dataclass(frozen=True)
class Unpacked:
    """The stored samples of a packed set."""

    folder: str

    def __len__(self) -> int:
        return len(_open(self.folder))

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number."""
        packed = _open(self.folder)
        return [
            Sample(
                packed.rgb[i],
                np.asarray(packed.joints_mm[i], np.float64),
                np.asarray(packed.K[i], np.float64),
                np.asarray(packed.rotation[i], np.float64),
                None if packed.depth is None else packed.depth[i],
                bool(packed.mirrored[i]),
                np.asarray(packed.visible[i]),
                bool(packed.labels()[i]),
            )
            for i in map(int, indices)
        ]

    def frame(self, i: int) -> Frame:
        """A stored picture, whose hand is always a right one."""
        (sample,) = self.samples([i])
        return Frame(
            sample.rgb,
            sample.joints_mm,
            sample.K,
            visible=sample.visible,
            depth_mm=sample.depth,
            labelled=sample.labelled,
        )

    def name(self, i: int) -> str:
        """The location of a sample, for messages."""
        return f"{self.folder}: sample {i}"

    def files(self, i: int) -> list[Path]:
        """The file of all samples' pictures."""
        return [Path(self.folder) / "rgb.npy"]

    def label_files(self) -> list[Path]:
        """The set's metadata file."""
        return [Path(self.folder) / "meta.json"]

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of the checksums."""
        return [lambda: verify_checksums(self.folder)]

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample."""
        return [lambda: self._look(i)]

    def _look(self, i: int) -> list[str]:
        frame = self.frame(i)
        height, width = frame.rgb.shape[:2]
        problems = implausible(frame.joints_mm, frame.K, (height, width), self.name(i))
        return problems or (disagreements(frame, self.name(i)) if frame.labelled else [])

    def has_label(self, i: int) -> bool:
        """Whether a sample is labeled."""
        return bool(_open(self.folder).labels()[i])

    def checked_count(self) -> int:
        """The number of samples to check."""
        return len(self)

    def describe(self) -> dict[str, Any]:
        """Describes the set as plain JSON."""
        packed = _open(self.folder)
        facts: dict[str, Any] = packed.meta["holds"]
        without = int((~packed.labels()).sum())
        return facts | {"count": len(self), "margin": packed.margin, "without_label": without}
