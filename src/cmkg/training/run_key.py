"""Describes a call's inputs, so that a resumed call can be checked against the first."""

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
    """Returns a function's name and a checksum of its values: arguments, closure, weights.

    Its code is not compared, because bytecode differs between versions of Python. Use
    FitConfig.run_key to mark code changes.
    """
    if function is None:
        return None
    name = f"{getattr(function, '__module__', '')}."
    name += getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name} {checksum_of(function):08x}"


def checksum_of(value: Any, checksum: int = 0, depth: int = 0) -> int:
    """Returns a checksum that depends on weights, arguments and values, but not on code."""

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
    """Returns the values that a function holds: its closure's, then its defaults."""
    cells = getattr(function, "__closure__", None) or ()
    defaults = getattr(function, "__defaults__", None) or ()
    return [cell.cell_contents for cell in cells] + list(defaults)


def describe_fields(fields: Fields) -> list[Any]:
    """Describes which part of a batch is which."""
    keys = [fields.student, fields.teacher, fields.target, fields.labelled]
    keys += [] if fields.mask is None else [fields.mask]
    return [describe_function(key) if callable(key) else repr(key) for key in keys]


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Describes an optimizer by its class and its groups' settings."""
    groups = [
        {name: str(v) for name, v in group.items() if name not in ("params", "param_names")}
        for group in optimizer.param_groups
    ]
    return {"optimizer": type(optimizer).__name__, "groups": groups}


def describe_data(batches: Any) -> dict[str, Any]:
    """Describes data without iterating over them: class, length, checksum of stored values."""
    if isinstance(batches, DataLoader):
        facts = describe_data(batches.dataset)
        return facts | {"batch_size": batches.batch_size}
    facts = {"kind": type(batches).__name__, "length": length_of(batches)}
    values = batches if isinstance(batches, (list, tuple)) else getattr(batches, "tensors", ())
    return facts | {"values": f"{checksum_of(list(values)):08x}"}


def describe_prior(prior: Prior) -> dict[str, Any]:
    """Returns the fingerprints of phi and of its center."""
    centre = None if prior.centre is None else fingerprint(prior.centre)
    return {"phi": fingerprint(prior.phi), "centre": centre}


def as_json(value: Any) -> Any:
    """Returns settings as they read back from JSON, with functions described."""
    if isinstance(value, dict):
        return {name: as_json(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_json(part) for part in value]
    return describe_function(value) if callable(value) else value


def expect_resumable(batches: Any) -> None:
    """Refuses data that a resumed call could not iterate in the same order.

    Raises:
        InputError: If workers outlive an epoch, or the data have a random stream that cannot be
            saved.
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
    """Returns the torch.Generators of a DataLoader, its samplers and its dataset."""
    generators = [
        value
        for part in _parts_of(batches)
        for value in [getattr(part, "generator", None), *getattr(part, "__dict__", {}).values()]
        if isinstance(value, torch.Generator)
    ]
    return list({id(generator): generator for generator in generators}.values())


def _parts_of(batches: Any) -> list[Any]:
    """Returns the data and, for a DataLoader, its dataset and samplers."""
    parts = [batches, *(getattr(batches, n, None) for n in ("dataset", "sampler", "batch_sampler"))]
    parts.append(getattr(getattr(batches, "batch_sampler", None), "sampler", None))
    return [part for part in parts if part is not None]
