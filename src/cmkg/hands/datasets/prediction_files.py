"""Reads and writes prediction files, to exchange predictions with other methods and benchmarks.

    *.json    FreiHAND's submission format: [xyz, vertices], xyz = a (21, 3) list per picture, m
    *.npz     joints_mm (N, 21, 3), millimeters

Both follow the sample order of the packed set and use this project's joint order (FreiHAND's), in
the frame of the dataset's own camera; left hands stay left hands.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ...errors import InputError
from ...runtime.files import write_arrays, write_text
from ..files.reading import PathLike, as_numbers, read_json_value, read_npz
from ..skeleton import BONES, bone_scale
from .packed.format import Packed
from .sample import BONE_MM

FLIP = np.array([-1.0, 1.0, 1.0])
VERTICES = np.zeros((778, 3), int).tolist()  # required by the format; zeros = not predicted
METRES_AT_MOST = 1e3
# No bone of any prediction may be longer.
LONGEST_BONE_MM = 300.0

Joints = Float[np.ndarray, "n 21 3"]


def to_dataset_frame(joints_mm: Joints, packed: Packed) -> Joints:
    """Maps joints from the virtual cameras to the dataset's camera frame, left hands unmirrored."""
    rotation = np.asarray(packed.rotation, np.float64)
    turned = np.einsum("nji,nkj->nki", rotation, joints_mm)
    return np.where(np.asarray(packed.mirrored)[:, None, None], turned * FLIP, turned)


def from_dataset_frame(joints_mm: Joints, packed: Packed) -> Joints:
    """The inverse of to_dataset_frame."""
    mirrored = np.asarray(packed.mirrored)[:, None, None]
    right = np.where(mirrored, joints_mm * FLIP, joints_mm)
    return np.einsum("nij,nkj->nki", np.asarray(packed.rotation, np.float64), right)


def read_predictions(path: PathLike, count: int) -> Joints:
    """Reads the joints in mm of a prediction file for `count` samples.

    Raises:
        InputError: the file is invalid; the message names file, field and entry.
    """
    path = Path(path)
    if path.suffix == ".npz":
        joints_mm = as_numbers(_npz_field(path), (count, 21, 3), f"{path}: field 'joints_mm'")
        refuse_other_units(joints_mm, f"{path}: field 'joints_mm'", "millimetres")
        return joints_mm
    if path.suffix != ".json":
        raise InputError(
            f"{path}: expected a file that ends in .json (FreiHAND's submission format) or .npz"
        )
    value = read_json_value(path, "[xyz, vertices]")
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], list):
        raise InputError(
            f"{path}: expected a list of two lists, [xyz, vertices]: FreiHAND's submission format"
        )
    if len(value[0]) != count:
        raise InputError(
            f"{path}: field 'xyz' has {len(value[0])} entries, the packed set {count} samples; "
            "expected one for each, in its order"
        )
    joints = np.stack(
        [
            as_numbers(entry, (21, 3), f"{path}: field 'xyz', entry {number}")
            for number, entry in enumerate(value[0])
        ]
    )
    if np.abs(joints).max() > METRES_AT_MOST:
        raise InputError(
            f"{path}: field 'xyz' holds {np.abs(joints).max():g}; expected metres in the camera's "
            "frame"
        )
    refuse_other_units(1000.0 * joints, f"{path}: field 'xyz'", "metres")
    return 1000.0 * joints


def refuse_other_units(joints_mm: Joints, name: str, unit: str) -> None:
    """Rejects joints whose size is not that of hands in the file's unit.

    Raises:
        InputError: the median middle bone, or the longest bone of any hand, is implausible.
    """
    parents, children = np.array(BONES).T
    bones = np.linalg.norm(joints_mm[:, children] - joints_mm[:, parents], axis=2)
    middle = float(np.median(bone_scale(joints_mm)))
    low, high = BONE_MM
    if low < middle < high and bones.max() < LONGEST_BONE_MM:
        return
    entry = int(bones.max(1).argmax())
    raise InputError(
        f"{name} holds no hands in {unit}: |middle MCP - middle PIP| is {middle:.4g} mm in half of "
        f"them, the longest bone {bones[entry].max():.4g} mm (entry {entry}); expected {low:g} to "
        f"{high:g} mm, and bones under {LONGEST_BONE_MM:g} mm (is the unit right?)"
    )


def _npz_field(path: Path) -> np.ndarray:
    arrays = read_npz(path, "predictions", "write it again")
    if "joints_mm" not in arrays:
        raise InputError(f"{path}: has no field 'joints_mm'; expected it with shape (N, 21, 3)")
    return arrays["joints_mm"]


def expect_prediction_file(path: PathLike) -> None:
    """Rejects a name that ends in neither .json nor .npz."""
    if Path(path).suffix not in (".json", ".npz"):
        raise InputError(
            f"--export {path}: expected a name that ends in .json (FreiHAND's submission format) "
            "or .npz"
        )


def write_predictions(path: PathLike, joints_mm: Joints, from_truth: str = "") -> None:
    """Writes joints in mm, in the dataset's camera frame, in the format given by the file suffix.

    Args:
        path: the file to write.
        joints_mm: the joints.
        from_truth: which ground truth the predictions use, in words; not written if empty. An .npz
            stores it as `from_truth`; for FreiHAND's format it goes into a text file beside it.

    Raises:
        InputError: the suffix is unknown.
    """
    expect_prediction_file(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        vertices = [VERTICES] * len(joints_mm)
        write_text(path, json.dumps([(joints_mm / 1000).tolist(), vertices]))
        if from_truth:
            write_text(path.with_name(f"{path.name}.txt"), f"{path.name}: {from_truth}\n")
    else:
        extra = {"from_truth": np.array(from_truth)} if from_truth else {}
        write_arrays(path, joints_mm=joints_mm, **extra)
