"""The packed format that training reads: a folder of memory-mapped arrays and a meta.json.

    rgb.npy (N, px, px, 3) uint8        depth.npy (N, px, px) uint16 mm, if there is depth
    joints_mm.npy (N, 21, 3) float32    K.npy, rotation.npy (N, 3, 3) float32
    mirrored.npy (N,) bool              visible.npy (N, 21) bool
    labelled.npy (N,) bool, if some samples are unlabeled; their joints are assumed
    meta.json: format, description, px, margin, mean bone lengths, checksums

A set is written chunk by chunk under a temporary name and renamed when complete, so an interrupted
pack resumes and a pack that exists is whole. Opening a set validates every field and the checksum
of every array (files/arrays.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from ....runtime.files import PathLike, read_sealed_json
from ...files.arrays import DiskArray, checksum, expect_checksum, read_small_array
from ...skeleton import BONES
from ..sample import BONE_MM

FORMAT = "cmkg-packed/1"
MARGINS = (1.0, 4.0)
BONE_UNITS = (0.01, 20.0)  # plausible bone lengths, in units of the middle finger's first bone
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
PICTURES = ("rgb", "depth")  # read from disk on demand; all other arrays are in memory
OPTIONAL = ("depth", "labelled")


def array_specs(count: int, px: int) -> ArraySpecs:
    """All arrays that a set of `count` samples can have."""
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
    """A packed set: its arrays, with pictures on disk, and its meta.json.

    Raises:
        InputError: the folder holds no packed set, or a file differs from meta.json in shape, type
            or checksum.
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
        """Rejects implausible numbers."""
        focal = self.K[:, (0, 1), (0, 1)]
        turned_back = self.rotation @ self.rotation.transpose(0, 2, 1) - np.eye(3)
        checks = {
            "joints_mm": np.abs(self.joints_mm).max((1, 2)) < FARTHEST_MM,
            "K": np.isfinite(self.K).all((1, 2)) & (focal > 0).all(1),
            "rotation": np.abs(turned_back).max((1, 2)) < NOT_ORTHOGONAL,
        }
        for name, is_good in checks.items():  # NaN fails all of them
            if not is_good.all():
                expected = {"joints_mm": "finite joints", "K": "a camera"}.get(name, "a rotation")
                raise InputError(
                    f"{self.folder}/{name}.npy: sample {int(np.argmin(is_good))}: expected "
                    f"{expected}, found other numbers; {PACK_AGAIN}"
                )

    def __len__(self) -> int:
        return len(self.rgb)

    def labels(self) -> np.ndarray:
        """Which samples are labeled, bool (N,); the joints of the others are assumed."""
        return np.ones(len(self), bool) if self.labelled is None else np.asarray(self.labelled)

    def expect_labels(self, first: int = 0, last: int | None = None) -> None:
        """Rejects a range [first, last) with unlabeled samples.

        Raises:
            InputError: there are unlabeled samples; the message gives their number.
        """
        without = int((~self.labels()[first:last]).sum())
        if without:
            raise InputError(
                f"{self.folder}: {without} samples have no label; they can be distilled from, not "
                "scored: pack a split whose records all have joints"
            )

    @property
    def stored_px(self) -> int:
        """Side of the stored pictures in pixels."""
        return self.rgb.shape[1]

    @property
    def margin(self) -> float:
        """Side of a stored picture in units of the protocol's box."""
        return float(self.meta["margin"])

    @property
    def bone_mm(self) -> float:
        """Mean length of the bone |middle MCP - middle PIP|."""
        return float(self.meta["bone_mm"])

    @property
    def bone_lengths(self) -> list[float]:
        """Mean lengths of skeleton.BONES in units of that bone, which is the bone convention."""
        return list(self.meta["bone_lengths"])


def subsets_in(data: Path) -> list[str]:
    """Describes the packed sets in a folder that are subsets of their dataset."""
    sentences = []
    for path in sorted(data.glob("*/meta.json")):
        if part := read_meta(path.parent)["holds"].get("subset"):
            sentences.append(f"{path.parent.name} is a subset: {part}")
    return sentences


def read_meta(folder: Path) -> dict[str, Any]:
    """Reads and validates a packed set's meta.json, without reading its arrays.

    Raises:
        InputError: the file is missing, or a field is invalid.
    """
    path = folder / "meta.json"
    if not path.exists():
        raise InputError(
            f"{folder}: expected a packed set (meta.json and arrays), found none; write it with "
            "`cmkg render` or `cmkg data pack`"
        )
    meta: Any = read_sealed_json(path, required=False)
    for field, kind in META_FIELDS.items():
        value = meta.get(field)
        is_kind = isinstance(value, kind) and not isinstance(value, bool)
        if not is_kind or (field == "format" and value != FORMAT):
            expected = FORMAT if field == "format" else getattr(kind, "__name__", "a number")
            raise InputError(
                f"{path}: field {field!r} is {value!r:.60}, expected {expected}; {PACK_AGAIN}"
            )
    _expect_known_arrays(meta, path)
    _expect_sane_numbers(meta, path)
    return meta


def _expect_known_arrays(meta: dict[str, Any], path: Path) -> None:
    """Rejects arrays with unknown names or invalid shapes, types or lengths."""
    arrays = meta["arrays"]
    rgb = arrays.get("rgb")
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
    for name in [*arrays, *(key for key in expected if key not in OPTIONAL)]:
        needed = expected.get(name)
        if needed is None:
            raise InputError(
                f"{path}: field 'arrays' has {name!r:.60}, expected some of {', '.join(expected)}; "
                f"{PACK_AGAIN}"
            )
        if arrays.get(name) != [list(needed[0]), needed[1]]:
            raise InputError(
                f"{path}: field 'arrays': {name!r} is {arrays.get(name)!r:.80}, expected "
                f"{list(needed[0])} {needed[1]}, as many as 'rgb' has; {PACK_AGAIN}"
            )
    sums = meta["crc32"]
    if sums.keys() != arrays.keys() or not all(type(value) is int for value in sums.values()):
        raise InputError(
            f"{path}: field 'crc32': expected a checksum an array, found {sums!r:.60}; {PACK_AGAIN}"
        )


def _expect_sane_numbers(meta: dict[str, Any], path: Path) -> None:
    """Rejects implausible margins and bones, and malformed descriptions."""
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
            and all(type(length) in (int, float) and low < length < high for length in lengths),
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
    for field, (is_good, value, expected) in checks.items():
        if not is_good:
            raise InputError(
                f"{path}: field {field!r} is {value!r:.60}, expected {expected}; {PACK_AGAIN}"
            )


def verify_checksums(folder: PathLike) -> Packed:
    """Opens a set and recomputes the checksum of every array, even if it is cached.

    Raises:
        InputError: an array has changed since it was packed; the message names it.
    """
    packed = Packed(folder)
    for name, expected in packed.meta["crc32"].items():
        checksum(packed.folder / f"{name}.npy")
        expect_checksum(packed.folder / f"{name}.npy", expected)
    return packed
