"""Reads and writes a prior's file: safetensors with phi, center, variance and a manifest."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..runtime.files import PathLike, parse_json
from ..runtime.weight_files import read_tensors, write_tensors
from .parameters import GRANULARITIES, Tensors

FORMAT = "cmkg-prior/1"


class PriorFile(NamedTuple):
    """The contents of a prior's file; `p` is also in the manifest."""

    phi: dict[str, Tensor]
    p: int
    centre: dict[str, Tensor] | None
    variance: dict[str, Tensor] | None
    manifest: dict[str, Any]


def write_prior(path: PathLike, prior: PriorFile) -> None:
    """Writes a prior's file atomically; adds format, p, versions and shapes to the manifest.

    Raises:
        InputError: If phi is empty, a number is not finite, or a fact is not JSON.
    """
    from ..version import __version__

    parts = {"phi": prior.phi, "centre": prior.centre, "variance": prior.variance}
    tensors = {
        f"{part}/{name}": tensor.detach().clone()
        for part, named in parts.items()
        for name, tensor in (named or {}).items()
    }
    if not prior.phi or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        problem = "a number that is not finite" if prior.phi else "no phi at all"
        raise InputError(f"{path}: a prior with {problem} is not saved: it could not be loaded")
    record = prior.manifest | {
        "format": FORMAT,
        "p": prior.p,
        "versions": {
            "cmkg": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "shapes": {name: list(phi.shape) for name, phi in prior.phi.items()},
    }
    try:
        metadata = {"manifest": json.dumps(record, allow_nan=False, sort_keys=True)}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a prior's facts are plain JSON (text, numbers, lists): {error}"
        ) from None
    write_tensors(path, tensors, metadata)


def read_prior(path: PathLike, device: torch.device | str = "cpu") -> PriorFile:
    """Reads a prior's file.

    Raises:
        InputError: If the file is not a prior; the message names the file and the field.
    """
    file = read_tensors(path, "a prior", "get it again")
    text = file.metadata.get("manifest", "{}")
    manifest = parse_json(text.encode(), path, "a prior's manifest", "get it again")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        format_name = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise InputError(
            f"{path}: expected a prior of format {FORMAT}, the file says {format_name!r}"
        )
    _expect_manifest(manifest, path)
    _expect_tensors(file.tensors, path)
    tensors = {name: tensor.to(device) for name, tensor in file.tensors.items()}

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    centre, variance = part("centre/") or None, part("variance/") or None
    return PriorFile(part("phi/"), manifest["p"], centre, variance, manifest)


def _expect_tensors(tensors: Tensors, path: PathLike) -> None:
    """Refuses tensors that are not finite or do not belong to a phi of the file."""
    finite = all(torch.isfinite(tensor).all() for tensor in tensors.values())
    if not finite or not any(name.startswith("phi/") for name in tensors):
        problem = "a number that is not finite" if tensors else "none"
        raise InputError(f"{path}: expected finite tensors 'phi/...', found {problem}")
    for name, tensor in tensors.items():
        phi = tensors.get(f"phi/{name.partition('/')[2]}")
        is_variance = name.startswith("variance/")
        is_number = tensor.is_floating_point() or (
            tensor.is_complex() and name.startswith("centre/")
        )
        if phi is None or not is_number or (is_variance and tensor.shape != phi.shape):
            raise InputError(f"{path}: tensor {name!r} belongs to no phi of the file")


def _expect_manifest(manifest: Mapping[str, Any], path: PathLike) -> None:
    """Refuses manifest entries that `save` would not write."""
    numbers = manifest.get("weights", {})
    strength = manifest.get("strength", 1.0)
    checks = {
        "p": manifest.get("p") in (1, 2) and not isinstance(manifest["p"], bool),
        "strength": isinstance(strength, (int, float)) and math.isfinite(strength),
        "granularity": manifest.get("granularity", "weight") in GRANULARITIES,
        "select": isinstance(manifest.get("select", ""), str),
        "fingerprint": isinstance(manifest.get("fingerprint", ""), (str, type(None))),
        "weights": isinstance(numbers, dict)
        and all(isinstance(count, int) and count > 0 for count in numbers.values()),
    }
    for field, is_good in checks.items():
        if not is_good:
            expected = "1 or 2" if field == "p" else "what Prior.save writes"
            raise InputError(
                f"{path}: field {field!r} of the manifest: expected {expected}, found "
                f"{manifest.get(field)!r:.60}"
            )
