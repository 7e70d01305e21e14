"""Simulates a camera's picture and a depth sensor's measurement of a rendered hand."""

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
    """The properties of a camera, the same for all its pictures.

    mix: the color response. blur: standard deviation in 1/80 of the picture. noise: fine and
    coarse, in gray levels.
    """

    exposure: float
    mix: Matrix
    contrast: float
    black: float
    blur: float
    noise: tuple[float, float]
    jpeg_quality: int


def sample_camera(rng: Generator) -> Camera:
    """Samples a low-cost camera."""
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
    """Simulates the camera's photograph, uint8, of the hand in front of its background.

    Args:
        rng: the random generator of the camera's noise.
        camera: the camera's properties.
        linear: the hand's linear RGB, premultiplied by the mask.
        mask: the hand's coverage.
        behind: the background, 0..255.
        front: an object in front of the hand.
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
    """The ambient light at each pixel, 0..1, darkened in creases of the depth map."""
    inside = (depth > 0).astype(np.float32)
    radius = depth.shape[0] / 24
    total = cv2.GaussianBlur(inside, (0, 0), radius)
    mean = cv2.GaussianBlur(depth * inside, (0, 0), radius) / np.maximum(total, 1e-3)
    crease = np.clip((depth - mean) * 28, 0, 0.65)
    return np.clip(1 - crease, 0.35, 1) * inside + (1 - inside)


def sense_depth(
    rng: Generator, depth_mm: Float[np.ndarray, "px px"], noisy: bool
) -> Shaped[np.ndarray, "px px"]:
    """Simulates a sensor's depth in uint16 millimeters, 0 where nothing was measured."""
    if noisy:
        depth_mm = depth_mm.astype(np.float32)
        noise = 1.5 * rng.standard_normal(depth_mm.shape, np.float32)
        measured = depth_mm + noise * (depth_mm / 500) ** 2
        slope = np.abs(cv2.Laplacian(depth_mm, cv2.CV_32F))
        lost = rng.random(depth_mm.shape, np.float32)
        holes = (slope > 60) & (lost < 0.5) | (lost < 0.002)
        depth_mm = np.where(holes | (depth_mm == 0), 0, measured)
    return np.clip(np.rint(depth_mm), 0, 65535).astype(np.uint16)
