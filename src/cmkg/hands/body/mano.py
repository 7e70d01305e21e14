"""The MANO hand model (Romero, Tzionas and Black, 2017).

The user provides MANO_RIGHT.pkl, whose research license does not allow redistribution. The model
has shape blend shapes, pose blend shapes and linear blend skinning, and the same interface for
scenes as mesh.OpenHand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...errors import InputError
from ..files.pickles import NUMPY, PYTHON_2, Foreign, read_pickle, stand_in
from ..files.reading import as_numbers
from .kinematics import chain_bones, rotation_matrices, skin
from .mesh import Posed

V, J = 778, 16  # vertices; joints: wrist, index x3, middle x3, little x3, ring x3, thumb x3
TIP_VERTICES = (744, 320, 443, 555, 672)  # thumb, index, middle, ring, little
# Maps to this project's order after the tips are appended.
TO_OUR_ORDER = np.array([0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20])
POSE_COEFFICIENTS, POSE_RANGE = 10, 2.0  # the paper samples ten principal components in [-2, 2]
SHAPES, SHAPE_RANGE = 10, 0.03  # and ten shapes in [-0.03, 0.03]
FIELDS: dict[str, tuple[int, ...]] = {
    "v_template": (V, 3),
    "f": (1538, 3),
    "shapedirs": (V, 3, SHAPES),
    "posedirs": (V, 3, 135),
    "J_regressor": (J, V),
    "weights": (V, J),
    "kintree_table": (2, J),
    "hands_components": (45, 45),
    "hands_mean": (45,),
}
OWNERS = "its owners give it to registered users at mano.is.tue.mpg.de"
Ch, Select, Csc = stand_in("Ch"), stand_in("Select"), stand_in("csc_matrix")
ADMITTED: dict[tuple[str, str], Any] = {
    **NUMPY,
    **PYTHON_2,
    ("chumpy.ch", "Ch"): Ch,
    ("chumpy.reordering", "Select"): Select,
    ("scipy.sparse.csc", "csc_matrix"): Csc,
    ("scipy.sparse._csc", "csc_matrix"): Csc,
}


def to_dense(value: Any) -> np.ndarray:
    """Converts a chumpy object, a sparse matrix or an array to a dense array."""
    if not isinstance(value, Foreign):
        return np.asarray(value)
    state = value.state
    if isinstance(value, Ch):
        return to_dense(state["x"])
    if isinstance(value, Select):
        indices = to_dense(state["idxs"]).astype(int).ravel()
        return to_dense(state["a"]).ravel()[indices].reshape(tuple(state["preferred_shape"]))
    shape = state["_shape"] if "_shape" in state else state["shape"]
    matrix, starts = np.zeros(tuple(shape)), to_dense(state["indptr"])
    columns = np.repeat(np.arange(shape[1]), np.diff(starts))
    matrix[to_dense(state["indices"]), columns] = to_dense(state["data"])
    return matrix


def _field(held: dict[str, Any], field: str, path: Path) -> np.ndarray:
    name = f"{path}: field {field!r}"
    if field not in held:
        raise InputError(
            f"{name} is missing; expected MANO_RIGHT.pkl with {', '.join(FIELDS)}; {OWNERS}"
        )
    try:
        value = to_dense(held[field])
    except Exception as error:  # a stand-in may lack the state of its class
        raise InputError(
            f"{name}: expected an array, a chumpy object or a sparse matrix, could not read it "
            f"({type(error).__name__}: {error})"
        ) from None
    return as_numbers(value, FIELDS[field], name)


@lru_cache(maxsize=2)
def load_mano(path: str | Path) -> Mano:
    """Loads the hand from a MANO_RIGHT.pkl, or from the folder that contains it.

    Raises:
        InputError: a field is invalid, or the pickle requests more than such a file needs.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "MANO_RIGHT.pkl"
    if not path.exists():
        raise InputError(f"{path}: no such file; expected MANO_RIGHT.pkl; {OWNERS}")
    fields = read_pickle(path, "MANO's model", ADMITTED)
    if not isinstance(fields, dict):
        raise InputError(
            f"{path}: expected a dict with {', '.join(FIELDS)}, found {type(fields).__name__}"
        )
    arrays = {field: _field(fields, field, path) for field in FIELDS}
    faces, parents = arrays["f"].astype(int), arrays["kintree_table"][0].astype(np.int64)
    parents = np.where(np.arange(J) == 0, -1, parents)  # the file has 2^32 - 1 for the root
    if faces.min() < 0 or faces.max() >= V:
        vertex = faces.max() if faces.max() >= V else faces.min()
        raise InputError(f"{path}: field 'f' names vertex {vertex}; expected 0 to {V - 1}")
    if not ((parents[1:] >= 0) & (parents[1:] < np.arange(1, J))).all():
        raise InputError(
            f"{path}: field 'kintree_table': expected each joint's parent before it, found "
            f"{parents.tolist()}"
        )
    return Mano(
        template=arrays["v_template"],
        faces=faces,
        shape_directions=arrays["shapedirs"],
        pose_directions=arrays["posedirs"],
        regressor=arrays["J_regressor"],
        weights=arrays["weights"],
        parents=parents,
        components=arrays["hands_components"],
        mean_pose=arrays["hands_mean"],
    )


@dataclass(frozen=True, eq=False)
class Mano:
    """A right hand of 778 vertices and 16 joints, in meters; parents is -1 for the root."""

    template: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    shape_directions: Float[np.ndarray, "v 3 10"]
    pose_directions: Float[np.ndarray, "v 3 135"]
    regressor: Float[np.ndarray, "j v"]
    weights: Float[np.ndarray, "v j"]
    parents: Int[np.ndarray, " j"]
    components: Float[np.ndarray, "45 45"]  # principal components of the pose
    mean_pose: Float[np.ndarray, "45"]

    def axis_angles(self, coefficients: Float[np.ndarray, " n"]) -> Float[np.ndarray, "45"]:
        """The pose, three numbers per joint, for coefficients of the first components."""
        return self.mean_pose + coefficients @ self.components[: len(coefficients)]

    def posed(self, shape: Float[np.ndarray, "10"], pose: Float[np.ndarray, "45"]) -> Posed:
        """Vertices and joints in this project's order, wrist at the origin and not rotated.

        Args:
            shape: shape coefficients.
            pose: axis-angle vectors of the 15 finger joints.
        """
        shaped = self.template + self.shape_directions @ shape
        heads = self.regressor @ shaped
        turns = np.concatenate([np.eye(3)[None], rotation_matrices(pose.reshape(-1, 3))])
        bones = chain_bones(turns, heads, self.parents)
        joints = (bones.R @ heads[..., None])[..., 0] + bones.t
        rest = shaped + self.pose_directions @ (turns[1:] - np.eye(3)).ravel()
        vertices = skin(rest, self.weights, bones)
        joints = np.concatenate([joints, vertices[list(TIP_VERTICES)]])[TO_OUR_ORDER]
        return Posed(vertices - joints[0], joints - joints[0])

    # ---- interface for scenes --------------------------------------------------------------------
    @cached_property
    def rest_joints(self) -> Float[np.ndarray, "21 3"]:
        """The template's joints."""
        tips = self.template[list(TIP_VERTICES)]
        return np.concatenate([self.regressor @ self.template, tips])[TO_OUR_ORDER]

    @cached_property
    def tip_vertices(self) -> Int[np.ndarray, "5 1"]:
        """The vertex at each fingertip."""
        return np.array(TIP_VERTICES)[:, None]

    @cached_property
    def palm_normal(self) -> Float[np.ndarray, "3"]:
        """Unit vector out of a right hand's palm."""
        joints = self.rest_joints
        normal = np.cross(joints[5] - joints[0], joints[17] - joints[0])
        return normal / np.linalg.norm(normal)

    @cached_property
    def along_arm(self) -> Float[np.ndarray, " v"]:
        """Distance of each vertex from the wrist towards the elbow, in meters."""
        wrist, up = self.rest_joints[0], self.rest_joints[9] - self.rest_joints[0]
        return -(self.template - wrist) @ up / np.linalg.norm(up)


def sample_mano_shape(rng: np.random.Generator) -> Float[np.ndarray, "10"]:
    """Samples shape coefficients as in the paper."""
    return rng.uniform(-SHAPE_RANGE, SHAPE_RANGE, SHAPES)


def sample_mano_pose(rng: np.random.Generator, hand: Mano) -> Float[np.ndarray, "45"]:
    """Samples axis-angle vectors from ten principal components, as in the paper."""
    return hand.axis_angles(rng.uniform(-POSE_RANGE, POSE_RANGE, POSE_COEFFICIENTS))
