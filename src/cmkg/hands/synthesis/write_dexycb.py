"""Writes rendered hands in DexYCB's layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ...runtime.progress import Bar
from .. import geometry
from ..datasets import dexycb
from ..datasets.sample import Frame
from ..rendering.scenes import SceneConfig
from .drawing_tools import Counts, photograph_large, save_picture

PEOPLE, SEQUENCES = 2, 5


def part_sizes(count: int) -> Counts:
    """The parts of a set of `count` training pictures, and their sizes."""
    sequences = PEOPLE * SEQUENCES * len(dexycb.CAMERAS)
    return {"people": PEOPLE, "sequences": SEQUENCES, "frames": max(count // sequences, 1)}


def write_dexycb(root: Path, counts: Counts, seed: int) -> None:
    """Writes two people, five sequences each, all cameras; each first frame shows no hand."""
    config = SceneConfig(seed=seed, px=160, margin=1.8)
    frames, number = 1 + counts["frames"], 0
    intrinsics = root / "calibration/intrinsics"
    intrinsics.mkdir(parents=True)
    total = counts["people"] * counts["sequences"] * len(dexycb.CAMERAS)
    with Bar("made DexYCB", total) as advance:
        for person in range(counts["people"]):
            for sequence in range(counts["sequences"]):
                folder = (
                    root / f"20200{person}01-subject-{person:02d}/20200{person}01_{sequence:06d}"
                )
                side = "left" if sequence % 2 else "right"
                folder.mkdir(parents=True)
                facts = f"num_frames: {frames}\nmano_sides:\n- {side}\nserials: []\n"
                (folder / "meta.yml").write_text(facts)
                for camera in dexycb.CAMERAS:
                    for frame in range(frames):
                        number += 1
                        seen = photograph_large(config, number, side == "left")
                        _write_dexycb_frame(folder / camera, frame, seen)
                    advance()
    f, cx, cy = 600.0, 319.5, 239.5
    text = f"color: {{fx: {f}, fy: {f}, ppx: {cx}, ppy: {cy}}}\n"
    for camera in dexycb.CAMERAS:
        (intrinsics / f"{camera}_640x480.yml").write_text(text)


def _write_dexycb_frame(folder: Path, frame: int, seen: Frame) -> None:
    """Writes a frame, reprojected because a DexYCB camera has a fixed K."""
    K = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
    joints = seen.joints_mm.copy()
    H = K @ np.linalg.inv(seen.K)
    rgb = cv2.warpPerspective(seen.rgb, H, (640, 480), borderMode=cv2.BORDER_REPLICATE)
    assert seen.depth_mm is not None
    depth = cv2.warpPerspective(seen.depth_mm, H, (640, 480), flags=cv2.INTER_NEAREST)
    uv = geometry.project(joints, K)
    if not frame:
        joints, uv = np.full((21, 3), -1000.0), np.full((21, 2), -1.0)
    save_picture(folder / f"color_{frame:06d}.jpg", rgb)
    save_picture(folder / f"aligned_depth_to_color_{frame:06d}.png", depth)
    metres, pixels = (joints[None] / 1000).astype(np.float32), uv[None].astype(np.float32)
    np.savez(folder / f"labels_{frame:06d}.npz", joint_3d=metres, joint_2d=pixels)
