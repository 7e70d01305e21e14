"""Writes a packed set with several processes, chunk by chunk, and resumes an interrupted one.

The set is written under a temporary name and renamed when complete, so a pack that exists is whole.
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


TO_DO = -1  # marks a missing chunk in chunks.npy, which stores the checksum of each finished one


class Shard:
    """The i-th of n nearly equal consecutive parts of a dataset, "i/n".

    Shards are packed separately and then merged.

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
        """Samples by their number within the shard."""
        return self.dataset.samples([self.first + int(index) for index in indices])

    def describe(self) -> dict[str, Any]:
        """Describes the dataset and the shard."""
        return self.dataset.describe() | {"shard": self.shard}

    def __getattr__(self, name: str) -> Any:
        """Provides files and label_files if the dataset has them."""
        if name == "files" and hasattr(self.dataset, "files"):
            return self._files
        if name == "label_files" and hasattr(self.dataset, "label_files"):
            return self.dataset.label_files
        raise AttributeError(name)

    def _files(self, i: int) -> list[Path]:
        files: list[Path] = self.dataset.files(self.first + i)  # type: ignore[attr-defined]
        return files


def pack(dataset: Dataset, folder: PathLike, workers: int | None = None) -> Packed:
    """Packs a dataset in parallel, resuming an interrupted pack.

    A finished pack of the same dataset is reused.

    Args:
        dataset: the dataset to pack.
        folder: the output folder.
        workers: number of processes; None = one per core.

    Raises:
        InputError: the folder contains another set, or other files.
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
        facts = describe_set(partial, arrays, description)
        if has_files(dataset):
            files = sum(map(int, np.load(partial / "sources.npy"))) % MODULUS
            facts["sources"] = {"files": files, "stamp": stamp}
        write_sealed_json(partial / "meta.json", facts)
        rename_whole(partial, folder)
        for scaffold in ("chunks.npy", "sources.npy", "holds.json"):
            # After the rename: if killed in between, the set is still complete.
            (folder / scaffold).unlink()


def _expect_same_set(folder: Path, description: dict[str, Any]) -> None:
    packed = read_meta(folder)["holds"]
    for key in description | packed:
        if packed.get(key) != description.get(key):
            raise InputError(
                f"{folder}/meta.json: this set has {key} = {packed.get(key)!r}, asked for is "
                f"{description.get(key)!r}; choose another folder or remove this one"
            )


def _prepare(dataset: Dataset, partial: Path, description: dict[str, Any]) -> ArraySpecs:
    """Creates the empty arrays, or reuses those of an interrupted pack of the same dataset."""
    first = dataset.samples([0])[0]
    take_up(partial)
    arrays = array_specs(len(dataset), len(first.rgb))
    if first.depth is None:
        del arrays["depth"]
    if not description.get("without_label"):
        del arrays["labelled"]
    marker = partial / "holds.json"
    if marker.exists() and read_json(marker) == description and _is_whole(partial, arrays):
        return arrays
    marker.unlink(missing_ok=True)
    for name, (shape, dtype) in arrays.items():
        allocate_array(partial / f"{name}.npy", dtype, shape)
    chunks = allocate_array(partial / "chunks.npy", "int64", (-(-len(dataset) // CHUNK),))
    chunks[:] = TO_DO
    chunks.flush()
    allocate_array(partial / "sources.npy", "int64", chunks.shape)
    write_json(marker, description)
    return arrays


def _is_whole(partial: Path, arrays: ArraySpecs) -> bool:
    """Whether an interrupted pack can be resumed from its files."""
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
    """The checksum of all arrays of a chunk's samples."""
    value = 0
    for name in names:
        array = np.load(partial / f"{name}.npy", mmap_mode="r")
        rows = array[chunk * CHUNK : (chunk + 1) * CHUNK]
        value = zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).data, value)
    return value


def allocate_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap:
    """Creates an array on disk with its space reserved: a full disk fails here, not by SIGBUS."""
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
    """Reserves space by writing zeros, on systems without posix_fallocate."""
    file.seek(start)
    while count > 0:
        file.write(bytes(min(block, count)))
        count -= block


def _fill(dataset: Dataset, partial: Path, arrays: ArraySpecs, workers: int) -> None:
    chunks, sources = np.load(partial / "chunks.npy"), np.load(partial / "sources.npy")
    for chunk in np.flatnonzero(chunks != TO_DO):  # verify the chunks of an interrupted pack
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
        array.flush()  # before the chunk is marked as done, in case of a power cut
    sources = open_memmap(partial / "sources.npy", "r+")
    sources[chunk] = made_from
    sources.flush()
    done = open_memmap(partial / "chunks.npy", "r+")
    done[chunk] = _checksum_of_chunk(partial, names, chunk)
    done.flush()


def describe_set(partial: Path, arrays: ArraySpecs, description: dict[str, Any]) -> dict[str, Any]:
    """Returns the contents of a set's meta.json.

    Raises:
        InputError: no sample has a label.
    """
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
