"""Rendered hands that match a target's poses, views, cameras, backgrounds and bone convention.

Only the target's training pictures and joints are used. An open hand model is fitted to each frame
(body/fit_hand.py). A look-alike combines finger poses from several frames or from the source, is
rotated a little, and is placed before a target picture whose hand is painted out. This adds new
poses, and depth, to a target that has few poses and no depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped
from scipy.spatial.transform import Rotation

from ...errors import InputError
from ...runtime.checks import expect_fractions, expect_from_zero, expect_positive
from ...runtime.files import read_arrays
from .. import geometry
from ..body.fit_hand import Fit, bone_of_each_joint
from ..body.mesh import LIMITS_DEG, OpenHand, anny_hand, bone_rotations, pose_bones, pose_hand
from ..body.poses import collides, sample_angles
from ..datasets.packed.format import Packed
from ..datasets.sample import Sample
from ..rendering.backgrounds import background, digest_of_photographs, photographs
from ..rendering.people import sample_look, sample_orientation, sample_person, stream
from ..rendering.scenes import Scene, photograph_scenes, sample_camera

# The angles of each finger in mesh.ANGLES, thumb first.
ANGLES_OF_FINGER = (slice(16, 21), slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 16))
WITHOUT_WRIST = slice(0, 21)

Generator = np.random.Generator


@dataclass(frozen=True)
class LookAlikeConfig:
    """How look-alikes are rendered."""

    count: int = 6000
    mixed: float = 0.5
    """Share of fingers that take the angles of another frame."""
    free: float = 0.5
    """Share of hands that are posed and rotated as in the source."""
    views_deg: float = 90.0
    """Largest angle between palm and camera for these hands, in degrees."""
    jitter_deg: float = 6.0
    """Standard deviation of the joint angles around those of a frame, in degrees."""
    turn_deg: float = 15.0
    """Standard deviation of the rotation about each axis, relative to a frame, in degrees."""
    own_background: float = 0.6
    """Share of hands placed before a picture of the target whose hand is painted out."""
    noisy_depth: bool = True
    """Render depth with a sensor's noise and holes."""
    seed: int = 0

    def __post_init__(self) -> None:
        expect_positive(self, "count")
        expect_from_zero(self, "jitter_deg", "turn_deg", "seed")
        expect_fractions(self, "mixed", "free", "own_background")


@dataclass(frozen=True)
class LookAlikes:
    """A dataset of look-alikes; each is determined by (seed, index) and the target's packed set.

    target: the packed training set of the target. fit: file of the Fit to the joints of `frames`,
    [first, last) of the set. px, margin: of the stored pictures.
    """

    target: str
    fit: str
    frames: tuple[int, int]
    px: int
    margin: float
    config: LookAlikeConfig

    def __len__(self) -> int:
        return self.config.count

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Renders look-alikes."""
        scenes = [lookalike_scene(self, int(index)) for index in indices]
        drawn = photograph_scenes(scenes, anny_hand(), self.px, self.config.noisy_depth)
        return [Sample(d.rgb, d.joints_mm, d.K, d.rotation, d.depth) for d in drawn]

    def describe(self) -> dict[str, Any]:
        """A description of the set, in plain JSON types."""
        facts = {
            "dataset": "look-alikes",
            "target": self.target,
            "fit": self.fit,
            "frames": list(self.frames),
            "px": self.px,
            "margin": self.margin,
            "photographs": digest_of_photographs(),
        }
        return facts | asdict(self.config)


class Known(NamedTuple):
    """The fit to a target's frames, and their pictures with the hands painted out."""

    fit: Fit
    behind: list[Shaped[np.ndarray, "px px 3"]]


@lru_cache(maxsize=4)
def _known(target: str, fit: str, frames: tuple[int, int]) -> Known:
    laid, packed = Fit(**read_arrays(fit)), Packed(target)
    first, last = frames
    if len(laid.shape) != last - first:
        raise InputError(
            f"{fit}: holds {len(laid.shape)} frames, expected {last - first} of {target}; remove "
            "it, and it is made anew"
        )
    behind = [
        paint_out(packed.rgb[i], packed.joints_mm[i], packed.K[i]) for i in range(first, last)
    ]
    return Known(laid, behind)


def paint_out(
    rgb: Shaped[np.ndarray, "px px 3"],
    joints_mm: Float[np.ndarray, "21 3"],
    K: Float[np.ndarray, "3 3"],
) -> Shaped[np.ndarray, "px px 3"]:
    """The picture, 0..255, with the hand region filled in from its surroundings."""
    px = rgb.shape[0]
    uv = geometry.project(joints_mm, K).astype(np.float32)
    hull = cv2.convexHull(uv).astype(np.int32)
    grown = np.ones((px // 8 | 1, px // 8 | 1), np.uint8)
    mask = cv2.dilate(cv2.fillConvexPoly(np.zeros((px, px), np.uint8), hull, 1), grown)
    if not mask.any():
        return rgb
    return cv2.inpaint(np.ascontiguousarray(rgb), mask, 3, cv2.INPAINT_TELEA)


def _sample_angles(
    rng: Generator, config: LookAlikeConfig, fit: Fit, frame: int, free: bool, shape: np.ndarray
) -> Float[np.ndarray, "23"]:
    """Joint angles of a frame, some fingers from another frame, all jittered; or free ones.

    Collisions of fingers are avoided if possible.
    """
    hand, rest = anny_hand(), WITHOUT_WRIST
    for _ in range(8):
        drawn = sample_angles(rng)
        if not free:
            drawn[rest] = fit.angles_deg[frame][rest]
            for finger in ANGLES_OF_FINGER:
                if rng.random() < config.mixed:
                    other = rng.integers(len(fit.angles_deg))
                    drawn[finger] = fit.angles_deg[other][finger]
            jittered = drawn[rest] + rng.normal(0, config.jitter_deg, 21)
            drawn[rest] = np.clip(jittered, *LIMITS_DEG[rest].T)
        if not collides(pose_bones(hand, shape, drawn).joints):
            break
    return drawn


def _sample_turn(
    rng: Generator, config: LookAlikeConfig, fit: Fit, frame: int, free: bool
) -> Float[np.ndarray, "3 3"]:
    """Template -> camera of a hand with a straight wrist: a perturbed frame's, or a free one."""
    if free:
        return sample_orientation(rng, anny_hand(), config.views_deg)
    x, y, z = rng.normal(0, config.turn_deg, 3)
    turn = Rotation.from_euler("ZXY", [z, x, y], degrees=True)
    return turn.as_matrix() @ fit.rotation[frame]


def lookalike_scene(lookalikes: LookAlikes, index: int) -> Scene:
    """One look-alike, with joints in the target's annotation convention."""
    config, px = lookalikes.config, lookalikes.px
    rng, hand = stream("lookalike", config.seed, index), anny_hand()
    fit, behind = _known(lookalikes.target, lookalikes.fit, lookalikes.frames)
    frame = int(rng.integers(len(fit.shape)))
    free = bool(rng.random() < config.free)
    person = sample_person(rng, hand)
    person.shape = fit.shape[frame] + 0.3 * rng.normal(size=len(fit.shape[frame]))
    angles = _sample_angles(rng, config, fit, frame, free, person.shape)
    vertices, joints = pose_hand(hand, person.shape, angles)
    joints = joints + annotators_offsets(hand, person.shape, angles, fit.offsets)
    wrist = bone_rotations(hand, angles)[hand.bone_of_joint[0]]
    # The hand keeps its orientation; the forearm moves.
    turn = _sample_turn(rng, config, fit, frame, free) @ wrist.T
    place = fit.place[frame] * np.exp(rng.normal(0, 0.1))
    vertices, joints = vertices @ turn.T + place, joints @ turn.T + place
    centre, side = geometry.crop_box(geometry.project(joints, np.eye(3)))
    K, rotation = geometry.virtual_camera(np.eye(3), centre, side, px, lookalikes.margin)
    size = (px, px)
    if rng.random() < config.own_background:
        backdrop = behind[rng.integers(len(behind))]
        wall = cv2.resize(backdrop, size, interpolation=cv2.INTER_LINEAR)
    else:
        wall = background(rng, photographs(), px)
    look, camera = sample_look(rng, person, hand), sample_camera(rng)
    return Scene(vertices @ rotation.T, joints @ rotation.T, K, look, wall, camera, rotation, rng)


def annotators_offsets(
    hand: OpenHand,
    shape: Float[np.ndarray, " s"],
    angles: Float[np.ndarray, "23"],
    offsets: Float[np.ndarray, "21 3"],
) -> Float[np.ndarray, "21 3"]:
    """Offsets of annotated joints from the hand's joints, in meters, in the template's frame."""
    R = pose_bones(hand, shape, angles).bones.R
    return np.einsum("jab,jb->ja", R[bone_of_each_joint(hand)], offsets)
