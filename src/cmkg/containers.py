"""Maps, counts and slices nested containers of tensors, such as batches, and checks iterables."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .errors import InputError


def describe_parts(batch: Any) -> str:
    """Returns the fields of a batch in words, for an error message."""
    if isinstance(batch, Mapping):
        return str(list(batch))
    if dataclasses.is_dataclass(batch):
        return str([field.name for field in dataclasses.fields(batch)])
    return f"{len(batch)} positions" if isinstance(batch, Sequence) else type(batch).__name__


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Applies a function to every tensor inside containers, which keep their types.

    It handles mappings, tuples, named tuples, lists and dataclasses; other values stay unchanged.
    """

    def inside(part: Any) -> Any:
        return map_tensors(function, part)

    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)
        for key in value:
            changed[key] = inside(value[key])
        return changed
    if isinstance(value, Mapping):
        return {key: inside(part) for key, part in value.items()}
    if isinstance(value, PackedSequence):
        return value._replace(data=function(value.data))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(inside, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(inside, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{n: inside(getattr(value, n)) for n in names})
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Returns every tensor inside containers, in order."""
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(keep, value)
    return tensors


def to_device(value: Any, device: torch.device | str) -> Any:
    """Returns `value` with its tensors on the device."""
    if isinstance(value, PackedSequence):
        return value.to(device)  # type: ignore[arg-type]
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(to_device(part, device) for part in value)
    return map_tensors(lambda tensor: tensor.to(device), value)


def count_samples(value: Any) -> int:
    """Returns the number of samples in a part of a batch: the length of its first tensor or list.

    Raises:
        InputError: If it holds neither.
    """
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, Tensor) and not value.dim():
        raise InputError("a batch: expected samples, got one number")
    if isinstance(value, (Tensor, list)):
        return len(value)
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, tuple):
        parts = value
    elif dataclasses.is_dataclass(value):
        parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    for part in parts:
        if isinstance(part, Tensor) and not part.dim():
            continue
        if isinstance(part, (Tensor, list, Mapping, tuple)) or dataclasses.is_dataclass(part):
            return count_samples(part)
    raise InputError(f"a batch: expected tensors or lists of samples, got {type(value).__name__}")


def cut(value: Any, samples: slice | Tensor, count: int) -> Any:
    """Selects some of the `count` samples of a part of a batch, by a slice or by index.

    A list of length `count` is sliced itself, not its elements. Values of another length, such as a
    vector shared by all samples, stay unchanged.

    Raises:
        InputError: If it is a PackedSequence, whose samples are interleaved.
    """

    def inside(part: Any) -> Any:
        return cut(part, samples, count)

    if isinstance(value, PackedSequence):
        raise InputError(
            "a PackedSequence cannot be cut into samples: give padded tensors, or leave split off"
        )
    if isinstance(value, Tensor):
        return value[samples] if value.dim() and len(value) == count else value
    if isinstance(value, list) and len(value) == count:
        return value[samples] if isinstance(samples, slice) else [value[i] for i in samples]
    if isinstance(value, list):
        return value
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)
        for key in value:
            changed[key] = inside(value[key])
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(inside, value))
    if isinstance(value, tuple):
        return tuple(map(inside, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{n: inside(getattr(value, n)) for n in names})
    return value


def has_length(value: Any, count: int) -> bool:
    """Whether a value is a tensor with `count` rows."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == count


def expect_many_passes(batches: object, what: str = "the data") -> None:
    """Refuses data that can be iterated only once, because a second epoch would be empty.

    Raises:
        InputError: If it is a generator, map, zip or other iterator, or not iterable.
    """
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise InputError(
            f"{what}: expected an iterable of batches (a DataLoader, a list), got "
            f"{type(batches).__name__}"
        )
    if isinstance(batches, (Mapping, Tensor)):
        raise InputError(
            f"{what}: got one {type(batches).__name__}: expected an iterable of batches, as a list "
            "with this one in it, or a DataLoader"
        )
    if isinstance(batches, Iterator):
        raise InputError(
            f"{what}: a {type(batches).__name__} can be iterated only once, a second epoch would "
            "be empty; give a DataLoader, a list, or an object whose __iter__ begins anew"
        )


def length_of(batches: object) -> int | None:
    """Returns the number of batches, if known."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
