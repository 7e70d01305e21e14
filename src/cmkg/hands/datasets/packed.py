"""The packed format that training reads: a folder of memory-mapped arrays and a meta.json.

    rgb.npy (N, px, px, 3) uint8        depth.npy (N, px, px) uint16 mm, when there is depth
    joints_mm.npy (N, 21, 3) float32    K.npy, rotation.npy (N, 3, 3) float32
    mirrored.npy (N,) bool              visible.npy (N, 21) bool
    labelled.npy (N,) bool, when some are not: their joints are assumed
    meta.json: format, what it holds, px, margin, mean bone lengths, checksums

Written under a temporary name by several processes, chunk by chunk, and renamed when whole: a
killed pack goes on where it was, a pack that exists is complete.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ...errors import InputError
from ...runtime.distributed import on_first_rank
from ...runtime.files import PathLike, read_json, write_json
from ...runtime.progress import Bar
from ...runtime.runs import hold_lock
from ...runtime.workers import core_count, process_map
from ..skeleton import BONES, bone_scale
from .sample import Dataset, Sample

FORMAT = "cmkg-packed/1"
CHUNK = 32
META_FIELDS: dict[str, Any] = {
    "format": str,
    "holds": dict,
    "arrays": dict,
    "crc32": dict,
    "margin": (int, float),
    "bone_mm": (int, float),
    "bone_lengths": list,
}
ArraySpecs = dict[str, tuple[tuple[int, ...], str]]  # {name: (shape, dtype)}


class Packed:
    """A packed set: its arrays, memory-mapped, and its meta.json.

    Raises:
        InputError: the folder holds no packed set, or one of its files is not as meta.json says.
    """

    rgb: np.ndarray
    depth: np.ndarray | None = None
    joints_mm: np.ndarray
    K: np.ndarray
    rotation: np.ndarray
    mirrored: np.ndarray
    visible: np.ndarray
    labelled: np.ndarray | None = None

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self.meta: dict[str, Any] = _read_meta(self.folder)
        for name, (shape, dtype) in self.meta["arrays"].items():
            setattr(self, name, self._open_array(name, tuple(shape), dtype))

    def _open_array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: expected {shape} {dtype}, could not read it ({error}); pack the set again"
            ) from None
        if array.shape != shape or str(array.dtype) != dtype:
            raise InputError(
                f"{path}: holds {array.shape} {array.dtype}, meta.json says {shape} {dtype}; pack "
                "the set again"
            )
        return array

    def __len__(self) -> int:
        return len(self.rgb)

    def labels(self) -> np.ndarray:
        """Which samples have a label, bool (N,): the joints of the others are assumed."""
        return np.ones(len(self), bool) if self.labelled is None else np.asarray(self.labelled)

    def expect_labels(self, first: int = 0, last: int | None = None) -> None:
        """Refuses samples [first, last) some of which have no label.

        Raises:
            InputError: how many.
        """
        without = int((~self.labels()[first:last]).sum())
        if without:
            raise InputError(
                f"{self.folder}: {without} samples have no label; they can be distilled from, not "
                "scored: pack a split whose records all have joints"
            )

    @property
    def stored_px(self) -> int:
        """Pixels a side of the stored pictures."""
        return self.rgb.shape[1]

    @property
    def margin(self) -> float:
        """How many of the protocol's boxes a stored picture shows."""
        return float(self.meta["margin"])

    @property
    def bone_mm(self) -> float:
        """Mean length of the bone |middle MCP - middle PIP|."""
        return float(self.meta["bone_mm"])

    @property
    def bone_lengths(self) -> list[float]:
        """Mean lengths of skeleton.BONES in units of that bone: the annotators' convention."""
        return list(self.meta["bone_lengths"])


def subsets_in(data: Path) -> list[str]:
    """Sentences about those of the packed sets in a folder that are a part of their dataset."""
    found = []
    for path in sorted(data.glob("*/meta.json")):
        if part := read_json(path)["holds"].get("subset"):
            found.append(f"{path.parent.name} is a subset: {part}")
    return found


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not path.exists():
        raise InputError(
            f"{folder}: expected a packed set (meta.json and arrays), found none; write it with "
            "`cmkg render` or `cmkg data pack`"
        )
    meta = read_json(path)
    for field, kind in META_FIELDS.items():
        found = meta.get(field) if isinstance(meta, dict) else meta
        if not isinstance(found, kind) or (field == "format" and found != FORMAT):
            expected = FORMAT if field == "format" else getattr(kind, "__name__", "a number")
            raise InputError(
                f"{path}: field {field!r} is {found!r}, expected {expected}; pack the set again"
            )
    return meta


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


class JoinedSets:
    """Two packed sets as one, in the first one's bone convention."""

    def __init__(self, first: Packed, second: Packed) -> None:
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def labels(self) -> np.ndarray:
        """Which samples have a label."""
        return np.concatenate([self.first.labels(), self.second.labels()])


TrainingSet = Packed | JoinedSets


def open_training_set(data: PathLike, extra: PathLike = "") -> TrainingSet:
    """The packed set of a folder, joined by that of `extra` when it is given."""
    return JoinedSets(Packed(data), Packed(extra)) if extra else Packed(data)


# ---- packing -------------------------------------------------------------------------------------
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
    if (folder / "meta.json").exists():
        _expect_same_set(folder, description)
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no packed set; choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder.with_name(folder.name + ".lock"), folder):
        arrays = _prepare(dataset, partial, description)
        _fill(dataset, partial, arrays, workers)
        write_json(partial / "meta.json", _describe_set(partial, arrays, description))
        os.replace(partial, folder)
        for scaffold in ("chunks.npy", "holds.json"):
            # After the rename: killed between the two, the set is still whole.
            (folder / scaffold).unlink()


def _expect_same_set(folder: Path, description: dict[str, Any]) -> None:
    held = read_json(folder / "meta.json").get("holds", {})
    for key in description | held:
        if held.get(key) != description.get(key):
            raise InputError(
                f"{folder}/meta.json: this set has {key} = {held.get(key)!r}, asked for is "
                f"{description.get(key)!r}; choose another folder or remove this one"
            )


def _prepare(dataset: Dataset, partial: Path, description: dict[str, Any]) -> ArraySpecs:
    """Creates the empty arrays, or takes up those of a killed pack of the same dataset."""
    first, count = dataset.samples([0])[0], len(dataset)
    arrays: ArraySpecs = {
        "rgb": ((count, *first.rgb.shape), "uint8"),
        "joints_mm": ((count, 21, 3), "float32"),
        "K": ((count, 3, 3), "float32"),
        "rotation": ((count, 3, 3), "float32"),
        "mirrored": ((count,), "bool"),
        "visible": ((count, 21), "bool"),
    }
    if first.depth is not None:
        arrays["depth"] = ((count, *first.depth.shape), "uint16")
    if description.get("without_label"):
        arrays["labelled"] = ((count,), "bool")
    held = partial / "holds.json"
    if held.exists() and read_json(held) == description:
        return arrays
    partial.mkdir(parents=True, exist_ok=True)
    held.unlink(missing_ok=True)
    for name, (shape, dtype) in arrays.items():
        _allocate_array(partial / f"{name}.npy", dtype, shape)
    _allocate_array(partial / "chunks.npy", "bool", (-(-count // CHUNK),))
    write_json(held, description)
    return arrays


def _allocate_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap:
    """A new array on disk whose space is taken now: a full disk must fail here, not by SIGBUS."""
    array = open_memmap(path, "w+", dtype, shape)
    array.flush()
    allocate = getattr(os, "posix_fallocate", None)  # not on macOS and Windows
    with open(path, "r+b") as file:
        if allocate is not None:
            allocate(file.fileno(), 0, path.stat().st_size)
        else:
            _write_zeros(file, file.seek(0, os.SEEK_END) - array.nbytes, array.nbytes)
    return array


def _write_zeros(file: Any, start: int, count: int, block: int = 1 << 24) -> None:
    """Takes the space by writing it, where nothing else does."""
    file.seek(start)
    while count > 0:
        file.write(bytes(min(block, count)))
        count -= block


def _fill(dataset: Dataset, partial: Path, arrays: ArraySpecs, workers: int) -> None:
    chunks = np.load(partial / "chunks.npy")
    todo = np.flatnonzero(~chunks)
    jobs = [(dataset, partial, list(arrays), int(chunk)) for chunk in todo]
    with Bar(f"pack {partial.stem}", len(chunks), int(chunks.sum()), CHUNK) as advance:
        if workers == 1 or len(todo) <= 2:
            for job in jobs:
                _write_chunk(*job)
                advance()
        else:
            for _ in process_map(_write_chunk, jobs, workers):
                advance()


def _write_chunk(dataset: Dataset, partial: Path, names: Sequence[str], chunk: int) -> None:
    first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, len(dataset))
    samples = dataset.samples(range(first, last))
    for name in names:
        array = open_memmap(partial / f"{name}.npy", "r+")
        array[first:last] = np.stack([getattr(sample, name) for sample in samples])
    done = open_memmap(partial / "chunks.npy", "r+")
    done[chunk] = True


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
        "crc32": {name: _checksum(partial / f"{name}.npy") for name in arrays},
    }


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def verify_checksums(folder: PathLike) -> None:
    """Raises InputError naming the array whose bytes are not those that were packed."""
    packed = Packed(folder)
    for name, expected in packed.meta["crc32"].items():
        path = packed.folder / f"{name}.npy"
        if _checksum(path) != expected:
            raise InputError(
                f"{path}: its checksum is not the one in meta.json; pack the set again"
            )


# ---- merging shards ------------------------------------------------------------------------------
def merge_shards(folders: Sequence[PathLike], out: PathLike) -> Packed:
    """Writes the packed set whose shards lie in `folders`, in any order.

    The same bytes as one pack would write.

    Raises:
        InputError: a shard is missing, there twice, or of another set.
    """
    if not folders:
        raise InputError("--folders: expected the packed shards of a set, got none")
    for folder in folders:
        verify_checksums(folder)
    out = Path(out)
    shards = sorted((Packed(folder) for folder in folders), key=_place_of)
    whole = _expect_one_set(shards, out)
    if out.exists():
        raise InputError(f"{out}: is there already; choose another folder")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    arrays: ArraySpecs = {}
    for name, (shape, dtype) in shards[0].meta["arrays"].items():
        arrays[name] = ((sum(map(len, shards)), *shape[1:]), dtype)
        array = _allocate_array(partial / f"{name}.npy", dtype, arrays[name][0])
        at = 0
        for shard in shards:
            array[at : at + len(shard)] = getattr(shard, name)
            at += len(shard)
        array.flush()
    write_json(partial / "meta.json", _describe_set(partial, arrays, whole))
    os.replace(partial, out)
    return Packed(out)


def _expect_one_set(shards: Sequence[Packed], out: Path) -> dict[str, Any]:
    """What the whole set holds; InputError where these are not its shards, each once."""
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
    """(i, n) of a shard; (0, 1) of a whole set."""
    i, n = packed.meta["holds"].get("shard", "0/1").split("/")
    return int(i), int(n)
