"""The packed format that training reads: a folder of memory-mapped arrays and a meta.json.

    rgb.npy (N, px, px, 3) uint8        depth.npy (N, px, px) uint16 mm, when there is depth
    joints_mm.npy (N, 21, 3) float32    K.npy, rotation.npy (N, 3, 3) float32
    mirrored.npy (N,) bool              visible.npy (N, 21) bool
    labelled.npy (N,) bool, when some are not: their joints are assumed
    meta.json: format, what it holds, px, margin, mean bone lengths, checksums

Written under a temporary name by several processes, chunk by chunk, and renamed when whole: a
killed pack goes on where it was, a pack that exists is complete. Whoever opens one looks at every
field, and at the bytes of every array: see array_files.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ...errors import InputError
from ...runtime.distributed import on_first_rank
from ...runtime.files import (
    PathLike,
    named,
    read_json,
    read_sealed_json,
    write_json,
    write_sealed_json,
)
from ...runtime.locks import hold_lock
from ...runtime.partial_folders import begin_anew, rename_whole, take_up
from ...runtime.progress import Bar
from ...runtime.stopping import tell_on_stop
from ...runtime.workers import core_count, process_map
from ..skeleton import BONES, bone_scale
from .array_files import DiskArray, checksum, expect_checksum, read_small_array
from .sample import BONE_MM, Dataset, Sample
from .sources import (
    MODULUS,
    expect_same_files,
    files_checksum,
    files_stamp,
    has_files,
    labels_checksum,
)

FORMAT = "cmkg-packed/1"
CHUNK = 32
TO_DO = -1  # in chunks.npy, which has the checksum of each chunk that is done
MERGED_AT_ONCE = 1024  # samples
MARGINS = (1.0, 4.0)
BONE_UNITS = (0.01, 20.0)  # of a bone, in units of the middle finger's first
FARTHEST_MM = 1e5
NOT_ORTHOGONAL = 1e-3
PACK_AGAIN = "pack the set again"
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
PICTURES = ("rgb", "depth")  # read from disk when they are asked for; all else is in memory
OPTIONAL = ("depth", "labelled")


def array_specs(count: int, px: int) -> ArraySpecs:
    """All arrays that a set of so many samples can have."""
    return {
        "rgb": ((count, px, px, 3), "uint8"),
        "joints_mm": ((count, 21, 3), "float32"),
        "K": ((count, 3, 3), "float32"),
        "rotation": ((count, 3, 3), "float32"),
        "mirrored": ((count,), "bool"),
        "visible": ((count, 21), "bool"),
        "depth": ((count, px, px), "uint16"),
        "labelled": ((count,), "bool"),
    }


class Packed:
    """A packed set: its arrays, pictures on disk, and its meta.json.

    Raises:
        InputError: the folder holds no packed set, or one of its files is not as meta.json says:
            in shape, in type, or in a single byte.
    """

    rgb: DiskArray
    depth: DiskArray | None = None
    joints_mm: np.ndarray
    K: np.ndarray
    rotation: np.ndarray
    mirrored: np.ndarray
    visible: np.ndarray
    labelled: np.ndarray | None = None

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self.meta: dict[str, Any] = read_meta(self.folder)
        for name, (shape, dtype) in self.meta["arrays"].items():
            path, expected = self.folder / f"{name}.npy", self.meta["crc32"][name]
            if name in PICTURES:
                setattr(self, name, DiskArray(path, shape, dtype))
                expect_checksum(path, expected)
            else:
                setattr(self, name, read_small_array(path, shape, dtype, expected))
        self._expect_plausible()

    def _expect_plausible(self) -> None:
        """Refuses numbers that no sample has."""
        focal = self.K[:, (0, 1), (0, 1)]
        turned_back = self.rotation @ self.rotation.transpose(0, 2, 1) - np.eye(3)
        checks = {
            "joints_mm": np.abs(self.joints_mm).max((1, 2)) < FARTHEST_MM,
            "K": np.isfinite(self.K).all((1, 2)) & (focal > 0).all(1),
            "rotation": np.abs(turned_back).max((1, 2)) < NOT_ORTHOGONAL,
        }
        for name, is_good in checks.items():  # of NaN none of these is true
            if not is_good.all():
                expected = {"joints_mm": "finite joints", "K": "a camera"}.get(name, "a rotation")
                raise InputError(
                    f"{self.folder}/{name}.npy: sample {int(np.argmin(is_good))}: expected "
                    f"{expected}, found other numbers; {PACK_AGAIN}"
                )

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
        if part := read_meta(path.parent)["holds"].get("subset"):
            found.append(f"{path.parent.name} is a subset: {part}")
    return found


def read_meta(folder: Path) -> dict[str, Any]:
    """A packed set's meta.json, every field looked at; its arrays are not read.

    Raises:
        InputError: there is none, or a field is not what a set has.
    """
    path = folder / "meta.json"
    if not path.exists():
        raise InputError(
            f"{folder}: expected a packed set (meta.json and arrays), found none; write it with "
            "`cmkg render` or `cmkg data pack`"
        )
    meta: Any = read_sealed_json(path, required=False)
    for field, kind in META_FIELDS.items():
        found = meta.get(field)
        is_kind = isinstance(found, kind) and not isinstance(found, bool)
        if not is_kind or (field == "format" and found != FORMAT):
            expected = FORMAT if field == "format" else getattr(kind, "__name__", "a number")
            raise InputError(
                f"{path}: field {field!r} is {found!r:.60}, expected {expected}; {PACK_AGAIN}"
            )
    _expect_known_arrays(meta, path)
    _expect_sane_numbers(meta, path)
    return meta


def _expect_known_arrays(meta: dict[str, Any], path: Path) -> None:
    """Refuses arrays of other names, shapes, types or lengths than a set has."""
    found = meta["arrays"]
    rgb = found.get("rgb")
    try:
        ((count, px, _, _), _) = rgb
        expected = array_specs(count, px)
    except (TypeError, ValueError):
        count, px, expected = 0, 0, array_specs(0, 0)
    if not (isinstance(count, int) and isinstance(px, int) and count > 0 and px > 0):
        raise InputError(
            f"{path}: field 'arrays': expected 'rgb' of shape (N, px, px, 3), found {rgb!r:.60}; "
            f"{PACK_AGAIN}"
        )
    for name in [*found, *(one for one in expected if one not in OPTIONAL)]:
        needed = expected.get(name)
        if needed is None:
            raise InputError(
                f"{path}: field 'arrays' has {name!r:.60}, expected some of {', '.join(expected)}; "
                f"{PACK_AGAIN}"
            )
        if found.get(name) != [list(needed[0]), needed[1]]:
            raise InputError(
                f"{path}: field 'arrays': {name!r} is {found.get(name)!r:.80}, expected "
                f"{list(needed[0])} {needed[1]}, as many as 'rgb' has; {PACK_AGAIN}"
            )
    sums = meta["crc32"]
    if sums.keys() != found.keys() or not all(type(value) is int for value in sums.values()):
        raise InputError(
            f"{path}: field 'crc32': expected a checksum an array, found {sums!r:.60}; {PACK_AGAIN}"
        )


def _expect_sane_numbers(meta: dict[str, Any], path: Path) -> None:
    """Refuses margins and bones that no set has, and facts of another kind."""
    lengths, holds = meta["bone_lengths"], meta["holds"]
    low, high = BONE_UNITS
    shard = holds.get("shard", "0/1")
    checks: dict[str, tuple[bool, object, str]] = {
        "margin": (
            MARGINS[0] <= meta["margin"] <= MARGINS[1],
            meta["margin"],
            f"{MARGINS[0]:g} to {MARGINS[1]:g}",
        ),
        "bone_mm": (
            BONE_MM[0] < meta["bone_mm"] < BONE_MM[1],
            meta["bone_mm"],
            f"{BONE_MM[0]:g} to {BONE_MM[1]:g} mm",
        ),
        "bone_lengths": (
            len(lengths) == len(BONES)
            and all(type(one) in (int, float) and low < one < high for one in lengths),
            lengths,
            f"{len(BONES)} numbers from {low} to {high:g}",
        ),
        "holds": (
            type(holds.get("count", 1)) is int
            and isinstance(holds.get("subset", ""), (str, type(None)))
            and isinstance(shard, str)
            and re.fullmatch(r"\d{1,9}/[1-9]\d{0,8}", shard) is not None,
            holds,
            "the dataset's facts",
        ),
    }
    for field, (is_good, found, expected) in checks.items():
        if not is_good:
            raise InputError(
                f"{path}: field {field!r} is {found!r:.60}, expected {expected}; {PACK_AGAIN}"
            )


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


def verify_checksums(folder: PathLike) -> Packed:
    """Opens a set and reads every array anew, whether or not it is known from before.

    Raises:
        InputError: names the array whose bytes are not those that were packed.
    """
    packed = Packed(folder)
    for name, expected in packed.meta["crc32"].items():
        checksum(packed.folder / f"{name}.npy")
        expect_checksum(packed.folder / f"{name}.npy", expected)
    return packed


# ---- merging shards ------------------------------------------------------------------------------
def merge_shards(folders: Sequence[PathLike], out: PathLike) -> Packed:
    """Writes the packed set whose shards lie in `folders`, in any order.

    The same bytes as one pack would write.

    Raises:
        InputError: a shard is missing, there twice, or of another set.
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
        array = _allocate_array(partial / f"{name}.npy", dtype, arrays[name][0])
        at = 0
        for shard in shards:
            for first in range(0, len(shard), MERGED_AT_ONCE):
                rows = getattr(shard, name)[first : first + MERGED_AT_ONCE]
                array[at : at + len(rows)] = rows
                at += len(rows)
        array.flush()
    write_sealed_json(partial / "meta.json", _describe_set(partial, arrays, whole))


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
