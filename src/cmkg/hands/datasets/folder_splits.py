"""The splits of a folder of recordings; none cuts through a person, a sequence or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ...errors import InputError
from .folder_records import Records, pictures_of, read_records

TEST_SHARE, VALIDATION_SHARE = 1 / 5, 1 / 6  # of all; of the training frames


ALL, TRAIN, TEST, FIT, VALIDATION = "all", "train", "test", "fit", "validation"


class Splits(NamedTuple):
    """{split: numbers of its records}, and how they came about."""

    numbers: dict[str, list[int]]
    rule: str


def splits_of(held: Records) -> Splits:
    """The splits that the records name; else the last fifth is the test, people or sequences whole.

    Raises:
        InputError: a split cuts through a person or a sequence, or only some records name one.
    """
    records = held.records
    _refuse_half_named(held)
    named = [record.get("split") for record in records]
    if any(split is not None for split in named):
        for number, split in enumerate(named):
            if not isinstance(split, str) or split in ("", ALL, FIT, VALIDATION):
                raise InputError(
                    f"{held.name}: record {number}, field 'split' is {split!r}; expected a name "
                    f"other than {ALL}, {FIT} and {VALIDATION}, in every record or in none"
                )
        found: dict[str, list[int]] = {}
        for number, split in enumerate(named):
            found.setdefault(str(split), []).append(number)
        _refuse_cut(held, named)
        return Splits(found, "as the records name it")
    first, last, rule = _cut(held, range(len(records)), TEST_SHARE)
    return Splits({TRAIN: first, TEST: last}, rule)


@lru_cache(maxsize=16)
def _numbers_of(root: str, split: str, _changed: tuple[float, ...]) -> tuple[int, ...]:
    held = read_records(root)
    known = splits_of(held).numbers
    numbers: Sequence[int]
    if split in (FIT, VALIDATION, TRAIN, "") and TRAIN in known:
        fit, validation, _ = _cut(held, known[TRAIN], VALIDATION_SHARE)
        numbers = {FIT: fit, VALIDATION: validation}.get(split, [*fit, *validation])
    elif split == ALL or (not split and TRAIN not in known):
        numbers = range(len(held.records))
    elif (split or TRAIN) in known:
        numbers = known[split or TRAIN]
    else:
        raise InputError(
            f"{held.name}: --split: expected one of {', '.join([*known, ALL])}, got {split!r}"
        )
    if not numbers:
        raise InputError(
            f"{held.name}: the split {split or TRAIN!r} has no records: there are "
            f"{len(held.records)} in all; take --split {ALL}, or name splits"
        )
    return tuple(numbers)


# What no split may cut through, the widest first: all that share one are together.
TOGETHER = (("person", "sequence", "image"), ("sequence", "image"), ("image",))


WHOLE = {"person": "people", "sequence": "sequences", "image": "pictures"}


def _cut(held: Records, numbers: Sequence[int], share: float) -> tuple[list[int], list[int], str]:
    """The numbers in two: about `share` of them at the end; no group is cut.

    Groups are whole people where there are several, else whole sequences, else whole pictures.
    """
    for fields in TOGETHER:
        if fields[0] != "image" and not any(fields[0] in held.records[n] for n in numbers):
            continue
        groups = _groups(held, numbers, fields)
        if len(groups) > 1:
            break
    last: list[int] = []
    while len(groups) > 1 and len(last) < share * len(numbers) - 0.5:
        last += groups.pop()
    if not last:
        return [], list(numbers), "all of one picture"
    kept = sorted(number for group in groups for number in group)
    rule = f"the last of them are held out, whole {WHOLE[fields[0]]}"
    return kept, sorted(last), rule


def _groups(held: Records, numbers: Sequence[int], fields: Sequence[str]) -> list[list[int]]:
    """The numbers, those together that share a field's value, in the order of their last ones."""
    home = {number: number for number in numbers}

    def root_of(number: int) -> int:
        while home[number] != number:
            number = home[number]
        return number

    first: dict[tuple[str, str], int] = {}
    pictures = pictures_of(held)
    for number in numbers:
        for field in fields:
            if field in held.records[number]:
                value = pictures[number] if field == "image" else held.records[number][field]
                other = first.setdefault((field, str(value)), number)
                home[root_of(number)] = root_of(other)
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(root_of(number), []).append(number)
    return sorted(groups.values(), key=lambda group: group[-1])


def _refuse_half_named(held: Records) -> None:
    for field in ("person", "sequence"):
        named = [field in record for record in held.records]
        if any(named) and not all(named):
            raise InputError(
                f"{held.name}: record {named.index(False)} has no field {field!r}, others "
                "have one; expected it in every record or in none: no split may cut through one"
            )


def _refuse_cut(held: Records, named: Sequence[Any]) -> None:
    pictures = pictures_of(held)
    for field in ("person", "sequence", "image"):
        home: dict[str, str] = {}
        for number, (record, split) in enumerate(zip(held.records, named, strict=True)):
            name = record.get(field)
            if name is None:
                continue
            value = pictures[number] if field == "image" else str(name)
            other = home.setdefault(value, split)
            if other != split:
                raise InputError(
                    f"{held.name}: record {number}: {field} {name!r} is in the splits {other!r} "
                    f"and {split!r}; give each {field} to one"
                )
