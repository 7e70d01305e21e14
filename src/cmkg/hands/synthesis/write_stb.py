"""Writes rendered hands in STB's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from ...runtime.progress import Bar
from ..datasets import stb
from ..rendering.scenes import Scene, SceneConfig, sequence_scene
from .drawing_tools import FLIP, Counts, photograph_scene, save_picture


def part_sizes(count: int) -> Counts:
    """The parts of a set of `count` training pictures, and their sizes."""
    return {"frames": max(count // 10, 1)}


def write_stb(root: Path, counts: Counts, seed: int) -> None:
    """Writes the dataset."""
    from scipy.io import savemat  # imported here because it would slow down every command

    frames = counts["frames"]
    config = SceneConfig(seed=seed, px=640, sequences=len(stb.SEQUENCES), frames=frames)
    (root / "labels").mkdir()
    with Bar("made STB", len(stb.SEQUENCES) * frames) as advance:
        for number, sequence in enumerate(stb.SEQUENCES):
            labels: dict[str, list[np.ndarray]] = {"BB": [], "SK": []}
            for frame in range(frames):
                scene = sequence_scene(config, number * frames + frame)
                bb, sk = _write_stb_frame(root / "images" / sequence, frame, scene)
                labels["BB"].append(bb)
                labels["SK"].append(sk)
                advance()
            for pair, joints in labels.items():
                path = root / f"labels/{sequence}_{pair}.mat"
                savemat(path, {"handPara": np.stack(joints, -1)})


def _write_stb_frame(folder: Path, frame: int, scene: Scene) -> list[np.ndarray]:
    """Writes four pictures of one left hand; returns the BB and the SK label, each (3, 21)."""
    shift = np.array([stb.BASELINE_MM / 1000, 0, 0])
    translation = stb.SK_TRANSLATION_MM / 1000
    # As seen by the left camera, the right camera and the depth camera.
    left = [(points @ scene.rotation) * FLIP for points in (scene.vertices, scene.joints)]
    right = [points - shift for points in left]
    deep = [points @ stb.SK_ROTATION.T + translation for points in left]
    views = {
        "BB_left": (left, stb.BB_K),
        "BB_right": (right, stb.BB_K),
        "SK_color": (left, stb.SK_K),
        "SK_depth": (deep, stb.SK_DEPTH_K),
    }
    behind = cv2.resize(scene.behind, (640, 640))
    for name, ((vertices, joints), camera) in views.items():
        K = camera.copy()
        K[0, 2] = 639 - K[0, 2]  # the rendered hand is a right one, so the picture is mirrored
        mirrored = replace(
            scene, vertices=vertices * FLIP, joints=joints * FLIP, K=K, behind=behind
        )
        drawn = photograph_scene(mirrored, 640, noisy_depth=False)
        picture = drawn.rgb[:480, ::-1]
        if name == "SK_depth":
            depth = drawn.depth[:480, ::-1].astype(int)
            picture = np.stack([depth % 256, depth // 256, 0 * depth], -1).astype(np.uint8)
        save_picture(folder / f"{name}_{frame}.png", picture)
    return [_stb_label(1000 * joints) for _, joints in (left, deep)]


def _stb_label(joints_mm: Float[np.ndarray, "21 3"]) -> Float[np.ndarray, "3 21"]:
    """Our joints in STB's format: the wrist becomes the palm's center by the default convention."""
    ring = joints_mm[stb.RING_MCP]
    palm = joints_mm.copy()
    palm[0] = ring + (joints_mm[0] - ring) / 2.0
    theirs = np.empty((21, 3))
    theirs[stb.TO_OUR_ORDER] = palm
    return theirs.T
