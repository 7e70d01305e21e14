"""Writes rendered hands as a folder of recordings (docs/recordings.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.progress import Bar
from .. import geometry
from ..rendering.people import stream
from ..rendering.scenes import Drawn, SceneConfig, scene_of
from .drawing_tools import Counts, photograph_scene, save_picture

FOLDER_SEQUENCES = 5


FOLDER_SIZE = (240, 320)


def part_sizes(count: int) -> Counts:
    """The parts of a set of `count` training pictures, and their sizes."""
    return {"records": max(count, FOLDER_SEQUENCES)}


def write_folder(root: Path, counts: Counts, seed: int) -> None:
    """Writes RGB-D pairs of both hands in five sequences, the last one the test; some unlabeled."""
    config = SceneConfig(seed=seed, px=FOLDER_SIZE[1], margin=1.6)
    count, records = counts["records"], []
    with Bar("made recordings", count) as advance:
        for i in range(count):
            drawn = photograph_scene(scene_of(config, i), FOLDER_SIZE[1], noisy_depth=True)
            records.append(_write_record(root, i, drawn, stream("folder", seed, i)))
            sequence = i * FOLDER_SEQUENCES // count
            is_test = sequence == FOLDER_SEQUENCES - 1
            records[-1] |= {"sequence": f"s{sequence}", "split": "test" if is_test else "train"}
            if not is_test and i % 4:  # three out of four training pairs have no label
                del records[-1]["joints_mm"]
            advance()
    shared = {"depth_unit_mm": 1.0, "samples": records}
    (root / "joints.json").write_text(json.dumps(shared, indent=1))


def _write_record(root: Path, i: int, drawn: Drawn, rng: np.random.Generator) -> dict[str, Any]:
    rgb, joints, K, depth = drawn.rgb, drawn.joints_mm, drawn.K, drawn.depth
    left = rng.random() < 0.5
    if left:
        rgb, joints, K = geometry.mirror(rgb, joints, K)
        depth = depth[:, ::-1]
    top = (FOLDER_SIZE[1] - FOLDER_SIZE[0]) // 2
    rows = slice(top, top + FOLDER_SIZE[0])
    K = K - np.array([[0, 0, 0], [0, 0, top], [0, 0, 0]])
    save_picture(root / f"rgb/{i:05d}.jpg", rgb[rows])
    save_picture(root / f"depth/{i:05d}.png", np.ascontiguousarray(depth[rows]))
    (x, y), side = geometry.crop_box(geometry.project(joints, K))
    return {
        "image": f"rgb/{i:05d}.jpg",
        "depth": f"depth/{i:05d}.png",
        "K": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        "side": "left" if left else "right",
        "box": [round(v, 1) for v in (x - side / 2, y - side / 2, side, side)],
        "joints_mm": joints.round(2).tolist(),
    }
