"""Merges packed shards into one packed set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....runtime.files import PathLike, write_sealed_json
from ....runtime.locks import hold_lock
from ....runtime.partial_folders import begin_anew, rename_whole
from .format import ArraySpecs, Packed, verify_checksums
from .pack import allocate_array, describe_set

MERGED_AT_ONCE = 1024  # samples


def merge_shards(folders: Sequence[PathLike], out: PathLike) -> Packed:
    """Merges the shards in `folders`, in any order, into one packed set.

    The result is byte-identical to a single pack.

    Raises:
        InputError: a shard is missing, duplicated, or from another set.
    """
    if not folders:
        raise InputError("--folders: expected the packed shards of a set, got none")
    out = Path(out)
    shards = sorted((verify_checksums(folder) for folder in folders), key=_place_of)
    whole = _expect_one_set(shards, out)
    if out.exists():
        raise InputError(f"{out}: is there already; choose another folder")
    partial = out.with_name(out.name + ".merging")
    out.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(out.with_name(out.name + ".lock"), out):
        begin_anew(partial)
        _merge(shards, whole, partial)
        rename_whole(partial, out)
    return Packed(out)


def _merge(shards: Sequence[Packed], whole: dict[str, Any], partial: Path) -> None:
    arrays: ArraySpecs = {}
    for name, (shape, dtype) in shards[0].meta["arrays"].items():
        arrays[name] = ((sum(map(len, shards)), *shape[1:]), dtype)
        array = allocate_array(partial / f"{name}.npy", dtype, arrays[name][0])
        at = 0
        for shard in shards:
            for first in range(0, len(shard), MERGED_AT_ONCE):
                rows = getattr(shard, name)[first : first + MERGED_AT_ONCE]
                array[at : at + len(rows)] = rows
                at += len(rows)
        array.flush()
    write_sealed_json(partial / "meta.json", describe_set(partial, arrays, whole))


def _expect_one_set(shards: Sequence[Packed], out: Path) -> dict[str, Any]:
    """Returns the whole set's description, or raises InputError unless each shard is there once."""
    whole = _without_shard(shards[0])
    for shard in shards:
        if _without_shard(shard) != whole:
            raise InputError(
                f"{shard.folder}/meta.json: holds another set than {shards[0].folder}; merge "
                "shards of one set"
            )
    count = _place_of(shards[0])[1]
    if [_place_of(shard) for shard in shards] != [(i, count) for i in range(count)]:
        there = ", ".join(shard.meta["holds"].get("shard", "a whole set") for shard in shards)
        raise InputError(
            f"{out}: expected the shards 0/{count} to {count - 1}/{count}, each once; found {there}"
        )
    return whole


def _without_shard(packed: Packed) -> dict[str, Any]:
    return {key: value for key, value in packed.meta["holds"].items() if key != "shard"}


def _place_of(packed: Packed) -> tuple[int, int]:
    """Returns (i, n) of a shard, or (0, 1) of a whole set."""
    i, n = packed.meta["holds"].get("shard", "0/1").split("/")
    return int(i), int(n)
