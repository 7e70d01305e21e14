"""A batch and its parts: what the student sees, what the teacher sees, what the answer is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import InputError


class Batch(NamedTuple):
    """One batch of a source or a target.

    student_input: the weak modality: a tensor, a tuple of several, or a dict of named ones.
    teacher_input: the superior modality of the same samples; None on a target.
    target: what the student's output is compared with.
    """

    student_input: Any
    teacher_input: Any
    target: Any


Key = Hashable | tuple[Hashable, ...] | None


@dataclass(frozen=True)
class Fields:
    """Which part of a batch goes where.

    Each is a key of a dict, a position of a tuple, or a tuple of such for several inputs; None
    where there is no such part.
    """

    student: Key = 0
    teacher: Key = 1
    target: Key = 2

    def __call__(self, batch: Any, device: torch.device | str) -> Batch:
        """Returns the parts of a batch, on the device."""
        return Batch(
            *(
                None if key is None else to_device(field_of(batch, key), device)
                for key in (self.student, self.teacher, self.target)
            )
        )


SOURCE_FIELDS = Fields()  # a batch (x, x_superior, y)
TARGET_FIELDS = Fields(0, None, 1)  # a batch (x, y)


def field_of(batch: Any, key: Key) -> Any:
    """Returns a field of a batch.

    Raises:
        InputError: there is none; the sentence names those that there are.
    """
    if isinstance(key, tuple):
        return tuple(field_of(batch, one) for one in key)
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        raise InputError(
            f"a batch has no field {key!r}; it has {_parts_of(batch)}: say with "
            "Fields(student=, teacher=, target=) which is which"
        ) from None


def _parts_of(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return str(list(batch))
    return f"{len(batch)} positions" if isinstance(batch, Sequence) else type(batch).__name__


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Applies a function to every tensor inside dicts, tuples, named tuples and lists."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(function, part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, part) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(function, part) for part in value)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Returns every tensor inside dicts, tuples and lists, in their order."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


def to_device(value: Any, device: torch.device | str) -> Any:
    """Returns `value` with its tensors on the device."""
    return map_tensors(lambda tensor: tensor.to(device), value)


def halve(batch: Batch) -> tuple[Batch, Batch]:
    """Returns the first and the second half of a batch's samples.

    Raises:
        InputError: the batch has fewer than two samples.
    """
    middle = len(tensors_of(batch.student_input)[0]) // 2
    if middle == 0:
        raise InputError("split: expected batches of two samples or more")
    first = map_tensors(lambda tensor: tensor[:middle], batch)
    second = map_tensors(lambda tensor: tensor[middle:], batch)
    return first, second
