"""Occluders between the hand and the camera, such as pens, phones, cups and table edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from .backgrounds import Photographs, photograph, texture

NEARER_MM = (4.0, 60.0)  # distance in front of the hand's nearest point
MIDDLE = (0.15, 0.85)  # range of an object's middle, relative to the picture


@dataclass
class InFront:
    """An occluder that covers a part of the picture, with `picture` 0..255 and `cover` 0..1."""

    picture: Float[np.ndarray, "px px 3"]
    cover: Float[np.ndarray, "px px"]
    nearer_mm: float

    def before(self, image: Float[np.ndarray, "px px 3"]) -> Float[np.ndarray, "px px 3"]:
        """Composites the occluder over an image."""
        return image + self.cover[..., None] * (self.picture - image)

    def before_depth(self, depth_mm: Shaped[np.ndarray, "px px"]) -> Shaped[np.ndarray, "px px"]:
        """Composites the occluder over a depth map (0 = empty), unchanged if there is no hand."""
        seen = depth_mm[depth_mm > 0]
        if not seen.size:
            return depth_mm
        return np.where(self.cover > 0.5, max(seen.min() - self.nearer_mm, 1.0), depth_mm)


def sample_objects(rng: np.random.Generator, pictures: Photographs, px: int) -> InFront:
    """Samples one or two objects with a photograph, a generated texture or a plain color."""
    cover: Any = np.zeros((px, px), np.float32)
    for _ in range(int(rng.choice([1, 2], p=[0.75, 0.25]))):
        _draw_shape(rng, cover, px)
    soft = cv2.GaussianBlur(cover, (0, 0), px / 160)
    return InFront(_sample_surface(rng, pictures, px), soft, float(rng.uniform(*NEARER_MM)))


def _draw_shape(rng: np.random.Generator, cover: np.ndarray, px: int) -> None:
    """Fills a bar, a rectangle, an ellipse, or a half plane."""
    x, y = (float(c) for c in rng.uniform(*MIDDLE, 2) * px)
    turn = float(rng.uniform(0, 180))
    kind = rng.choice(["bar", "box", "ellipse", "edge"], p=[0.4, 0.3, 0.2, 0.1])
    long, wide = px * rng.uniform(0.12, 0.4, 2)
    if kind == "bar":
        long, wide = px * rng.uniform([0.5, 0.03], [1.6, 0.12])
    if kind == "ellipse":
        axes = (int(long / 2), int(wide / 2))
        cv2.ellipse(cover, (int(x), int(y)), axes, turn, 0, 360, 1.0, -1, cv2.LINE_AA)
        return
    if kind == "edge":  # the far half of a board whose near edge is at a side of the picture
        angle = rng.uniform(0, 2 * np.pi)
        away = px * rng.uniform(0.72, 1.0)
        x, y = px / 2 + away * np.cos(angle), px / 2 + away * np.sin(angle)
        long, wide, turn = px, 3 * px, float(np.rad2deg(angle))
    corners = cv2.boxPoints(((x, y), (float(long), float(wide)), turn))
    cv2.fillPoly(cover, [np.rint(corners).astype(np.int32)], 1.0, cv2.LINE_AA)


def _sample_surface(
    rng: np.random.Generator, pictures: Photographs, px: int
) -> Float[np.ndarray, "px px 3"]:
    kind = rng.random()
    if kind < 0.35:
        return np.asarray(photograph(rng, pictures, px), np.float32)
    image = texture(rng, px)
    if kind < 0.65:  # a plain color, lit from one side
        image = np.broadcast_to(image.mean((0, 1)), image.shape)
        shade = 1 + rng.uniform(-0.4, 0.4) * np.linspace(-1, 1, px)
        image = image * (shade[:, None, None] if rng.random() < 0.5 else shade[None, :, None])
    return np.clip(image, 0, 255).astype(np.float32)
