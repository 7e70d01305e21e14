"""The open hand laid into 3D joints: shape, angles, orientation, place, and where these annotators
put each joint.

Gradient descent on all frames at once. What is fitted is what look-alikes of a target are drawn
from (lookalikes.py).
"""

from dataclasses import dataclass

import numpy as np
import torch

from .mesh import LIMITS_DEG
from .skeleton import TIPS, WRIST

PALM = (0, 5, 9, 13, 17)
STEPS, RATE = 400, 0.05
STRAIGHT_WRIST = torch.tensor([1.0] * 21 + [0.0] * 2)  # of mesh.ANGLES, the last two
# Weights of the priors beside squared millimetres: a shape of one standard deviation, an
# annotator's joint 10 mm away.
SHAPE_MM2, OFFSET_MM2 = 1.0, 20.0


@dataclass(frozen=True)
class Fit:
    """N frames, S shape directions."""

    shape: np.ndarray  # (N, S)
    angles_deg: np.ndarray  # (N, 23), see mesh.ANGLES
    rotation: np.ndarray  # (N, 3, 3) template -> camera
    place: np.ndarray  # (N, 3) metres: the hand's wrist in the camera's frame
    # (21, 3) metres: the annotators' joint from the hand's, in the frame of the joint's bone
    offsets: np.ndarray
    residual_mm: np.ndarray  # (N,) mean distance that is left


def posed_bones(hand, shape, angles_deg):
    """mesh.skeleton for whole batches, differentiable: R (N, J, 3, 3), t (N, J, 3), joints (N,
    21, 3), metres."""

    def as_tensor(a):
        return torch.as_tensor(np.asarray(a), dtype=shape.dtype)

    heads = as_tensor(hand.joints) + torch.einsum(
        "ns,sjk->njk", shape, as_tensor(hand.joint_directions)
    )
    local = bone_rotations(hand, angles_deg)
    shift = heads - torch.einsum("njab,njb->nja", local, heads)  # turns about the bone's head
    R, t = [local[:, 0]], [shift[:, 0]]
    for bone, parent in enumerate(hand.parents[1:], 1):
        R.append(R[parent] @ local[:, bone])
        t.append(torch.einsum("nab,nb->na", R[parent], shift[:, bone]) + t[parent])
    R, t = torch.stack(R, 1), torch.stack(t, 1)
    template, directions, weights = map(as_tensor, hand.tips)
    rest = template + torch.einsum("ns,svk->nvk", shape, directions)
    moved = torch.einsum("vj,njab,nvb->nva", weights, R, rest) + torch.einsum(
        "vj,nja->nva", weights, t
    )
    joints = shape.new_zeros(len(shape), 21, 3)
    inner, bones = list(hand.bone_of_joint), list(hand.bone_of_joint.values())
    joints[:, inner] = torch.einsum("njab,njb->nja", R[:, bones], heads[:, bones]) + t[:, bones]
    joints[:, list(TIPS)] = moved.view(len(shape), 5, -1, 3).mean(2)
    return R, t, joints


def bone_rotations(hand, angles_deg):
    """mesh.bone_rotations for batches: (N, 23) degrees -> (N, J, 3, 3)."""
    bones, axes, resting = hand.anatomy
    angle = torch.deg2rad(angles_deg) - torch.as_tensor(resting, dtype=angles_deg.dtype)
    turns = rotation_matrix(angle[..., None] * torch.as_tensor(axes, dtype=angles_deg.dtype))
    local = [torch.eye(3, dtype=angles_deg.dtype).expand(len(angles_deg), 3, 3)] * len(hand.bones)
    for i, bone in enumerate(bones):
        local[bone] = local[bone] @ turns[:, i]
    return torch.stack(local, 1)


def rotation_matrix(turn):
    """Axis times angle (..., 3) in radians -> rotations (..., 3, 3)."""
    x, y, z = turn.unbind(-1)
    o = torch.zeros_like(x)
    return torch.linalg.matrix_exp(
        torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).view(*turn.shape, 3)
    )


def bone_of_each_joint(hand):
    """(21,) the bone in whose frame a joint's offset is given: its own, for a tip the last one
    of its finger."""
    return [hand.bone_of_joint[j - 1 if j in TIPS else j] for j in range(21)]


def annotated(hand, shape, angles_deg, offsets):
    """Joints (N, 21, 3) as the annotators would place them, metres, the hand's own wrist at the
    origin; tensors."""
    R, _, joints = posed_bones(hand, shape, angles_deg)
    moved = joints + torch.einsum("njab,jb->nja", R[:, bone_of_each_joint(hand)], offsets)
    return moved - joints[:, WRIST : WRIST + 1]


def fit(hand, joints_mm, steps=STEPS):
    """Lays `hand`, a mesh.Hand, into joints (N, 21, 3) in millimetres, any camera frame. Returns a
    Fit.

    The wrist stays straight: joints do not tell a bent wrist from a turned hand.

    Minimised: squared distances in mm^2 plus |shape|^2 and the offsets' squares, weighted as
    above; angles stay inside human limits by a sigmoid. The offsets are shared by all frames:
    they are the annotators', not the hand's.
    """
    target = torch.from_numpy(np.array(joints_mm, np.float32)) / 1000
    low, high = (torch.as_tensor(a, dtype=torch.float32) for a in LIMITS_DEG.T)
    start = aligned(hand, target)
    free = {
        "shape": torch.zeros(len(target), len(hand.shape_directions)),
        "bend": torch.zeros(len(target), len(LIMITS_DEG)),
        "turn": torch.zeros(len(target), 3),
        "place": target[:, WRIST].clone(),
        "offsets": torch.zeros(21, 3),
    }
    for t in free.values():
        t.requires_grad_()
    # metres move slower than radians and standard deviations
    scale = {"place": 0.02, "offsets": 0.02}
    optimizer = torch.optim.Adam(
        [{"params": [t], "lr": RATE * scale.get(n, 1.0)} for n, t in free.items()]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=steps
    )
    for _ in range(steps):
        angles, R = (
            STRAIGHT_WRIST * (low + (high - low) * free["bend"].sigmoid()),
            rotation_matrix(free["turn"]) @ start,
        )
        joints = (
            annotated(hand, free["shape"], angles, free["offsets"]) @ R.mT + free["place"][:, None]
        )
        apart = 1000 * (joints - target)
        loss = (
            (apart**2).sum((1, 2)).mean()
            + SHAPE_MM2 * (free["shape"] ** 2).sum(1).mean()
            + OFFSET_MM2 * (100 * free["offsets"]).square().sum()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    arrays = (
        t.detach().numpy()
        for t in (
            free["shape"],
            angles,
            R,
            free["place"],
            free["offsets"],
            apart.norm(dim=2).mean(1),
        )
    )
    return Fit(*arrays)


def aligned(hand, target):
    """Rotations (N, 3, 3) that lay the palm of the template best on that of target (N, 21, 3)
    (Kabsch)."""

    def centred(x):
        return x[..., list(PALM), :] - x[..., list(PALM), :].mean(-2, keepdim=True)

    palm = centred(torch.as_tensor(hand.rest_joints, dtype=target.dtype))
    U, _, Vt = torch.linalg.svd(centred(target).mT @ palm)
    flip = torch.ones(len(target), 3)
    flip[:, 2] = torch.linalg.det(U @ Vt).sign()
    return U * flip[:, None] @ Vt
