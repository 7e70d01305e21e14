"""The splits of a folder of recordings; none divides a person, a sequence or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ...errors import InputError
from .folder_records import Records, pictures_of, read_records

TEST_SHARE, VALIDATION_SHARE = 1 / 5, 1 / 6  # of all frames; of the training frames


ALL, TRAIN, TEST, FIT, VALIDATION = "all", "train", "test", "fit", "validation"


class Splits(NamedTuple):
    """{split: indices of its records}, and the rule that produced them."""

    numbers: dict[str, list[int]]
    rule: str


def splits_of(held: Records) -> Splits:
    """Returns the splits named by the records, or holds out the last fifth for the test.

    People and sequences are kept whole.

    Raises:
        InputError: a split divides a person or a sequence, or only some records name a split.
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
        by_split: dict[str, list[int]] = {}
        for number, split in enumerate(named):
            by_split.setdefault(str(split), []).append(number)
        _refuse_cut(held, named)
        return Splits(by_split, "as the records name it")
    first, last, rule = _cut(held, range(len(records)), TEST_SHARE)
    return Splits({TRAIN: first, TEST: last}, rule)


@lru_cache(maxsize=16)
def numbers_in_split(root: str, split: str, _times: tuple[float, ...]) -> tuple[int, ...]:
    """Returns the numbers of the records in a split; cached until the label files change.

    Raises:
        InputError: there is no such split, or it is empty.
    """
    records = read_records(root)
    known = splits_of(records).numbers
    numbers: Sequence[int]
    if split in (FIT, VALIDATION, TRAIN, "") and TRAIN in known:
        fit, validation, _ = _cut(records, known[TRAIN], VALIDATION_SHARE)
        numbers = {FIT: fit, VALIDATION: validation}.get(split, [*fit, *validation])
    elif split == ALL or (not split and TRAIN not in known):
        numbers = range(len(records.records))
    elif (split or TRAIN) in known:
        numbers = known[split or TRAIN]
    else:
        raise InputError(
            f"{records.name}: --split: expected one of {', '.join([*known, ALL])}, got {split!r}"
        )
    if not numbers:
        raise InputError(
            f"{records.name}: the split {split or TRAIN!r} has no records: there are "
            f"{len(records.records)} in all; take --split {ALL}, or name splits"
        )
    return tuple(numbers)


# Fields that no split may divide, coarsest first; records that share a value stay together.
TOGETHER = (("person", "sequence", "image"), ("sequence", "image"), ("image",))
WHOLE = {"person": "people", "sequence": "sequences", "image": "pictures"}


def _cut(held: Records, numbers: Sequence[int], share: float) -> tuple[list[int], list[int], str]:
    """Splits the indices in two, with about `share` of them at the end, without dividing a group.

    Groups are people if there are several, otherwise sequences, otherwise pictures.
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
    """Groups indices that share a field's value, ordered by the last index of each group."""
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
