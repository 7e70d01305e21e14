"""Writes a packed set with several processes, chunk by chunk; goes on where a killed pack stopped.

It is written under a temporary name and renamed when whole: a pack that exists is complete.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ....errors import InputError
from ....runtime.distributed import on_first_rank
from ....runtime.files import PathLike, named, read_json, write_json, write_sealed_json
from ....runtime.locks import hold_lock
from ....runtime.partial_folders import rename_whole, take_up
from ....runtime.progress import Bar
from ....runtime.signals import tell_on_stop
from ....runtime.workers import core_count, process_map
from ...files.arrays import DiskArray, checksum
from ...skeleton import BONES, bone_scale
from ..sample import Dataset, Sample
from .format import FORMAT, ArraySpecs, Packed, array_specs, read_meta
from .sources import (
    MODULUS,
    expect_same_files,
    files_checksum,
    files_stamp,
    has_files,
    labels_checksum,
)

CHUNK = 32


TO_DO = -1  # in chunks.npy, which has the checksum of each chunk that is done


class Shard:
    """The i-th of n nearly equal consecutive parts of a dataset, "i/n".

    Packed by itself, then `merge`d with the others.

    Raises:
        InputError: the shard's name is not i/n.
    """

    def __init__(self, dataset: Dataset, shard: str) -> None:
        self.dataset = dataset
        self.shard = shard
        i, _, n = shard.partition("/")
        numbers = i.isdecimal() and n.isdecimal()
        if not numbers or not int(i) < int(n) <= len(dataset):
            raise InputError(
                f"--shard: expected i/n with 0 <= i < n <= {len(dataset)}, got {shard!r}"
            )
        self.first, self.last = (len(dataset) * k // int(n) for k in (int(i), int(i) + 1))

    def __len__(self) -> int:
        return self.last - self.first

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """The samples of these numbers within the shard."""
        return self.dataset.samples([self.first + int(index) for index in indices])

    def describe(self) -> dict[str, Any]:
        """What the whole is, and which part."""
        return self.dataset.describe() | {"shard": self.shard}

    def __getattr__(self, name: str) -> Any:
        """files and label_files, of a dataset that has some."""
        if name == "files" and hasattr(self.dataset, "files"):
            return self._files
        if name == "label_files" and hasattr(self.dataset, "label_files"):
            return self.dataset.label_files
        raise AttributeError(name)

    def _files(self, i: int) -> list[Path]:
        files: list[Path] = self.dataset.files(self.first + i)  # type: ignore[attr-defined]
        return files


def pack(dataset: Dataset, folder: PathLike, workers: int | None = None) -> Packed:
    """Writes a dataset in parallel; goes on where a killed pack stopped.

    A finished pack of the same dataset is reused.

    Args:
        dataset: what to pack.
        folder: where.
        workers: processes; None = one a core.

    Raises:
        InputError: the folder holds another set, or something else.
    """
    on_first_rank(lambda: _pack(dataset, Path(folder), workers or core_count()))
    return Packed(folder)


def _pack(dataset: Dataset, folder: Path, workers: int) -> None:
    description = dataset.describe()
    if (labels := labels_checksum(dataset)) is not None:
        description |= {"labels_crc32": labels}
    if (folder / "meta.json").exists():
        _expect_same_set(folder, description)
        expect_same_files(dataset, read_meta(folder).get("sources"), folder)
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no packed set; choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder.with_name(folder.name + ".lock"), folder):
        stamp = files_stamp(dataset)
        arrays = _prepare(dataset, partial, description)
        _fill(dataset, partial, arrays, workers)
        facts = _describe_set(partial, arrays, description)
        if has_files(dataset):
            files = sum(map(int, np.load(partial / "sources.npy"))) % MODULUS
            facts["sources"] = {"files": files, "stamp": stamp}
        write_sealed_json(partial / "meta.json", facts)
        rename_whole(partial, folder)
        for scaffold in ("chunks.npy", "sources.npy", "holds.json"):
            # After the rename: killed between the two, the set is still whole.
            (folder / scaffold).unlink()


def _expect_same_set(folder: Path, description: dict[str, Any]) -> None:
    held = read_meta(folder)["holds"]
    for key in description | held:
        if held.get(key) != description.get(key):
            raise InputError(
                f"{folder}/meta.json: this set has {key} = {held.get(key)!r}, asked for is "
                f"{description.get(key)!r}; choose another folder or remove this one"
            )


def _prepare(dataset: Dataset, partial: Path, description: dict[str, Any]) -> ArraySpecs:
    """Creates the empty arrays, or takes up those of a killed pack of the same dataset."""
    first = dataset.samples([0])[0]
    take_up(partial)
    arrays = array_specs(len(dataset), len(first.rgb))
    if first.depth is None:
        del arrays["depth"]
    if not description.get("without_label"):
        del arrays["labelled"]
    held = partial / "holds.json"
    if held.exists() and read_json(held) == description and _is_whole(partial, arrays):
        return arrays
    held.unlink(missing_ok=True)
    for name, (shape, dtype) in arrays.items():
        _allocate_array(partial / f"{name}.npy", dtype, shape)
    chunks = _allocate_array(partial / "chunks.npy", "int64", (-(-len(dataset) // CHUNK),))
    chunks[:] = TO_DO
    chunks.flush()
    _allocate_array(partial / "sources.npy", "int64", chunks.shape)
    write_json(held, description)
    return arrays


def _is_whole(partial: Path, arrays: ArraySpecs) -> bool:
    """Whether the files of a killed pack can be gone on with."""
    count = arrays["rgb"][0][0]
    chunks = ((-(-count // CHUNK),), "int64")
    every = {**arrays, "chunks": chunks, "sources": chunks}
    try:
        for name, (shape, dtype) in every.items():
            DiskArray(partial / f"{name}.npy", shape, dtype)
    except InputError:
        return False
    return True


def _checksum_of_chunk(partial: Path, names: Sequence[str], chunk: int) -> int:
    """Of all that a chunk's samples have on disk."""
    value = 0
    for name in names:
        array = np.load(partial / f"{name}.npy", mmap_mode="r")
        rows = array[chunk * CHUNK : (chunk + 1) * CHUNK]
        value = zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).data, value)
    return value


def _allocate_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap:
    """A new array on disk whose space is taken now: a full disk must fail here, not by SIGBUS."""
    try:
        array = open_memmap(path, "w+", dtype, shape)
        array.flush()
        allocate = getattr(os, "posix_fallocate", None)  # not on macOS and Windows
        with open(path, "r+b") as file:
            if allocate is not None:
                allocate(file.fileno(), 0, path.stat().st_size)
            else:
                _write_zeros(file, file.seek(0, os.SEEK_END) - array.nbytes, array.nbytes)
    except OSError as error:
        raise named(error, path) from None
    return array


def _write_zeros(file: Any, start: int, count: int, block: int = 1 << 24) -> None:
    """Takes the space by writing it, where nothing else does."""
    file.seek(start)
    while count > 0:
        file.write(bytes(min(block, count)))
        count -= block


def _fill(dataset: Dataset, partial: Path, arrays: ArraySpecs, workers: int) -> None:
    chunks, sources = np.load(partial / "chunks.npy"), np.load(partial / "sources.npy")
    for chunk in np.flatnonzero(chunks != TO_DO):  # a killed pack's: is it what was written?
        is_same = _checksum_of_chunk(partial, list(arrays), int(chunk)) == chunks[chunk]
        if (
            not is_same
            or files_checksum(dataset, _samples_of(dataset, int(chunk))) != sources[chunk]
        ):
            chunks[chunk] = TO_DO
    todo = np.flatnonzero(chunks == TO_DO)
    jobs = [(dataset, partial, list(arrays), int(chunk)) for chunk in todo]

    def describe() -> str:
        done = int((np.load(partial / "chunks.npy") != TO_DO).sum())
        return f"{partial}: {done} of {len(chunks)} parts are on disk"

    with (
        tell_on_stop(describe),
        Bar(f"pack {partial.stem}", len(chunks), len(chunks) - len(todo), CHUNK) as advance,
    ):
        if workers == 1 or len(todo) <= 2:
            for job in jobs:
                _write_chunk(*job)
                advance()
        else:
            for _ in process_map(_write_chunk, jobs, workers):
                advance()


def _samples_of(dataset: Dataset, chunk: int) -> range:
    return range(chunk * CHUNK, min((int(chunk) + 1) * CHUNK, len(dataset)))


def _write_chunk(dataset: Dataset, partial: Path, names: Sequence[str], chunk: int) -> None:
    numbers = _samples_of(dataset, chunk)
    first, last = numbers.start, numbers.stop
    made_from = files_checksum(dataset, numbers)
    samples = dataset.samples(numbers)
    if files_checksum(dataset, numbers) != made_from:
        raise InputError(
            f"{partial}: pictures were changed while they were packed; start the command again"
        )
    for name in names:
        array = open_memmap(partial / f"{name}.npy", "r+")
        array[first:last] = np.stack([getattr(sample, name) for sample in samples])
        array.flush()  # before it is called done: a power cut must not leave that alone
    sources = open_memmap(partial / "sources.npy", "r+")
    sources[chunk] = made_from
    sources.flush()
    done = open_memmap(partial / "chunks.npy", "r+")
    done[chunk] = _checksum_of_chunk(partial, names, chunk)
    done.flush()


def _describe_set(partial: Path, arrays: ArraySpecs, description: dict[str, Any]) -> dict[str, Any]:
    joints = np.load(partial / "joints_mm.npy").astype(np.float64)
    if "labelled" in arrays:
        joints = joints[np.load(partial / "labelled.npy")]
        if not len(joints):
            raise InputError(f"{partial}: no sample of this set has a label; expected some")
    parents, children = np.array(BONES).T
    scale = bone_scale(joints)
    lengths = np.linalg.norm(joints[:, parents] - joints[:, children], axis=2)
    return {
        "format": FORMAT,
        "holds": description,
        "arrays": {name: [list(shape), dtype] for name, (shape, dtype) in arrays.items()},
        "margin": description["margin"],
        "bone_mm": float(scale.mean()),
        "bone_lengths": (lengths / scale[:, None]).mean(0).tolist(),
        "bone_lengths_unit": "|middle MCP - middle PIP|, order of skeleton.BONES",
        "crc32": {name: checksum(partial / f"{name}.npy") for name in arrays},
    }
