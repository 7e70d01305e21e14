"""Subsets of a dataset: the samples whose files exist, or chosen ones."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from .sample import Frame, Recording, Sample


@dataclass(frozen=True)
class Subset:
    """A subset of a recording's samples.

    numbers: the sample numbers. which: how they were chosen, in words.
    """

    whole: Recording
    numbers: tuple[int, ...]
    which: str

    def __len__(self) -> int:
        return len(self.numbers)

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by their number within the subset."""
        return self.whole.samples([self.numbers[int(index)] for index in indices])

    def frame(self, i: int) -> Frame:
        """A sample as its dataset provides it."""
        return self.whole.frame(self.numbers[i])

    def name(self, i: int) -> str:
        """The location of a sample in the dataset."""
        return self.whole.name(self.numbers[i])

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        return self.whole.files(self.numbers[i])

    def label_files(self) -> list[Path]:
        """Label files that samples share."""
        return self.whole.label_files()

    def file_checks(self) -> list[Callable[[], Any]]:
        """Returns no checks, since label files may cover other samples than the subset."""
        return []

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample."""
        return self.whole.item_checks(self.numbers[i])

    def checked_count(self) -> int:
        """The number of samples to check."""
        return len(self)

    def describe(self) -> dict[str, Any]:
        """Describes the dataset and the subset, so that it never equals the whole's description."""
        facts = self.whole.describe()
        inner = f"; of a subset: {facts['subset']}" if "subset" in facts else ""
        chosen_of = repr((self.numbers, facts.get("numbers_crc32")))
        if facts.get("without_label"):
            facts["without_label"] = sum(not self.has_label(i) for i in range(len(self)))
        return facts | {
            "subset": f"{len(self):,} of {facts['count']:,}: {self.which}{inner}",
            "numbers_crc32": zlib.crc32(chosen_of.encode()),
            "count": len(self),
        }

    def has_label(self, i: int) -> bool:
        """Whether a sample is labeled; only folders contain unlabeled ones."""
        tells = getattr(self.whole, "has_label", None)
        return tells is None or bool(tells(self.numbers[i]))


def missing_files(dataset: Recording) -> list[Path]:
    """Lists the missing files of a dataset's samples."""
    paths = (path for i in range(len(dataset)) for path in dataset.files(i))
    return [path for path in dict.fromkeys(paths) if not path.is_file()]


def expect_files(dataset: Recording, root: str) -> None:
    """Rejects a dataset with missing files, before anything is written.

    Raises:
        InputError: files are missing; the message gives their number and the first one.
    """
    missing = missing_files(dataset)
    if missing:
        raise InputError(
            f"{root}: {len(missing):,} of its files are missing, the first is {missing[0]}; "
            "copy them again, or take what is there: --only-present"
        )


def present(dataset: Recording, root: str) -> Subset:
    """The samples whose files all exist.

    Raises:
        InputError: there is no such sample.
    """
    numbers = tuple(
        i for i in range(len(dataset)) if all(path.is_file() for path in dataset.files(i))
    )
    if not numbers:
        raise InputError(
            f"{root}: no sample of this split has its files; expected some to be there"
        )
    return Subset(dataset, numbers, "those whose files are there")


def chosen(dataset: Recording, indices: str) -> Subset:
    """The samples named by "0-99,205": numbers and inclusive ranges.

    Raises:
        InputError: the text is malformed, or a number is out of range.
    """
    numbers = numbers_of(indices, len(dataset))
    if isinstance(dataset, Subset):  # flatten nested subsets
        kept = tuple(dataset.numbers[number] for number in numbers)
        return Subset(dataset.whole, kept, f"{indices} of {dataset.which}")
    return Subset(dataset, tuple(numbers), indices)


def numbers_of(indices: str, count: int) -> Sequence[int]:
    """Parses "0-99,205" to numbers, in order and without duplicates.

    >>> list(numbers_of("4,0-2", 5))
    [4, 0, 1, 2]
    """
    numbers: dict[int, None] = {}
    for part in indices.split(","):
        first, dash, last = part.strip().partition("-")
        is_range = first.isdecimal() and (last.isdecimal() if dash else True)
        low, high = (int(first), int(last or first)) if is_range else (0, -1)
        if not 0 <= low <= high < count:
            raise InputError(
                f"--indices: expected numbers and ranges from 0 to {count - 1}, such as "
                f"0-99,205, got {part.strip()!r}"
            )
        numbers |= dict.fromkeys(range(low, high + 1))
    return list(numbers)
