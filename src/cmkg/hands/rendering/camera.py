"""What a camera makes of a drawn hand: its picture, and what a depth sensor measures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Shaped
from numpy.random import Generator

from .objects import InFront

Matrix = Float[np.ndarray, "3 3"]


@dataclass
class Camera:
    """What one camera does to every picture that it takes.

    mix: the colour response. blur: standard deviation in 1/80 of the picture. noise: fine and
    coarse, in grey levels.
    """

    exposure: float
    mix: Matrix
    contrast: float
    black: float
    blur: float
    noise: tuple[float, float]
    jpeg_quality: int


def sample_camera(rng: Generator) -> Camera:
    """A camera of the cheaper kind."""
    mix = np.eye(3) + rng.normal(0, 0.015, (3, 3)) + np.diag(rng.normal(0, 0.05, 3))
    return Camera(
        exposure=2.0 ** rng.uniform(-0.5, 0.4),
        mix=mix,
        contrast=rng.uniform(0.8, 1.2),
        black=rng.uniform(-12, 12),
        blur=rng.choice([0.0, rng.uniform(0.2, 0.8)]),
        noise=(rng.exponential(2.0), rng.exponential(1.0)),
        jpeg_quality=int(rng.uniform(45, 97)),
    )


def develop(
    rng: Generator,
    camera: Camera,
    linear: Float[np.ndarray, "px px 3"],
    mask: Float[np.ndarray, "px px"],
    behind: Shaped[np.ndarray, "px px 3"],
    front: InFront | None = None,
) -> Shaped[np.ndarray, "px px 3"]:
    """The photograph, uint8, that a camera takes of the hand before its background.

    Args:
        rng: the camera's noise.
        camera: what it does.
        linear: the hand's light, premultiplied.
        mask: its coverage.
        behind: the background, 0..255.
        front: an object before the hand.
    """
    px = linear.shape[0]
    cover = np.maximum(mask, 1e-3)[..., None].astype(np.float32)
    light = np.maximum(linear / cover * camera.exposure, 0) ** (1 / 2.2)
    hand = 255 / (1 - np.exp(-1.3)) * (1 - np.exp(-1.3 * light))  # gamma, a film-like shoulder
    image = behind + mask[..., None] * (hand - behind)
    if front is not None:
        image = front.before(image)
    gain = (camera.mix * camera.contrast).astype(np.float32)
    offset = 128 * (1 - camera.contrast) + camera.black
    image = cv2.transform(image.astype(np.float32), gain) + offset
    if camera.blur:
        image = cv2.GaussianBlur(image, (0, 0), px / 80 * camera.blur)
    if rng.random() < 0.15:
        image = _blur_by_motion(rng, image, px)
    fine, coarse = camera.noise
    image += fine * rng.standard_normal(image.shape, np.float32)
    image += cv2.resize(coarse * rng.standard_normal((px // 2, px // 2, 3), np.float32), (px, px))
    image = cv2.convertScaleAbs(np.maximum(image, 0))
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def _blur_by_motion(rng: Generator, image: np.ndarray, px: int) -> np.ndarray:
    length = max(int(px / 80 * rng.uniform(2, 5)), 2)
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    ends = length / 2 * (1 + np.array([np.cos(angle), np.sin(angle)]))
    inside = [min(end, length - 1) for end in ends]
    opposite = tuple(int(length - 1 - end) for end in inside)
    cv2.line(kernel, opposite, tuple(int(end) for end in inside), 1.0)
    return cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1.0))


def ambient_light(depth: Float[np.ndarray, "px px"]) -> Float[np.ndarray, "px px"]:
    """Ambient light that reaches each pixel, 0..1: less in creases, by the depth around."""
    inside = (depth > 0).astype(np.float32)
    radius = depth.shape[0] / 24
    total = cv2.GaussianBlur(inside, (0, 0), radius)
    mean = cv2.GaussianBlur(depth * inside, (0, 0), radius) / np.maximum(total, 1e-3)
    crease = np.clip((depth - mean) * 28, 0, 0.65)
    return np.clip(1 - crease, 0.35, 1) * inside + (1 - inside)


def sense_depth(
    rng: Generator, depth_mm: Float[np.ndarray, "px px"], noisy: bool
) -> Shaped[np.ndarray, "px px"]:
    """Depth as a sensor gives it, uint16 millimetres, 0 where nothing was measured."""
    if noisy:
        depth_mm = depth_mm.astype(np.float32)
        noise = 1.5 * rng.standard_normal(depth_mm.shape, np.float32)
        measured = depth_mm + noise * (depth_mm / 500) ** 2
        slope = np.abs(cv2.Laplacian(depth_mm, cv2.CV_32F))
        lost = rng.random(depth_mm.shape, np.float32)
        holes = (slope > 60) & (lost < 0.5) | (lost < 0.002)
        depth_mm = np.where(holes | (depth_mm == 0), 0, measured)
    return np.clip(np.rint(depth_mm), 0, 65535).astype(np.uint16)
