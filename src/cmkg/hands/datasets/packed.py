"""The packed format that training reads: a folder of memory-mapped arrays and a meta.json.

    rgb.npy (N, px, px, 3) uint8        depth.npy (N, px, px) uint16 mm, when there is depth
    joints_mm.npy (N, 21, 3) float32    K.npy, rotation.npy (N, 3, 3) float32
    mirrored.npy (N,) bool              visible.npy (N, 21) bool
    meta.json: format, what it holds, px, margin, mean bone lengths, checksums

Written under a temporary name by several processes, chunk by chunk, and renamed when whole: a
killed pack goes on where it was, a pack that exists is complete.
"""

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from ...engine import Bar, cores, on_first_rank, process_map, read_json, write_json
from ...errors import InputError
from ..skeleton import BONES, bone_scale

FORMAT = "cmkg-packed/1"
CHUNK = 32


class Packed:
    """A packed set. rgb, depth (or None), joints_mm, K, rotation, mirrored, visible: arrays,
    memory-mapped. meta: its meta.json."""

    def __init__(self, folder):
        self.folder = Path(folder)
        meta = self.folder / "meta.json"
        if not meta.exists():
            raise InputError(
                f"{self.folder}: expected a packed set (meta.json and arrays), found none; "
                "write it with `cmkg render` or `cmkg data pack`"
            )
        self.meta = read_json(meta)
        for field, kind in (
            ("format", str),
            ("holds", dict),
            ("arrays", dict),
            ("crc32", dict),
            ("margin", (int, float)),
            ("bone_mm", (int, float)),
            ("bone_lengths", list),
        ):
            found = self.meta.get(field) if isinstance(self.meta, dict) else self.meta
            if not isinstance(found, kind) or (field == "format" and found != FORMAT):
                raise InputError(
                    f"{meta}: field {field!r} is {found!r}, expected "
                    f"{FORMAT if field == 'format' else getattr(kind, '__name__', 'a number')}; "
                    "pack the set again"
                )
        for name, (shape, dtype) in self.meta["arrays"].items():
            setattr(self, name, self._array(name, shape, dtype))
        self.depth = getattr(self, "depth", None)
        if not hasattr(self, "visible"):  # written by an older version
            self.visible = np.ones((len(self), 21), bool)

    def _array(self, name, shape, dtype):
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: expected {tuple(shape)} {dtype}, could not read it ({error}); pack "
                "the set again"
            ) from None
        if array.shape != tuple(shape) or str(array.dtype) != dtype:
            raise InputError(
                f"{path}: holds {array.shape} {array.dtype}, meta.json says {tuple(shape)} "
                f"{dtype}; pack the set again"
            )
        return array

    def __len__(self):
        return len(self.rgb)


class Shard:
    """The i-th of n nearly equal consecutive parts of a dataset, "i/n": packed by itself, then
    `merge`d with the others."""

    def __init__(self, dataset, shard):
        self.dataset, self.shard = dataset, shard
        i, _, n = shard.partition("/")
        if not (i.isdecimal() and n.isdecimal() and int(i) < int(n) <= len(dataset)):
            raise InputError(
                f"--shard: expected i/n with 0 <= i < n <= {len(dataset)}, got {shard!r}"
            )
        self.first, self.last = (len(dataset) * k // int(n) for k in (int(i), int(i) + 1))

    def __len__(self):
        return self.last - self.first

    def samples(self, indices):
        return self.dataset.samples([self.first + int(i) for i in indices])

    def describe(self):
        return self.dataset.describe() | {"shard": self.shard}


class Joined:
    """Two packed sets as one, in the first one's bone convention; `parts` is what `fetch` reads."""

    def __init__(self, first, second):
        self.parts, self.folder, self.meta = (first, second), first.folder, first.meta

    def __len__(self):
        return sum(map(len, self.parts))


def opened(data, extra=""):
    """The packed set of a folder, joined by that of `extra` when it is given."""
    return Joined(Packed(data), Packed(extra)) if extra else Packed(data)


def pack(dataset, folder, workers=None):
    """Writes `dataset` to `folder` in parallel; goes on where a killed pack stopped. Returns
    Packed.

    A finished pack of the same dataset is reused; of another one is refused (InputError).
    """
    on_first_rank(lambda: _pack(dataset, Path(folder), workers))
    return Packed(folder)


def _pack(dataset, folder, workers):
    description = dataset.describe()
    if (folder / "meta.json").exists():
        held = read_json(folder / "meta.json").get("holds", {})
        for key in description | held:
            # a setting that an older version did not have was off
            older = key not in held and not description[key]
            if held.get(key) != description.get(key) and not older:
                raise InputError(
                    f"{folder}/meta.json: this set has {key} = {held.get(key)!r}, asked for is "
                    f"{description.get(key)!r}; "
                    "choose another folder or remove this one"
                )
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no packed set; choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    arrays = _prepare(dataset, partial, description)
    _fill(dataset, partial, arrays, workers or cores())
    write_json(partial / "meta.json", _meta(partial, arrays, description))
    os.replace(partial, folder)
    # after the rename: killed between the two, the set is still whole
    for scaffold in ("chunks.npy", "holds.json"):
        (folder / scaffold).unlink()


def merge(folders, out):
    """Writes the packed set whose shards lie in `folders`, in any order; the same bytes as one pack
    would write.

    Raises InputError where a shard is missing, there twice, or of another set.
    """
    if not folders:
        raise InputError("--folders: expected the packed shards of a set, got none")
    for folder in folders:
        verify(folder)
    out, shards = Path(out), sorted((Packed(f) for f in folders), key=_place)
    whole = {k: v for k, v in shards[0].meta["holds"].items() if k != "shard"}
    for shard in shards:
        if {k: v for k, v in shard.meta["holds"].items() if k != "shard"} != whole:
            raise InputError(
                f"{shard.folder}/meta.json: holds another set than {shards[0].folder}; merge "
                "shards of one set"
            )
    count = _place(shards[0])[1]
    if [_place(s) for s in shards] != [(i, count) for i in range(count)]:
        there = ", ".join(s.meta["holds"].get("shard", "a whole set") for s in shards)
        raise InputError(
            f"{out}: expected the shards 0/{count} to {count - 1}/{count}, each once; found {there}"
        )
    if out.exists():
        raise InputError(f"{out}: is there already; choose another folder")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    arrays = {}
    for name, (shape, dtype) in shards[0].meta["arrays"].items():
        arrays[name] = ((sum(map(len, shards)), *shape[1:]), dtype)
        array, at = _allocated(partial / f"{name}.npy", dtype, arrays[name][0]), 0
        for shard in shards:
            array[at : at + len(shard)] = getattr(shard, name)
            at += len(shard)
        array.flush()
    write_json(partial / "meta.json", _meta(partial, arrays, whole))
    os.replace(partial, out)
    return Packed(out)


def _place(packed):
    """(i, n) of a shard; (0, 1) of a whole set."""
    return tuple(map(int, packed.meta["holds"].get("shard", "0/1").split("/")))


def _prepare(dataset, partial, description):
    """Creates the empty arrays, or takes up those of a killed pack of the same dataset."""
    first, count = dataset.samples([0])[0], len(dataset)
    arrays = {
        "rgb": ((count, *first.rgb.shape), "uint8"),
        "joints_mm": ((count, 21, 3), "float32"),
        "K": ((count, 3, 3), "float32"),
        "rotation": ((count, 3, 3), "float32"),
        "mirrored": ((count,), "bool"),
        "visible": ((count, 21), "bool"),
    }
    if first.depth is not None:
        arrays["depth"] = ((count, *first.depth.shape), "uint16")
    held = partial / "holds.json"
    if held.exists() and read_json(held) == description:
        return arrays
    partial.mkdir(parents=True, exist_ok=True)
    held.unlink(missing_ok=True)
    for name, (shape, dtype) in {**arrays, "chunks": ((-(-count // CHUNK),), "bool")}.items():
        _allocated(partial / f"{name}.npy", dtype, shape)
    write_json(held, description)
    return arrays


def _allocated(path, dtype, shape):
    """A new array on disk, whose space is taken now: a full disk must fail here, not by SIGBUS."""
    array = open_memmap(path, "w+", dtype, shape)
    array.flush()
    with open(path, "r+b") as f:
        os.posix_fallocate(f.fileno(), 0, os.path.getsize(path))
    return array


def _fill(dataset, partial, arrays, workers):
    chunks = np.load(partial / "chunks.npy")
    todo = np.flatnonzero(~chunks)
    with Bar(f"pack {partial.stem}", len(chunks), int(chunks.sum()), CHUNK) as advance:
        if workers == 1 or len(todo) <= 2:
            for c in todo:
                _write_chunk(dataset, partial, list(arrays), int(c))
                advance()
            return
        jobs = [(dataset, partial, list(arrays), int(c)) for c in todo]
        for _ in process_map(_write_chunk, jobs, workers):
            advance()


def _write_chunk(dataset, partial, names, chunk):
    first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, len(dataset))
    samples = dataset.samples(range(first, last))
    for name in names:
        array = open_memmap(partial / f"{name}.npy", "r+")
        array[first:last] = np.stack([getattr(s, name) for s in samples])
    done = open_memmap(partial / "chunks.npy", "r+")
    done[chunk] = True


def _meta(partial, arrays, description):
    joints = np.load(partial / "joints_mm.npy").astype(np.float64)
    a, b = np.array(BONES).T
    scale = bone_scale(joints)
    lengths = np.linalg.norm(joints[:, a] - joints[:, b], axis=2)
    return {
        "format": FORMAT,
        "holds": description,
        "arrays": {n: [list(shape), dtype] for n, (shape, dtype) in arrays.items()},
        "margin": description["margin"],
        "bone_mm": float(scale.mean()),
        "bone_lengths": (lengths / scale[:, None]).mean(0).tolist(),
        "bone_lengths_unit": "|middle MCP - middle PIP|, order of skeleton.BONES",
        "crc32": {n: _crc(partial / f"{n}.npy") for n in arrays},
    }


def _crc(path):
    value = 0
    with open(path, "rb") as f:
        while block := f.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def verify(folder):
    """Raises InputError naming the array whose bytes are not those that were packed."""
    packed = Packed(folder)
    for name, expected in packed.meta["crc32"].items():
        if _crc(packed.folder / f"{name}.npy") != expected:
            raise InputError(
                f"{packed.folder / name}.npy: its checksum is not the one in meta.json; pack "
                "the set again"
            )
    return json.dumps(packed.meta["holds"])
