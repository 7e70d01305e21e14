"""Prediction files, so that anyone's method is scored by these metrics, and these by theirs.

    *.json    FreiHAND's submission format: [xyz, vertices], xyz = a (21, 3) list a picture, metres
    *.npz     joints_mm (N, 21, 3), millimetres

Both in the order of the packed set, joints in our order (FreiHAND's), in the frame of the
dataset's own camera: a left hand stays a left hand.
"""

import io
import json
from pathlib import Path

import numpy as np

from ..engine import write_arrays, write_atomically
from ..errors import InputError
from .datasets.files import json_value, numbers, read_bytes

FLIP = np.array([-1.0, 1.0, 1.0])
# a submission needs them; zeros say that none were predicted
VERTICES = np.zeros((778, 3), int).tolist()


def to_dataset(joints_mm, packed):
    """Joints (N, 21, 3) of the virtual cameras -> the dataset's camera frame, left hands as left
    hands."""
    turned = np.einsum("nji,nkj->nki", np.asarray(packed.rotation, np.float64), joints_mm)
    return np.where(np.asarray(packed.mirrored)[:, None, None], turned * FLIP, turned)


def from_dataset(joints_mm, packed):
    """The inverse of to_dataset."""
    right = np.where(np.asarray(packed.mirrored)[:, None, None], joints_mm * FLIP, joints_mm)
    return np.einsum("nij,nkj->nki", np.asarray(packed.rotation, np.float64), right)


def read(path, count):
    """Joints (count, 21, 3) in mm of a prediction file. Raises InputError naming file, field and
    entry."""
    path = Path(path)
    if path.suffix == ".npz":
        return numbers(_npz_field(path), (count, 21, 3), f"{path}: field 'joints_mm'")
    if path.suffix != ".json":
        raise InputError(
            f"{path}: expected a file that ends in .json (FreiHAND's submission format) or .npz"
        )
    value = json_value(path, "[xyz, vertices]")
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
            numbers(entry, (21, 3), f"{path}: field 'xyz', entry {i}")
            for i, entry in enumerate(value[0])
        ]
    )
    if np.abs(joints).max() > 1e3:
        raise InputError(
            f"{path}: field 'xyz' holds {np.abs(joints).max():g}; expected metres in the "
            "camera's frame"
        )
    return 1000.0 * joints


def _npz_field(path):
    try:
        return np.load(io.BytesIO(read_bytes(path, "predictions")), allow_pickle=False)["joints_mm"]
    except KeyError:
        raise InputError(
            f"{path}: has no field 'joints_mm'; expected it with shape (N, 21, 3)"
        ) from None
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: expected a NumPy .npz file, could not read it ({type(error).__name__}); "
            "write it again"
        ) from None


def write(path, joints_mm):
    """Joints (N, 21, 3), mm, in the dataset's camera frame -> a prediction file of the format
    that its ending names."""
    path = Path(path)
    if path.suffix not in (".json", ".npz"):
        raise InputError(
            f"--export {path}: expected a name that ends in .json (FreiHAND's submission "
            "format) or .npz"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        text = json.dumps([(joints_mm / 1000).tolist(), [VERTICES] * len(joints_mm)])
        return write_atomically(path, lambda p: p.write_text(text))
    return write_arrays(path, joints_mm=joints_mm)
