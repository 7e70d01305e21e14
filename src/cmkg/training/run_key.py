"""What a resumed call must share with the first: its inputs, in words that tell others apart."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..batch import Fields
from ..containers import length_of
from ..errors import InputError
from ..prior.parameters import fingerprint
from ..prior.prior import Prior


def describe_function(function: Any) -> str | None:
    """A function's name and a checksum of the values that it holds: arguments, closure, weights.

    Its code is not compared: it differs between versions of Python. FitConfig.run_key says when it
    changes.
    """
    if function is None:
        return None
    name = f"{getattr(function, '__module__', '')}."
    name += getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name} {checksum_of(function):08x}"


def checksum_of(value: Any, checksum: int = 0, depth: int = 0) -> int:
    """A number that other weights, arguments or values change, and other code does not."""

    def add(text: str) -> int:
        return zlib.crc32(text.encode(), checksum)

    if depth > 6:
        return checksum
    if isinstance(value, Tensor):
        return zlib.crc32(value.detach().double().cpu().contiguous().numpy().tobytes(), checksum)
    if isinstance(value, nn.Module):
        checksum = add(repr(value))
        parts: list[Any] = [v for k, v in sorted(vars(value).items()) if not k.startswith("_")]
        parts += list(value.state_dict().values())
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *sorted(value.keywords.items())]
    elif isinstance(value, Mapping):
        parts = sorted(value.items(), key=repr)
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    elif callable(value) and not isinstance(value, type):
        checksum = add(getattr(value, "__qualname__", type(value).__qualname__))
        parts = held_by(value)
        owner = getattr(value, "__self__", None)
        parts += [owner] if isinstance(owner, nn.Module) else []
    elif isinstance(value, (str, int, float, bool, bytes, type(None))):
        return add(repr(value))
    else:
        return add(type(value).__qualname__)
    for part in parts:
        checksum = checksum_of(part, checksum, depth + 1)
    return checksum


def held_by(function: Any) -> list[Any]:
    """What a function has taken along: its closure's values, then its defaults."""
    cells = getattr(function, "__closure__", None) or ()
    defaults = getattr(function, "__defaults__", None) or ()
    return [cell.cell_contents for cell in cells] + list(defaults)


def describe_fields(fields: Fields) -> list[Any]:
    """Which part of a batch is which."""
    keys = [fields.student, fields.teacher, fields.target, fields.labelled]
    keys += [] if fields.mask is None else [fields.mask]
    return [describe_function(key) if callable(key) else repr(key) for key in keys]


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its kind, its settings and those of its groups."""
    groups = [
        {name: str(v) for name, v in group.items() if name not in ("params", "param_names")}
        for group in optimizer.param_groups
    ]
    return {"optimizer": type(optimizer).__name__, "groups": groups}


def describe_data(batches: Any) -> dict[str, Any]:
    """What can be told of data without going through them: kind, length, values that are held."""
    if isinstance(batches, DataLoader):
        found = describe_data(batches.dataset)
        return found | {"batch_size": batches.batch_size}
    found = {"kind": type(batches).__name__, "length": length_of(batches)}
    held = batches if isinstance(batches, (list, tuple)) else getattr(batches, "tensors", ())
    return found | {"values": f"{checksum_of(list(held)):08x}"}


def describe_prior(prior: Prior) -> dict[str, Any]:
    """The fingerprints of phi and of its centre."""
    centre = None if prior.centre is None else fingerprint(prior.centre)
    return {"phi": fingerprint(prior.phi), "centre": centre}


def as_json(value: Any) -> Any:
    """Settings as JSON gives them back; functions described."""
    if isinstance(value, dict):
        return {name: as_json(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_json(part) for part in value]
    return describe_function(value) if callable(value) else value


def expect_resumable(batches: Any) -> None:
    """Refuses data that a resumed call could not go through as the unbroken one does.

    Raises:
        InputError: workers that outlive an epoch: their random streams are not kept.
    """
    if getattr(batches, "persistent_workers", False) and getattr(batches, "num_workers", 0):
        raise InputError(
            "out= beside a DataLoader with persistent_workers=True: its workers' random streams go "
            "on from epoch to epoch and are not kept, so that a resumed call would come to other "
            "weights; leave persistent_workers off, or out="
        )
    for part in _parts_of(batches):
        for name, value in vars(part).items() if hasattr(part, "__dict__") else ():
            if isinstance(value, (random.Random, np.random.Generator, np.random.RandomState)):
                raise InputError(
                    f"out= beside a {type(part).__name__} with a random stream of its own "
                    f"({name}), which is not kept, so that a resumed call would come to other "
                    "weights; draw from the global streams, or from a torch.Generator"
                )


def generators_of(batches: Any) -> list[torch.Generator]:
    """The random streams of its own that a DataLoader, its samplers or its dataset draw from."""
    found = [
        value
        for part in _parts_of(batches)
        for value in [getattr(part, "generator", None), *getattr(part, "__dict__", {}).values()]
        if isinstance(value, torch.Generator)
    ]
    return list({id(one): one for one in found}.values())


def _parts_of(batches: Any) -> list[Any]:
    """Data, and what a DataLoader draws from."""
    parts = [batches, *(getattr(batches, n, None) for n in ("dataset", "sampler", "batch_sampler"))]
    parts.append(getattr(getattr(batches, "batch_sampler", None), "sampler", None))
    return [part for part in parts if part is not None]
