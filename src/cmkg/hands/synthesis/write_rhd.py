"""Writes rendered hands in RHD's layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from ...runtime.progress import Bar
from .. import geometry
from ..datasets import rhd
from ..rendering.people import stream
from ..rendering.scenes import Drawn, SceneConfig, scene_of
from .drawing_tools import FLIP, Counts, photograph_scene, quarter, save_picture

NOTHING_MEASURED = 65535  # the saturated background depth of RHD


def part_sizes(count: int) -> Counts:
    """The parts of a set of `count` training pictures, and their sizes."""
    return {"training": count, "evaluation": quarter(count)}


def write_rhd(root: Path, counts: Counts, seed: int) -> None:
    """Writes the dataset."""
    config = SceneConfig(seed=seed, px=320, margin=2.0)
    first = 0
    for split, count in counts.items():
        labels = {}
        with Bar(f"made {split}", count) as advance:
            for i in range(count):
                drawn = photograph_scene(scene_of(config, first + i), 320, noisy_depth=False)
                rng = stream("rhd", seed, first + i)
                labels[i] = _write_rhd_frame(root / split, i, drawn, i % 2 == 1, rng)
                advance()
        path = root / split / f"anno_{split}.pickle"
        path.write_bytes(pickle.dumps(labels, protocol=2))
        first += count


def _write_rhd_frame(
    folder: Path, i: int, drawn: Drawn, left: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    rgb, joints, K = drawn.rgb, drawn.joints_mm, drawn.K
    depth_mm, seen = drawn.depth, drawn.mask
    if left:
        rgb, joints, K = geometry.mirror(rgb, joints, K)
        depth_mm, seen = depth_mm[:, ::-1], seen[:, ::-1]
    scaled = np.rint(depth_mm / 5000 * 65535)
    raw = np.where(depth_mm > 0, scaled, NOTHING_MEASURED).astype(int)
    two_bytes = np.stack([raw // 256, raw % 256, 0 * raw], -1).astype(np.uint8)
    palm = (rhd.LEFT_PARTS if left else rhd.RIGHT_PARTS)[1]
    save_picture(folder / f"color/{i:05d}.png", rgb)
    save_picture(folder / f"depth/{i:05d}.png", two_bytes)
    save_picture(folder / f"mask/{i:05d}.png", (seen * palm).astype(np.uint8))
    other = joints * FLIP + [0, 0, 400.0]
    xyz, uv_vis = np.zeros((42, 3)), np.zeros((42, 3))
    hands = ((0, joints if left else other, left), (rhd.RIGHT, other if left else joints, not left))
    for start, points, shown in hands:
        rows = start + rhd.TO_OUR_ORDER
        xyz[rows] = points / 1000
        uv_vis[rows, :2] = geometry.project(points, K)
        uv_vis[rows, 2] = shown * (rng.random(21) > 0.1)
    labels = {"uv_vis": uv_vis, "xyz": xyz, "K": K}
    return {name: values.astype(np.float32) for name, values in labels.items()}
