"""Scenes to render: people, poses, lights, cameras and backgrounds.

A scene is determined by (seed, index) and its settings alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from .. import geometry
from .appearance import Appearance, recolour
from .backgrounds import background, photographs
from .camera import Camera, ambient_light, develop, sample_camera, sense_depth
from .objects import InFront, sample_objects
from .people import (
    AnyHand,
    Generator,
    Matrix,
    Person,
    hand_of,
    orientation,
    sample_look,
    sample_orientation,
    sample_person,
    sample_pose,
    stream,
)
from .rasterizer import Look, renderer_of

SUPERSAMPLING = 2
SEQUENCE_WALL_PX = 640  # side of the background that a sequence's camera sees
KEY_EVERY = 16  # frames between two key poses of a sequence
STB_K = np.array([[822.79041, 0, 318.47345], [0, 822.79041, 250.31296], [0, 0, 1.0]])


@dataclass(frozen=True)
class SceneConfig:
    """Settings of rendered hands; everything else follows from (seed, index)."""

    seed: int = 0
    px: int = 80
    """Side of the stored picture in pixels; networks read px / margin of them."""
    margin: float = 1.25
    """Side of the stored picture in units of the protocol's box, so that augmentation has pixels to
    rotate in."""
    views_deg: float = 180.0
    """Largest angle between palm and camera; 180 shows both sides of the hand. Sequences ignore
    it."""
    wide: bool = False
    """Rotate hands by any angle in the picture's plane, half of them gestures: fingers extended or
    closed, the thumb anywhere. Sequences ignore it."""
    box_shift: float = 0.0
    """Largest shift of independent hands from the box's middle, relative to its side."""
    box_zoom: float = 0.0
    """Scale boxes by 1 / (1 + this) to 1 + this. Sequences ignore it."""
    in_front: float = 0.0
    """Share of the pictures with an object in front of the hand. Sequences ignore it."""
    sequences: int = 0
    """0: independent hands with depth. Otherwise STB-like RGB: one person, one camera, this many
    smooth sequences."""
    sequence_offset: int = 0
    """Number of the first sequence; test sequences follow the training ones and share their person
    and camera."""
    frames: int = 500
    """Number of frames in a sequence."""
    noisy_depth: bool = True
    """Simulate a sensor's noise and holes in depth."""
    appearance: Appearance = "lit"
    """lit: lit by the scene's lamps. gs, hom, sample, auto: the same frames in the style of
    FreiHAND's domains, see rendering/appearance.py."""
    backgrounds: tuple[str, ...] = ()
    """Folders of photographs, read on demand; empty = the bundled ones."""
    photographs_only: bool = False
    """Use unchanged crops of photographs; otherwise also generated textures, clutter and tints."""
    mano: str = ""
    """MANO_RIGHT.pkl, or its folder; empty = the bundled open hand."""
    textures: str = ""
    """A folder of scans registered to the hand (*.ply with colored vertices); empty = procedural
    skin."""


# ---- scenes --------------------------------------------------------------------------------------
@dataclass
class Scene:
    """One picture to render: a hand in the frame of its virtual camera.

    vertices, joints: meters. behind: 0..255. rotation: real camera -> virtual camera. rng: the
    random generator of the camera's noise. front: an object in front of the hand.
    """

    vertices: Float[np.ndarray, "v 3"]
    joints: Float[np.ndarray, "21 3"]
    K: Matrix
    look: Look
    behind: Shaped[np.ndarray, "px2 px2 3"]
    camera: Camera
    rotation: Matrix
    rng: Generator = field(repr=False)
    front: InFront | None = None


def behind_of(config: SceneConfig, rng: Generator, px: int) -> Float[np.ndarray, "px px 3"]:
    """Samples a background, 0..255."""
    return background(rng, photographs(config.backgrounds), px, not config.photographs_only)


def independent_scene(config: SceneConfig, index: int) -> Scene:
    """A random person's hand with random pose, view and background; see SceneConfig."""
    rng = stream("scene", config.seed, index)
    hand = hand_of(config.mano)
    person = sample_person(rng, hand, config.textures)
    pose = sample_pose(rng, hand, person.shape, gestures=0.5 * config.wide)
    vertices, joints = hand.posed(person.shape, pose)
    R = sample_orientation(rng, hand, config.views_deg, any_roll=config.wide)
    place = np.array([0, 0, rng.uniform(0.28, 0.95)])
    vertices, joints = vertices @ R.T, joints @ R.T
    vertices, joints = vertices - joints[9] + place, joints - joints[9] + place
    K, turn = _frame(joints, np.eye(3), config, stream("box", config.seed, index))
    vertices, joints = vertices @ turn.T, joints @ turn.T
    behind = behind_of(config, rng, config.px)
    look = sample_look(rng, person, hand)
    front = sample_front(config, index)
    return Scene(vertices, joints, K, look, behind, sample_camera(rng), turn, rng, front)


def sample_front(config: SceneConfig, index: int) -> InFront | None:
    """Samples an object in front of the hand, in a share of the pictures."""
    if not config.in_front:
        return None
    rng = stream("front", config.seed, index)
    if rng.random() >= config.in_front:
        return None
    return sample_objects(rng, photographs(config.backgrounds), config.px)


def _frame(
    joints: np.ndarray, K: Matrix, config: SceneConfig, box: Generator | None = None
) -> tuple[Matrix, Matrix]:
    """The camera of the protocol's box, randomly shifted and scaled by `box` as configured."""
    centre, side = geometry.crop_box(geometry.project(joints, K))
    if box is not None:
        centre = centre + side * box.uniform(-config.box_shift, config.box_shift, 2)
        side = side * (1 + config.box_zoom) ** box.uniform(-1, 1)
    return geometry.virtual_camera(K, centre, side, config.px, config.margin)


def _between_keys(
    config: SceneConfig,
    sequence: int,
    frame: int,
    name: str,
    draw: Callable[[Generator], np.ndarray],
) -> np.ndarray:
    """Interpolates between random key values of a sequence by cosine easing."""
    key, step = divmod(frame, KEY_EVERY)
    a, b = (draw(stream(name, config.seed, sequence, k)) for k in (key, key + 1))
    ease = 0.5 - 0.5 * np.cos(np.pi * step / KEY_EVERY)
    return a + (b - a) * ease


class Setting(NamedTuple):
    """The fixed part of a sequence: person, lighting, background and camera."""

    person: Person
    look: Look
    wall: np.ndarray
    camera: Camera


@lru_cache(maxsize=16)
def _setting(config: SceneConfig, sequence: int) -> Setting:
    hand, seed = hand_of(config.mano), config.seed
    person = sample_person(stream("person", seed), hand, config.textures)
    rng = stream("setting", seed, sequence)
    wall = behind_of(config, rng, SEQUENCE_WALL_PX)
    look = sample_look(rng, person, hand)
    return Setting(person, look, wall, sample_camera(stream("camera", seed)))


def sequence_scene(config: SceneConfig, index: int) -> Scene:
    """A frame of one person's smooth sequences, seen by one fixed camera."""
    sequence, frame = divmod(index, config.frames)
    sequence += config.sequence_offset
    hand = hand_of(config.mano)
    person, look, wall, camera = _setting(config, sequence)

    def draw_pose(rng: Generator) -> np.ndarray:
        return sample_pose(rng, hand, person.shape)

    def draw_turn(rng: Generator) -> np.ndarray:
        return rng.normal(0, [30, 20, 20])

    def draw_place(rng: Generator) -> np.ndarray:
        return rng.uniform([-0.1, -0.08, 0.42], [0.1, 0.08, 0.65])

    angles = _between_keys(config, sequence, frame, "pose", draw_pose)
    yaw, pitch, roll = _between_keys(config, sequence, frame, "turn", draw_turn)
    place = _between_keys(config, sequence, frame, "place", draw_place)
    vertices, joints = hand.posed(person.shape, angles)
    R = orientation(hand, float(yaw), float(pitch), float(roll))
    vertices, joints = vertices @ R.T + place, joints @ R.T + place
    K, turn = _frame(joints, STB_K, config)
    H = geometry.homography(STB_K, turn, K)
    behind = geometry.warp(wall, H, config.px, cv2.BORDER_REFLECT)
    noise = stream("noise", config.seed, sequence, frame)
    turned_look = replace(look, lamps=look.lamps @ turn.T)
    return Scene(vertices @ turn.T, joints @ turn.T, K, turned_look, behind, camera, turn, noise)


def scene_of(config: SceneConfig, index: int) -> Scene:
    """The scene with a given number."""
    return sequence_scene(config, index) if config.sequences else independent_scene(config, index)


@dataclass
class Drawn:
    """A rendered picture with its labels; depth is uint16 mm, mask is uint8, 0 or 1."""

    rgb: Shaped[np.ndarray, "px px 3"]
    depth: Shaped[np.ndarray, "px px"]
    mask: Shaped[np.ndarray, "px px"]
    joints_mm: Float[np.ndarray, "21 3"]
    K: Matrix
    rotation: Matrix


def draw(config: SceneConfig, indices: Iterable[int], device: str = "cpu") -> list[Drawn]:
    """Renders scenes; item i depends on (config, indices[i]) only."""
    numbers = [int(index) for index in indices]
    scenes = [scene_of(config, number) for number in numbers]
    hand = hand_of(config.mano)
    pictures = photograph_scenes(scenes, hand, config.px, config.noisy_depth, device)
    if config.appearance != "lit":
        for number, picture in zip(numbers, pictures, strict=True):
            rng = stream("appearance", config.appearance, config.seed, number)
            behind = behind_of(config, rng, config.px)
            look = config.appearance
            picture.rgb = recolour(picture.rgb, picture.mask, behind, look, rng)
    return pictures


def photograph_scenes(
    scenes: Sequence[Scene],
    hand: AnyHand,
    px: int,
    noisy_depth: bool,
    device: str = "cpu",
    supersampling: int = SUPERSAMPLING,
) -> list[Drawn]:
    """Renders given scenes of one hand as px x px pictures."""
    s = supersampling
    enlarge = np.array([[s, 0, (s - 1) / 2], [0, s, (s - 1) / 2], [0, 0, 1.0]])
    fine_K = np.stack([enlarge @ scene.K for scene in scenes])
    vertices = np.stack([scene.vertices for scene in scenes])
    looks = [scene.look for scene in scenes]
    linear, depth = renderer_of(hand, device).draw(vertices, fine_K, px * s, looks)
    pictures = []
    for scene, fine_light, fine_depth in zip(scenes, linear, depth, strict=True):
        light = cv2.resize(fine_light, (px, px), interpolation=cv2.INTER_AREA)
        covered = (fine_depth > 0).astype(np.float32)
        mask = cv2.resize(covered, (px, px), interpolation=cv2.INTER_AREA)
        small = _shrink_depth(fine_depth, s)
        light = light * ambient_light(small)[..., None]
        rgb = develop(scene.rng, scene.camera, light, mask, scene.behind, scene.front)
        small_mm = 1000 * small
        if scene.front is not None:
            small_mm = scene.front.before_depth(small_mm)
        depth_mm = sense_depth(scene.rng, small_mm, noisy_depth)
        hand_mask = (mask > 0.5).astype(np.uint8)
        joints_mm = 1000 * scene.joints
        pictures.append(Drawn(rgb, depth_mm, hand_mask, joints_mm, scene.K, scene.rotation))
    return pictures


def _shrink_depth(depth: Float[np.ndarray, "fine fine"], s: int) -> Float[np.ndarray, "px px"]:
    """Averages each s x s block's pixels within 10 mm of its nearest one.

    The result is 0 where at most half of the pixels are covered.
    """
    parts = np.stack([depth[y::s, x::s] for y in range(s) for x in range(s)])
    covered: Bool[np.ndarray, "n px px"] = parts > 0
    nearest = np.where(covered, parts, np.inf).min(0)
    near = covered & (parts < nearest + 0.010)
    mean = (parts * near).sum(0) / np.maximum(near.sum(0), 1)
    return np.where(covered.sum(0) * 2 > s * s, mean, 0)
