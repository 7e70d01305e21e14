"""A z-buffer rasterizer of RGB and depth in NVIDIA Warp, with the same kernels on CPU and CUDA.

Each image is independent of its batch. Per (image, triangle), a packed key (depth in micrometers,
face) goes through `atomic_min`, so the result does not depend on thread order. Per (image, pixel),
the nearest triangle is shaded with wrapped diffuse and specular light from two lamps, a shadow map
for the first lamp, ambient light from above and below, a skin texture fixed to the hand, and a
sleeve.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import warp as wp
from jaxtyping import Float, Int

from ..body.mano import Mano
from ..body.mesh import OpenHand
from .kernels import raster, shade

wp.config.log_level = logging.ERROR
EMPTY = 0x7FFFFFFFFFFFFFFF


@dataclass
class Look:
    """The appearance of one image, apart from its geometry.

    Colors are linear RGB; directions are unit vectors to the lamp.
    """

    albedo: Float[np.ndarray, "v 3"]  # skin color of each vertex
    lamps: Float[np.ndarray, "2 3"]  # directions in the camera frame
    lamp_colours: Float[np.ndarray, "2 3"]
    sky: Float[np.ndarray, "3"]  # ambient light from above
    ground: Float[np.ndarray, "3"]  # ambient light from below
    gloss: float  # strength of the specular light
    grain: float  # contrast of the fine skin texture
    sleeve_start: float  # meters from the wrist along the forearm; large = bare arm
    sleeve: Float[np.ndarray, "2 3"]  # the cloth's two colors
    stripes: float  # stripes per meter; 0 = plain


def _pack_look(look: Look) -> Float[np.ndarray, " n"]:
    """Flattens a look in the order in which `shade` reads it."""
    parts = (
        look.lamps,
        look.lamp_colours,
        look.sky,
        look.ground,
        look.gloss,
        look.grain,
        look.sleeve_start,
        look.sleeve,
        look.stripes,
    )
    return np.concatenate([np.ravel(p) for p in parts]).astype(np.float32)


@contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Discards native code's standard error output inside the block."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Renderer:
    """Draws one mesh topology and stores what does not change between images.

    Args:
        rest: the template's vertices in meters, the coordinates of the skin's texture.
        faces: the triangles.
        along_arm: distance of each vertex from the wrist towards the elbow, in meters.
        device: Warp's device, "cpu" or "cuda".
        shadow_px: side of the shadow map.

    Raises:
        ValueError: the mesh has too many faces for a key.
    """

    def __init__(
        self,
        rest: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        along_arm: Float[np.ndarray, " v"],
        device: str = "cpu",
        shadow_px: int = 96,
    ) -> None:
        from scipy.sparse import csr_matrix

        with silence_native_stderr():  # Warp reports a missing CUDA driver at any log level
            wp.init()
        if len(faces) >= 1 << 24:
            raise ValueError(f"the rasteriser's key holds 2^24 faces, got {len(faces)}")
        self.device = device
        self.shadow_px = shadow_px
        self.faces = np.ascontiguousarray(faces, np.int32)
        corner = np.arange(3 * len(faces)) // 3
        ones = np.ones(len(corner), np.float32)
        self.vertex_of_face = csr_matrix((ones, (self.faces.ravel(), corner)))
        self._faces: Any = wp.array(self.faces, dtype=wp.vec3i, device=device)
        self._rest = self._array(rest, wp.vec3)
        self._along = self._array(along_arm, float)

    def _array(self, values: np.ndarray, dtype: Any) -> Any:
        return wp.array(np.ascontiguousarray(values, np.float32), dtype=dtype, device=self.device)

    def draw(
        self,
        vertices: Float[np.ndarray, "b v 3"],
        K: Float[np.ndarray, "b 3 3"],
        px: int,
        looks: Sequence[Look],
    ) -> tuple[Float[np.ndarray, "b px px 3"], Float[np.ndarray, "b px px"]]:
        """Draws a batch of px x px pictures.

        Args:
            vertices: meters in the camera frame.
            K: cameras of the px x px pictures.
            px: side of the pictures in pixels.
            looks: one per image.

        Returns:
            Linear RGB, black where empty, and depth in meters, 0 where empty.
        """
        vertices = np.ascontiguousarray(vertices, np.float32)
        count = len(vertices)
        h = np.einsum("bij,bvj->bvi", K, vertices)
        pixels = h[..., :2] / np.maximum(h[..., 2:], 1e-6)
        screen = self._array(np.concatenate([pixels, vertices[..., 2:]], -1), wp.vec3)
        keys = self._keys(screen, 1, count, px)
        by_lamp = [
            self._seen_by_lamp(hand_vertices, look.lamps[0])
            for hand_vertices, look in zip(vertices, looks, strict=True)
        ]
        light_view = self._array(np.stack(by_lamp), wp.vec3)
        light_keys = self._keys(light_view, 0, count, self.shadow_px)
        rgb = wp.zeros((count, px, px), dtype=wp.vec3, device=self.device)
        depth = wp.zeros((count, px, px), dtype=float, device=self.device)
        inputs = [
            self._array(vertices, wp.vec3),
            screen,
            self._array(
                np.stack([self.normals(hand_vertices) for hand_vertices in vertices]), wp.vec3
            ),
            self._rest,
            self._along,
            self._array(np.stack([look.albedo for look in looks]), wp.vec3),
            self._faces,
            keys,
            light_view,
            light_keys,
            self._array(np.stack([_pack_look(look) for look in looks]), float),
            rgb,
            depth,
        ]
        wp.launch(shade, (count, px, px), inputs=inputs, device=self.device)
        return rgb.numpy(), depth.numpy()

    def _keys(self, screen: Any, perspective: int, count: int, px: int) -> Any:
        keys = wp.full((count, px, px), EMPTY, dtype=wp.int64, device=self.device)
        inputs = [screen, self._faces, perspective, keys]
        wp.launch(raster, (count, len(self.faces)), inputs=inputs, device=self.device)
        return keys

    def _seen_by_lamp(self, vertices: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Orthographic view (V, 3): pixels of the shadow map, distance from the lamp in meters."""
        z = -direction
        x = np.cross(z, [0.0, 1.0, 0.3])
        x /= np.linalg.norm(x)
        axes = np.stack([x, np.cross(z, x), z], 1).astype(np.float32)
        v = np.ascontiguousarray(vertices @ axes)
        low, high = v[:, :2].min(0), v[:, :2].max(0)
        v[:, :2] = (v[:, :2] - low) / (high - low).max() * (self.shadow_px - 1)
        return v

    def normals(self, vertices: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
        """Area-weighted vertex normals, not normalized."""
        a, b, c = (vertices[self.faces[:, corner]] for corner in range(3))
        (x, y, z), (u, v, w) = (b - a).T, (c - a).T
        return self.vertex_of_face @ np.stack([y * w - z * v, z * u - x * w, x * v - y * u], 1)


@lru_cache(maxsize=2)
def renderer_of(hand: OpenHand | Mano, device: str = "cpu") -> Renderer:
    """The cached renderer of a hand."""
    return Renderer(hand.template, hand.faces, hand.along_arm, device)
