"""Vertices -> RGB, depth and mask: a z-buffer rasteriser in NVIDIA Warp, the same kernels on CPU
and CUDA.

Each image is independent of its batch. Per (image, triangle) a packed key (depth in micrometres,
face) goes through `atomic_min`, so that the result does not depend on the order of the threads;
per (image, pixel) the nearest triangle is shaded: wrapped diffuse and specular light from two
lamps with a shadow map for the first, ambient light from above and below, a skin texture that
sticks to the hand, a sleeve.
"""

# Warp reads the annotations of kernels: no `from __future__ import annotations` here.
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
from ..body.mesh import Hand

wp.config.log_level = logging.ERROR
FAR = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))
EMPTY = 0x7FFFFFFFFFFFFFFF


@dataclass
class Look:
    """What one image looks like beside its geometry. Colours are linear RGB, directions unit
    vectors to the lamp."""

    albedo: Float[np.ndarray, "v 3"]  # skin of each vertex
    lamps: Float[np.ndarray, "2 3"]  # directions in the camera frame
    lamp_colours: Float[np.ndarray, "2 3"]
    sky: Float[np.ndarray, "3"]  # ambient light from above
    ground: Float[np.ndarray, "3"]  # ambient light from below
    gloss: float  # strength of the specular light
    grain: float  # contrast of the fine skin texture
    sleeve_start: float  # metres from the wrist along the forearm; large = bare arm
    sleeve: Float[np.ndarray, "2 3"]  # the cloth's two colours
    stripes: float  # stripes per metre; 0 = plain


def _pack_look(look: Look) -> Float[np.ndarray, " n"]:
    """The numbers of a look, in the order in which `shade` reads them."""
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


@wp.func
def edge(a: wp.vec3, b: wp.vec3, x: float, y: float):
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.kernel
def raster(
    screen: wp.array2d(dtype=wp.vec3),  # x, y in pixels; z
    faces: wp.array(dtype=wp.vec3i),
    perspective: int,
    keys: wp.array3d(dtype=wp.int64),
):
    image, f = wp.tid()
    a = screen[image, faces[f][0]]
    b = screen[image, faces[f][1]]
    c = screen[image, faces[f][2]]
    area = edge(a, b, c[0], c[1])
    if perspective == 1 and wp.min(a[2], wp.min(b[2], c[2])) < 1.0e-3:
        return
    if wp.abs(area) < 1.0e-9:
        return
    x0 = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])))), 0)
    x1 = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])))), keys.shape[2] - 1)
    y0 = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])))), 0)
    y1 = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])))), keys.shape[1] - 1)
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            u = edge(b, c, float(x), float(y)) / area
            v = edge(c, a, float(x), float(y)) / area
            w = 1.0 - u - v
            if u >= 0.0 and v >= 0.0 and w >= 0.0:
                z = u * a[2] + v * b[2] + w * c[2]
                if perspective == 1:
                    z = 1.0 / (u / a[2] + v / b[2] + w / c[2])
                key = (wp.int64(z * 1.0e6 + 1.0e7) << wp.int64(24)) | wp.int64(f)
                wp.atomic_min(keys, image, y, x, key)


@wp.func
def hash01(x: int, y: int, z: int):
    n = (
        wp.uint32(x) * wp.uint32(374761393)
        + wp.uint32(y) * wp.uint32(668265263)
        + wp.uint32(z) * wp.uint32(2147483647)
    )
    n = (n ^ (n >> wp.uint32(13))) * wp.uint32(1274126177)
    n = n ^ (n >> wp.uint32(16))
    return float(n & wp.uint32(65535)) / 65535.0


@wp.func
def value_noise(p: wp.vec3):
    x = int(wp.floor(p[0]))
    y = int(wp.floor(p[1]))
    z = int(wp.floor(p[2]))
    fx = p[0] - wp.floor(p[0])
    fy = p[1] - wp.floor(p[1])
    fz = p[2] - wp.floor(p[2])
    a = wp.lerp(
        wp.lerp(hash01(x, y, z), hash01(x + 1, y, z), fx),
        wp.lerp(hash01(x, y + 1, z), hash01(x + 1, y + 1, z), fx),
        fy,
    )
    b = wp.lerp(
        wp.lerp(hash01(x, y, z + 1), hash01(x + 1, y, z + 1), fx),
        wp.lerp(hash01(x, y + 1, z + 1), hash01(x + 1, y + 1, z + 1), fx),
        fy,
    )
    return wp.lerp(a, b, fz) - 0.5


@wp.kernel
def shade(
    camera: wp.array2d(dtype=wp.vec3),  # vertices in the camera frame, metres
    screen: wp.array2d(dtype=wp.vec3),
    normals: wp.array2d(dtype=wp.vec3),
    rest: wp.array(dtype=wp.vec3),  # the template: where the texture lives
    along_arm: wp.array(dtype=float),
    albedo: wp.array2d(dtype=wp.vec3),
    faces: wp.array(dtype=wp.vec3i),
    keys: wp.array3d(dtype=wp.int64),
    light_view: wp.array2d(dtype=wp.vec3),
    light_keys: wp.array3d(dtype=wp.int64),
    look: wp.array2d(dtype=float),
    rgb: wp.array3d(dtype=wp.vec3),
    depth: wp.array3d(dtype=float),
):
    image, y, x = wp.tid()
    key = keys[image, y, x]
    if key == FAR:
        return
    f = faces[int(key & wp.int64(16777215))]
    a = screen[image, f[0]]
    b = screen[image, f[1]]
    c = screen[image, f[2]]
    area = edge(a, b, c[0], c[1])
    u = edge(b, c, float(x), float(y)) / area
    v = edge(c, a, float(x), float(y)) / area
    z = 1.0 / (u / a[2] + v / b[2] + (1.0 - u - v) / c[2])
    u = u * z / a[2]
    v = v * z / b[2]
    w = 1.0 - u - v
    depth[image, y, x] = z
    n = wp.normalize(u * normals[image, f[0]] + v * normals[image, f[1]] + w * normals[image, f[2]])
    p = u * camera[image, f[0]] + v * camera[image, f[1]] + w * camera[image, f[2]]
    view = -wp.normalize(p)
    if wp.dot(n, view) < 0.0:
        n = -n
    q = u * rest[f[0]] + v * rest[f[1]] + w * rest[f[2]]
    skin = u * albedo[image, f[0]] + v * albedo[image, f[1]] + w * albedo[image, f[2]]
    arm = u * along_arm[f[0]] + v * along_arm[f[1]] + w * along_arm[f[2]]
    grain = value_noise(q * 180.0) + value_noise(q * 500.0) + 0.5 * value_noise(q * 1100.0)
    skin = skin * (1.0 + look[image, 19] * grain)
    gloss = look[image, 18]
    if arm > look[image, 20] + 0.004 * value_noise(q * 60.0):
        gloss = 0.0
        skin = wp.vec3(look[image, 21], look[image, 22], look[image, 23])
        if look[image, 27] > 0.0 and wp.sin(6.2832 * look[image, 27] * arm) > 0.0:
            skin = wp.vec3(look[image, 24], look[image, 25], look[image, 26])
        skin = skin * (1.0 + 0.5 * value_noise(q * 90.0) + 0.4 * value_noise(q * 900.0))
    up = 0.5 - 0.5 * n[1]
    light = wp.vec3(
        wp.lerp(look[image, 15], look[image, 12], up),
        wp.lerp(look[image, 16], look[image, 13], up),
        wp.lerp(look[image, 17], look[image, 14], up),
    )
    shine = wp.vec3(0.0, 0.0, 0.0)
    for lamp in range(2):
        d = wp.vec3(look[image, 3 * lamp], look[image, 3 * lamp + 1], look[image, 3 * lamp + 2])
        colour = wp.vec3(
            look[image, 6 + 3 * lamp], look[image, 7 + 3 * lamp], look[image, 8 + 3 * lamp]
        )
        lit = 1.0
        if lamp == 0:
            s = (
                u * light_view[image, f[0]]
                + v * light_view[image, f[1]]
                + w * light_view[image, f[2]]
            )
            blocked = 0.0
            for dy in range(2):
                for dx in range(2):
                    sx = wp.clamp(int(s[0]) + dx, 0, light_keys.shape[2] - 1)
                    sy = wp.clamp(int(s[1]) + dy, 0, light_keys.shape[1] - 1)
                    nearest = light_keys[image, sy, sx]
                    if (
                        nearest != FAR
                        and s[2] - (float(nearest >> wp.int64(24)) * 1.0e-6 - 10.0) > 0.006
                    ):
                        blocked += 0.25
            lit = 1.0 - blocked
        # Light scattered below the skin softens the terminator and reddens it.
        cosine = wp.dot(n, d)
        wrapped = wp.vec3(
            wp.max((cosine + 0.35) / 1.35, 0.0),
            wp.max((cosine + 0.18) / 1.18, 0.0),
            wp.max((cosine + 0.12) / 1.12, 0.0),
        )
        light = light + lit * wp.cw_mul(colour, wrapped)
        h = wp.normalize(d + view)
        shine = shine + lit * gloss * wp.pow(wp.max(wp.dot(n, h), 0.0), 18.0) * colour
    rgb[image, y, x] = wp.cw_mul(skin, light) + shine


@contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Discards what native code writes to standard error inside the block."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Renderer:
    """Draws one mesh topology. Holds what does not change from image to image.

    Args:
        rest: the template's vertices, metres: where the skin's texture lives.
        faces: triangles.
        along_arm: metres of each vertex from the wrist towards the elbow.
        device: of Warp, "cpu" or "cuda".
        shadow_px: side of the shadow map.

    Raises:
        ValueError: the mesh has more faces than a key holds.
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

        with silence_native_stderr():  # Warp reports a missing CUDA driver past every log level
            wp.init()
        if len(faces) >= 1 << 24:
            raise ValueError(f"the rasteriser's key holds 2^24 faces, got {len(faces)}")
        self.device = device
        self.shadow_px = shadow_px
        self.faces = np.ascontiguousarray(faces, np.int32)
        corner = np.arange(3 * len(faces)) // 3
        ones = np.ones(len(corner), np.float32)
        self.vertex_of_face = csr_matrix((ones, (self.faces.ravel(), corner)))
        self._faces = wp.array(self.faces, dtype=wp.vec3i, device=device)
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
            vertices: metres in the camera frame.
            K: cameras of the px x px pictures.
            px: pixels a side.
            looks: one an image.

        Returns:
            Linear RGB, black where empty, and depth in metres, 0 where empty.
        """
        vertices = np.ascontiguousarray(vertices, np.float32)
        count = len(vertices)
        h = np.einsum("bij,bvj->bvi", K, vertices)
        pixels = h[..., :2] / np.maximum(h[..., 2:], 1e-6)
        screen = self._array(np.concatenate([pixels, vertices[..., 2:]], -1), wp.vec3)
        keys = self._keys(screen, 1, count, px)
        by_lamp = [
            self._seen_by_lamp(one, look.lamps[0])
            for one, look in zip(vertices, looks, strict=True)
        ]
        light_view = self._array(np.stack(by_lamp), wp.vec3)
        light_keys = self._keys(light_view, 0, count, self.shadow_px)
        rgb = wp.zeros((count, px, px), dtype=wp.vec3, device=self.device)
        depth = wp.zeros((count, px, px), dtype=float, device=self.device)
        inputs = [
            self._array(vertices, wp.vec3),
            screen,
            self._array(np.stack([self.normals(one) for one in vertices]), wp.vec3),
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
        """Orthographic view (V, 3): pixels of the shadow map, distance from the lamp in metres."""
        z = -direction
        x = np.cross(z, [0.0, 1.0, 0.3])
        x /= np.linalg.norm(x)
        axes = np.stack([x, np.cross(z, x), z], 1).astype(np.float32)
        v = np.ascontiguousarray(vertices @ axes)
        low, high = v[:, :2].min(0), v[:, :2].max(0)
        v[:, :2] = (v[:, :2] - low) / (high - low).max() * (self.shadow_px - 1)
        return v

    def normals(self, vertices: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
        """Area-weighted vertex normals, not normalised."""
        a, b, c = (vertices[self.faces[:, corner]] for corner in range(3))
        (x, y, z), (u, v, w) = (b - a).T, (c - a).T
        return self.vertex_of_face @ np.stack([y * w - z * v, z * u - x * w, x * v - y * u], 1)


@lru_cache(maxsize=2)
def renderer_of(hand: Hand | Mano, device: str = "cpu") -> Renderer:
    """The renderer of a hand, made once."""
    return Renderer(hand.template, hand.faces, hand.along_arm, device)
