"""Fits the open hand to 3D joints.

Gradient descent on all frames at once estimates shape, angles, orientation, position, and the
annotators' offset of each joint. Look-alikes of a target are sampled from the result
(rendering/lookalikes.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..skeleton import TIPS, WRIST
from .kinematics import rotation_matrices
from .mesh import LIMITS_DEG, OpenHand, pose_bones

PALM = (0, 5, 9, 13, 17)
STEPS, RATE = 400, 0.05
RATE_SCALES = {"place": 0.02, "offsets": 0.02}  # meters move slower than radians and deviations
STRAIGHT_WRIST = torch.tensor([1.0] * 21 + [0.0] * 2)  # of mesh.ANGLES, the last two
# Weights of the priors relative to squared millimeters: for a shape coefficient of one standard
# deviation, and for an annotator's joint offset of 10 mm.
SHAPE_MM2, OFFSET_MM2 = 1.0, 20.0


@dataclass(frozen=True)
class Fit:
    """The fit of N frames with S shape directions.

    rotation: template -> camera. place: the hand's wrist in the camera's frame, meters. offsets:
    the annotators' joint relative to the hand's, in the frame of the joint's bone, meters.
    residual_mm: mean remaining distance.
    """

    shape: Float[np.ndarray, "n s"]
    angles_deg: Float[np.ndarray, "n 23"]
    rotation: Float[np.ndarray, "n 3 3"]
    place: Float[np.ndarray, "n 3"]
    offsets: Float[np.ndarray, "21 3"]
    residual_mm: Float[np.ndarray, " n"]


def bone_of_each_joint(hand: OpenHand) -> list[int]:
    """The bone whose frame a joint's offset uses: its own, or the finger's last one for a tip."""
    return [hand.bone_of_joint[joint - 1 if joint in TIPS else joint] for joint in range(21)]


def annotated_joints(
    hand: OpenHand,
    shape: Float[Tensor, "n s"],
    angles_deg: Float[Tensor, "n 23"],
    offsets: Float[Tensor, "21 3"],
) -> Float[Tensor, "n 21 3"]:
    """Joints in meters as the annotators would place them, relative to the hand's wrist."""
    bones, joints = pose_bones(hand, shape, angles_deg)
    moved = joints + torch.einsum("njab,jb->nja", bones.R[:, bone_of_each_joint(hand)], offsets)
    return moved - joints[:, WRIST : WRIST + 1]


def fit_hand(hand: OpenHand, joints_mm: Float[np.ndarray, "n 21 3"], steps: int = STEPS) -> Fit:
    """Fits a hand to joints in millimeters, in any camera frame.

    The wrist stays straight, because joints do not distinguish a bent wrist from a rotated hand.
    The loss is the sum of squared distances in mm^2, |shape|^2 and squared offsets, weighted as
    above; a sigmoid keeps angles within human limits. All frames share the offsets, which belong to
    the annotators and not to the hand.
    """
    target = torch.from_numpy(np.array(joints_mm, np.float32)) / 1000
    low, high = (torch.as_tensor(limit, dtype=torch.float32) for limit in LIMITS_DEG.T)
    start = align_palms(hand, target)
    count = len(target)
    free = {
        "shape": torch.zeros(count, len(hand.shape_directions)),
        "bend": torch.zeros(count, len(LIMITS_DEG)),
        "turn": torch.zeros(count, 3),
        "place": target[:, WRIST].clone(),
        "offsets": torch.zeros(21, 3),
    }
    for tensor in free.values():
        tensor.requires_grad_()
    groups = [
        {"params": [tensor], "lr": RATE * RATE_SCALES.get(name, 1.0)}
        for name, tensor in free.items()
    ]
    optimizer = torch.optim.Adam(groups)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    for _ in range(steps):
        angles = STRAIGHT_WRIST * (low + (high - low) * free["bend"].sigmoid())
        R = rotation_matrices(free["turn"]) @ start
        joints = annotated_joints(hand, free["shape"], angles, free["offsets"]) @ R.mT
        apart = 1000 * (joints + free["place"][:, None] - target)
        distances = (apart**2).sum((1, 2)).mean()
        shapes = SHAPE_MM2 * (free["shape"] ** 2).sum(1).mean()
        loss = distances + shapes + OFFSET_MM2 * (100 * free["offsets"]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Fit(
        shape=free["shape"].detach().numpy(),
        angles_deg=angles.detach().numpy(),
        rotation=R.detach().numpy(),
        place=free["place"].detach().numpy(),
        offsets=free["offsets"].detach().numpy(),
        residual_mm=apart.norm(dim=2).mean(1).detach().numpy(),
    )


def align_palms(hand: OpenHand, target: Float[Tensor, "n 21 3"]) -> Float[Tensor, "n 3 3"]:
    """Rotations that best align the template's palm with the targets' (Kabsch)."""

    def centred_palm(joints: Tensor) -> Tensor:
        palm = joints[..., list(PALM), :]
        return palm - palm.mean(-2, keepdim=True)

    template = centred_palm(torch.as_tensor(hand.rest_joints, dtype=target.dtype))
    U, _, Vt = torch.linalg.svd(centred_palm(target).mT @ template)
    flip = torch.ones(len(target), 3)
    flip[:, 2] = torch.linalg.det(U @ Vt).sign()
    return U * flip[:, None] @ Vt
