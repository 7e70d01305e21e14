"""MANO (Romero, Tzionas and Black, 2017): the user brings MANO_RIGHT.pkl (research licence, not
ours to pass on).

Shape blend shapes, pose blend shapes, linear blend skinning; the same interface for scenes as
mesh.Hand.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..errors import InputError
from .datasets.files import numbers
from .mesh import axis_angle, skin
from .unpickle import NUMPY, PYTHON_2, Foreign, foreign, read_pickle

V, J = 778, 16  # vertices; joints: wrist, index x3, middle x3, little x3, ring x3, thumb x3
TIP_VERTICES = (744, 320, 443, 555, 672)  # thumb, index, middle, ring, little
# after the tips
TO_OUR_ORDER = np.array([0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20])
POSE_COEFFICIENTS, POSE_RANGE = 10, 2.0  # the paper samples ten principal components in [-2, 2]
SHAPES, SHAPE_RANGE = 10, 0.03  # and ten shapes in [-0.03, 0.03]
FIELDS = {
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
Ch, Select, Csc = foreign("Ch"), foreign("Select"), foreign("csc_matrix")
ADMITTED = (
    NUMPY
    | PYTHON_2
    | {
        ("chumpy.ch", "Ch"): Ch,
        ("chumpy.reordering", "Select"): Select,
        ("scipy.sparse.csc", "csc_matrix"): Csc,
        ("scipy.sparse._csc", "csc_matrix"): Csc,
    }
)


def dense(value):
    """The array that a chumpy object, a sparse matrix or an array holds."""
    if not isinstance(value, Foreign):
        return np.asarray(value)
    state = value.state
    if isinstance(value, Ch):
        return dense(state["x"])
    if isinstance(value, Select):
        return (
            dense(state["a"])
            .ravel()[dense(state["idxs"]).astype(int).ravel()]
            .reshape(tuple(state["preferred_shape"]))
        )
    shape = state["_shape"] if "_shape" in state else state["shape"]
    matrix, starts = np.zeros(tuple(shape)), dense(state["indptr"])
    columns = np.repeat(np.arange(shape[1]), np.diff(starts))
    matrix[dense(state["indices"]), columns] = dense(state["data"])
    return matrix


def _field(held, field, path):
    name = f"{path}: field {field!r}"
    if field not in held:
        raise InputError(
            f"{name} is missing; expected MANO_RIGHT.pkl with {', '.join(FIELDS)}; get the "
            "file from mano.is.tue.mpg.de"
        )
    try:
        value = dense(held[field])
    except Exception as error:  # a stand-in without the state that its class has
        raise InputError(
            f"{name}: expected an array, a chumpy object or a sparse matrix, could not read it "
            f"({type(error).__name__}: {error})"
        ) from None
    return numbers(value, FIELDS[field], name)


@lru_cache(maxsize=2)
def load_mano(path):
    """The Mano of a MANO_RIGHT.pkl. Raises InputError naming file and field; refuses pickles
    that ask for more."""
    path = Path(path)
    if path.is_dir():
        path = path / "MANO_RIGHT.pkl"
    if not path.exists():
        raise InputError(
            f"{path}: no such file; expected MANO_RIGHT.pkl, which its owners give to "
            "registered users at mano.is.tue.mpg.de"
        )
    held = read_pickle(path, "MANO's model", ADMITTED)
    if not isinstance(held, dict):
        raise InputError(
            f"{path}: expected a dict with {', '.join(FIELDS)}, found {type(held).__name__}"
        )
    a = {field: _field(held, field, path) for field in FIELDS}
    faces, parents = a["f"].astype(int), a["kintree_table"][0].astype(np.int64)
    parents = np.where(np.arange(J) == 0, -1, parents)  # the root's is 2^32 - 1
    if faces.min() < 0 or faces.max() >= V:
        raise InputError(
            f"{path}: field 'f' names vertex "
            f"{faces.max() if faces.max() >= V else faces.min()}; expected 0 to {V - 1}"
        )
    if not ((parents[1:] >= 0) & (parents[1:] < np.arange(1, J))).all():
        raise InputError(
            f"{path}: field 'kintree_table': expected each joint's parent before it, found "
            f"{parents.tolist()}"
        )
    return Mano(
        a["v_template"],
        faces,
        a["shapedirs"],
        a["posedirs"],
        a["J_regressor"],
        a["weights"],
        parents,
        a["hands_components"],
        a["hands_mean"],
    )


@dataclass(frozen=True, eq=False)
class Mano:
    """A right hand of 778 vertices and 16 joints; metres."""

    template: np.ndarray  # (V, 3)
    faces: np.ndarray  # (1538, 3)
    shape_directions: np.ndarray  # (V, 3, 10)
    pose_directions: np.ndarray  # (V, 3, 135)
    regressor: np.ndarray  # (J, V)
    weights: np.ndarray  # (V, J)
    parents: np.ndarray  # (J,), -1 for the root
    components: np.ndarray  # (45, 45) principal components of the pose
    mean_pose: np.ndarray  # (45,)

    def axis_angles(self, coefficients):
        """Pose (45,), three numbers a joint, of the first principal components' coefficients
        (n,), n <= 45."""
        return self.mean_pose + coefficients @ self.components[: len(coefficients)]

    def posed(self, shape, pose):
        """Vertices (V, 3) and joints (21, 3) in metres and our order, wrist at the origin, wrist
        not turned.

        shape (10,); pose (45,) axis-angle of the 15 finger joints.
        """
        R, t, joints, rest = self._skeleton(shape, pose)
        vertices = skin(rest, self.weights, R, t)
        joints = np.concatenate([joints, vertices[list(TIP_VERTICES)]])[TO_OUR_ORDER]
        return vertices - joints[0], joints - joints[0]

    def _skeleton(self, shape, pose):
        """World transforms (J, 3, 3), (J, 3), joints (J, 3) and the vertices at rest with both
        blend shapes."""
        shaped = self.template + self.shape_directions @ shape
        at = self.regressor @ shaped
        turns = np.concatenate([np.eye(3)[None], rotations(pose)])
        rest = shaped + self.pose_directions @ (turns[1:] - np.eye(3)).ravel()
        R, place = [turns[0]], [at[0]]
        for j in range(1, J):
            p = self.parents[j]
            R.append(R[p] @ turns[j])
            place.append(place[p] + R[p] @ (at[j] - at[p]))
        R, place = np.stack(R), np.stack(place)
        return R, place - np.einsum("jab,jb->ja", R, at), place, rest

    # ---- what scenes ask of a hand ---------------------------------------------------------------
    @cached_property
    def rest_joints(self):
        """(21, 3) of the template."""
        return np.concatenate([self.regressor @ self.template, self.template[list(TIP_VERTICES)]])[
            TO_OUR_ORDER
        ]

    @cached_property
    def tip_vertices(self):
        return np.array(TIP_VERTICES)[:, None]

    @cached_property
    def palm_normal(self):
        """Unit vector out of a right hand's palm."""
        j = self.rest_joints
        n = np.cross(j[5] - j[0], j[17] - j[0])
        return n / np.linalg.norm(n)

    @cached_property
    def along_arm(self):
        """(V,) metres from the wrist towards the elbow."""
        wrist, up = self.rest_joints[0], self.rest_joints[9] - self.rest_joints[0]
        return -(self.template - wrist) @ up / np.linalg.norm(up)


def rotations(pose):
    """(15, 3, 3) of axis-angle vectors (45,); a zero vector is no turn."""
    vectors = np.asarray(pose, float).reshape(-1, 3)
    angles = np.linalg.norm(vectors, axis=1)
    return axis_angle(vectors / np.maximum(angles, 1e-12)[:, None], angles)


def sample_shape(rng):
    """(10,) as the paper draws it."""
    return rng.uniform(-SHAPE_RANGE, SHAPE_RANGE, SHAPES)


def sample_pose(rng, hand):
    """(45,) axis-angle as the paper draws it: ten principal components."""
    return hand.axis_angles(rng.uniform(-POSE_RANGE, POSE_RANGE, POSE_COEFFICIENTS))


@lru_cache(maxsize=2)
def load_textures(folder, count=V):
    """Reflectances (count, 3), linear RGB, of a folder's registered scans: *.ply with a colour a
    vertex."""
    from plyfile import PlyData

    paths = sorted(Path(folder).glob("*.ply"))
    if not paths:
        raise InputError(
            f"{folder}: expected registered scans with coloured vertices (*.ply), found none"
        )
    textures = []
    for path in paths:
        try:
            vertices = PlyData.read(str(path))["vertex"]
            colour = np.stack([vertices[c] for c in ("red", "green", "blue")], 1).astype(float)
        except Exception as error:
            raise InputError(
                f"{path}: expected a PLY file with red, green and blue a vertex, could not "
                f"read them ({type(error).__name__}: {error})"
            ) from None
        if colour.shape != (count, 3):
            raise InputError(
                f"{path}: holds {len(colour)} vertices, expected the hand's {count}: a scan "
                "registered to the model"
            )
        textures.append((colour / 255) ** 2.2)
    return tuple(textures)
