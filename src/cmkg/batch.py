"""A batch and its parts: the student's input, the teacher's input, and the target."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Hashable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .containers import count_samples, cut, describe_parts, has_length, to_device
from .errors import InputError


class Batch(NamedTuple):
    """One batch of a source or a target dataset.

    student_input: the weak modality: a tensor, a tuple of tensors, or a mapping of named tensors.
    teacher_input: the superior modality of the same samples; None on a target dataset.
    target: the label of the student's output; None if no sample has a label.
    labelled: bool (B,): which samples have a label; None means all. Other target values are
    ignored.
    mask: bool (B, *places): which places are content, not padding; None means all.
    """

    student_input: Any
    teacher_input: Any = None
    target: Any = None
    labelled: Any = None
    mask: Any = None


Key = Hashable | tuple[Hashable, ...] | Mapping[str, Hashable] | Callable[[Any], Any] | None


@dataclass(frozen=True)
class Fields:
    """Which part of a batch is which.

    Each field is a dict key, a tuple index, an attribute, a tuple of these, a dict {argument of the
    network: key}, or a function of the batch; None if there is no such part. Named parts are passed
    to the network as keyword arguments: ("input_ids", "mask") gives net(input_ids=..., mask=...).

    mask: bool (B, *places), True where a padded sequence or image has content. cmkg's own losses
    ignore padding; your own loss must do so itself (ignore_index).

    Tuples of samples, as used by torchvision's detectors (images, dicts of targets), become lists:
    a tuple means several inputs, a list means samples.
    """

    student: Key = 0
    teacher: Key = 1
    target: Key = 2
    labelled: Key = None
    mask: Key = None

    def __call__(self, batch: Any, device: torch.device | str | None = None) -> Batch:
        """Returns the parts of a batch on the device; a Batch keeps its parts.

        Raises:
            InputError: If a part is missing, or a tuple may be samples or several inputs.
        """
        if isinstance(batch, Batch):
            return batch if device is None else Batch(*to_device(tuple(batch), device))
        keys = self.student, self.teacher, self.target
        parts = [
            _input_of(batch, self.student),
            _input_of(batch, self.teacher),
            field_of(batch, self.target),
        ]
        parts = _samples_as_lists(parts, [isinstance(key, tuple) for key in keys])
        parts += [field_of(batch, self.labelled), field_of(batch, self.mask)]
        return Batch(*(part if device is None else to_device(part, device) for part in parts))


SOURCE_FIELDS = Fields()  # a batch (x, x_superior, y)
TARGET_FIELDS = Fields(0, None, 1)  # a batch (x, y)


def _input_of(batch: Any, key: Key) -> Any:
    """Returns a network's input; several names become keyword arguments."""
    if isinstance(key, tuple) and key and all(isinstance(name, str) for name in key):
        return {name: field_of(batch, name) for name in key}
    return field_of(batch, key)


def field_of(batch: Any, key: Key) -> Any:
    """Returns a field of a batch; None for the key None.

    Raises:
        InputError: If the field is missing; the message lists the existing ones.
    """
    if key is None:
        return None
    if isinstance(key, tuple):
        return tuple(field_of(batch, part_key) for part_key in key)
    if isinstance(key, Mapping):
        return {argument: field_of(batch, part_key) for argument, part_key in key.items()}
    if callable(key):
        return key(batch)
    if isinstance(batch, Tensor):
        raise InputError(
            f"a batch is one tensor of shape {tuple(batch.shape)}, its rows are no fields: give "
            "a tuple or a dict of parts, or Fields with functions of the batch"
        )
    if isinstance(key, str) and hasattr(batch, key) and not isinstance(batch, Mapping):
        return getattr(batch, key)
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        raise InputError(
            f"a batch has no field {key!r}; it has {describe_parts(batch)}: say with "
            "Fields(student=, teacher=, target=) which is which"
        ) from None


def expect_fields(fields: object) -> None:
    """Refuses anything but a Fields."""
    if not isinstance(fields, Fields):
        raise InputError(
            f"fields: expected Fields(student=, teacher=, target=), got {fields!r:.60}"
        )


# ---- tuples of samples ---------------------------------------------------------------------------
def _samples_as_lists(parts: list[Any], joined: Sequence[bool]) -> list[Any]:
    """Converts tuples of samples to lists if another part shows that they are samples.

    A detector's batch, `tuple(zip(*samples))`, is a tuple of images and a tuple of dicts.

    Args:
        parts: A batch's inputs and target.
        joined: Which of them are tuples that Fields made from several keys.

    Raises:
        InputError: If it is ambiguous.
    """
    counts = {
        len(element) for part in parts for element in _tuples_in(part) if _are_mappings(element)
    }
    if len(counts) > 1:
        raise InputError(
            f"a batch has tuples of {' and of '.join(map(str, sorted(counts)))} dicts: expected "
            "one dict a sample; give Fields functions of the batch that return lists"
        )
    if counts:
        (count,) = counts
        return [
            tuple(_as_list(element, count) for element in part)
            if is_joined
            else _as_list(part, count)
            for part, is_joined in zip(parts, joined, strict=True)
        ]
    if any(_may_be_pictures(p) and not j for p, j in zip(parts[:2], joined[:2], strict=True)):
        lengths = {len(part) for part in parts if _is_plain_tuple(part)}
        if sum(map(_is_plain_tuple, parts)) > 1 and len(lengths) == 1:
            raise InputError(
                f"a batch's input and target are tuples of {lengths.pop()} tensors, the first of "
                f"shape {tuple(parts[0][0].shape)}: samples, or several inputs? Give lists for "
                "samples (Fields(student=lambda batch: list(batch[0]), ...)), a tuple of keys for "
                "several inputs"
            )
    return parts


def _is_plain_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and not hasattr(value, "_fields") and len(value) > 0


def _are_mappings(value: tuple[Any, ...]) -> bool:
    return all(isinstance(element, Mapping) for element in value)


def _tuples_in(part: Any) -> Iterator[tuple[Any, ...]]:
    """Yields a part that is a tuple, and tuples inside it."""
    if _is_plain_tuple(part):
        yield part
        for element in part:
            yield from _tuples_in(element)


def _as_list(part: Any, count: int) -> Any:
    """Converts tuples of `count` tensors or dicts to lists, also inside a tuple of inputs."""
    if not _is_plain_tuple(part):
        return part
    if len(part) == count and all(isinstance(element, (Tensor, Mapping)) for element in part):
        return list(part)
    return tuple(_as_list(element, count) for element in part)


def _may_be_pictures(part: Any) -> bool:
    """Returns whether a tuple holds (C, H, W) images, which may also be inputs of a batch of C."""
    return _is_plain_tuple(part) and all(
        isinstance(picture, Tensor) and picture.dim() == 3 and len(picture) in (1, 3, 4)
        for picture in part
    )


# ---- containers ----------------------------------------------------------------------------------


def halve(batch: Batch) -> tuple[Batch, Batch]:
    """Returns the first and the second half of a batch's samples.

    Raises:
        InputError: If the batch has fewer than two samples.
    """
    count = count_samples(batch.student_input)
    middle = count // 2
    if middle == 0:
        raise InputError("split: expected batches of two samples or more")
    if batch.target is not None and (target_count := count_samples(batch.target)) != count:
        raise InputError(
            f"split: the input has {count} samples, the target {target_count}: is time the first "
            "dimension? Give batches whose first dimension is that of the samples"
        )
    first = cut(batch, slice(None, middle), count)
    return first, cut(batch, slice(middle, None), count)


def labelled_numbers(batch: Batch) -> Tensor | None:
    """Returns the indices of the labeled samples; None if all are labeled.

    Raises:
        InputError: If `labelled` is not one bool per sample.
    """
    if batch.labelled is None:
        return None
    mask = torch.as_tensor(batch.labelled)
    count = count_samples(batch.student_input)
    if mask.dtype != torch.bool or tuple(mask.shape) != (count,):
        raise InputError(
            f"labelled: expected {count} of bool, one a sample, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    numbers = mask.nonzero().flatten()
    return None if len(numbers) == count else numbers


def labelled_part(value: Any, numbers: Tensor, count: int, what: str) -> Any:
    """Returns the labeled samples of a prediction or a target.

    Raises:
        InputError: If its first dimension is not that of the samples.
    """
    if isinstance(value, list) and value and all(has_length(output, count) for output in value):
        if len(value) == count:
            raise InputError(
                f"the {what} is a list of {count} tensors of {count} rows: it is not clear which "
                "of the two are the samples; give a tuple, or one tensor"
            )
        return [output[numbers] for output in value]  # several outputs, each for all samples
    part = cut(value, numbers, count)
    if count_samples(value) != count or count_samples(part) != len(numbers):
        raise InputError(
            f"the {what} has {count_samples(value)} samples in its first dimension, the batch "
            f"{count}: with labelled= it needs one a sample (any value where there is no label)"
        )
    return part


def labelled_only(batch: Batch) -> Batch | None:
    """Returns the batch's labeled samples; None if there are none.

    Raises:
        InputError: See `labelled_numbers`.
    """
    numbers = labelled_numbers(batch)
    if batch.target is None or (numbers is not None and not len(numbers)):
        return None
    if numbers is None:
        return batch._replace(labelled=None)
    count = count_samples(batch.student_input)
    target = labelled_part(batch.target, numbers, count, "target")
    student_input, teacher_input, mask = (
        cut(part, numbers, count) for part in (*batch[:2], batch.mask)
    )
    return Batch(student_input, teacher_input, target, mask=mask)


# ---- whole data ----------------------------------------------------------------------------------
