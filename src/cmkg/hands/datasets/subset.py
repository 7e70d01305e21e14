"""Part of a dataset: the samples whose files are there, or chosen ones; called a subset."""

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
    """Some samples of a recording.

    numbers: of the samples. which: how they were chosen, in words.
    """

    whole: Recording
    numbers: tuple[int, ...]
    which: str

    def __len__(self) -> int:
        return len(self.numbers)

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """The samples of these numbers within the subset."""
        return self.whole.samples([self.numbers[int(index)] for index in indices])

    def frame(self, i: int) -> Frame:
        """A sample as its dataset gives it."""
        return self.whole.frame(self.numbers[i])

    def name(self, i: int) -> str:
        """Where a sample stands in the dataset."""
        return self.whole.name(self.numbers[i])

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        return self.whole.files(self.numbers[i])

    def label_files(self) -> list[Path]:
        """The files of labels that are no sample's own."""
        return self.whole.label_files()

    def file_checks(self) -> list[Callable[[], Any]]:
        """None: label files may be of more samples, or of fewer than were published."""
        return []

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """What must hold of a sample."""
        return self.whole.item_checks(self.numbers[i])

    def checked_count(self) -> int:
        """How many samples there are to check."""
        return len(self)

    def describe(self) -> dict[str, Any]:
        """What the whole is, and which part of it; never what a whole one would say."""
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
        """Whether a sample has a label; only folders have some without."""
        tells = getattr(self.whole, "has_label", None)
        return tells is None or bool(tells(self.numbers[i]))


def missing_files(dataset: Recording) -> list[Path]:
    """The files of its samples that are not there."""
    paths = (path for i in range(len(dataset)) for path in dataset.files(i))
    return [path for path in dict.fromkeys(paths) if not path.is_file()]


def expect_files(dataset: Recording, root: str) -> None:
    """Refuses a dataset some of whose files are not there, before anything is written.

    Raises:
        InputError: how many, and the first.
    """
    missing = missing_files(dataset)
    if missing:
        raise InputError(
            f"{root}: {len(missing):,} of its files are missing, the first is {missing[0]}; "
            "copy them again, or take what is there: --only-present"
        )


def present(dataset: Recording, root: str) -> Subset:
    """The samples all of whose files are there.

    Raises:
        InputError: there is none.
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
    """The samples of "0-99,205": numbers and ranges, both ends included.

    Raises:
        InputError: the text is not that, or a number is not of the dataset.
    """
    numbers = numbers_of(indices, len(dataset))
    if isinstance(dataset, Subset):  # one subset, of the whole
        kept = tuple(dataset.numbers[number] for number in numbers)
        return Subset(dataset.whole, kept, f"{indices} of {dataset.which}")
    return Subset(dataset, tuple(numbers), indices)


def numbers_of(indices: str, count: int) -> Sequence[int]:
    """The numbers that "0-99,205" names, in its order, each once.

    >>> list(numbers_of("4,0-2", 5))
    [4, 0, 1, 2]
    """
    found: dict[int, None] = {}
    for part in indices.split(","):
        first, dash, last = part.strip().partition("-")
        is_range = first.isdecimal() and (last.isdecimal() if dash else True)
        low, high = (int(first), int(last or first)) if is_range else (0, -1)
        if not 0 <= low <= high < count:
            raise InputError(
                f"--indices: expected numbers and ranges from 0 to {count - 1}, such as "
                f"0-99,205, got {part.strip()!r}"
            )
        found |= dict.fromkeys(range(low, high + 1))
    return list(found)
