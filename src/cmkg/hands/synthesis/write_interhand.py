"""Writes rendered hands in InterHand2.6M's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...runtime.progress import Bar
from ..datasets import interhand
from ..rendering.scenes import SceneConfig
from .drawing_tools import Counts, photograph_large, quarter, save_picture


def part_sizes(count: int) -> Counts:
    """The parts of a set of `count` training pictures, and their sizes."""
    return {"train": count, "val": quarter(count), "test": quarter(count)}


def write_interhand(root: Path, counts: Counts, seed: int) -> None:
    """Writes pictures of one hand each, right or left; the other hand's joints are invalid."""
    config = SceneConfig(seed=seed, px=160, margin=1.8)
    first = 0
    for split in interhand.SPLITS:
        images, annotations = [], []
        joints: dict[str, Any] = {}
        camera: dict[str, Any] = {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
        with Bar(f"made {split}", counts[split]) as advance:
            for i in range(counts[split]):
                left = i % 2 == 1
                seen = photograph_large(config, first + i, left)
                file = f"Capture0/cam{i}/image{i:05d}.jpg"
                save_picture(root / "images" / split / file, seen.rgb)
                R = cv2.Rodrigues(np.array([0.1, -0.2, 0.05 * i]))[0]
                position = np.array([100.0, -50.0, 20.0])
                world, valid = np.zeros((42, 3)), np.zeros((42, 1), int)
                rows = interhand.FIRST["left" if left else "right"] + interhand.TO_OUR_ORDER
                world[rows], valid[rows] = seen.joints_mm @ R + position, 1
                place = {"capture": 0, "camera": f"cam{i}", "frame_idx": i}
                images.append({"id": i, "file_name": file, "width": 640, "height": 480} | place)
                kind = "left" if left else "right"
                facts = {"id": i, "image_id": i, "hand_type": kind, "joint_valid": valid.tolist()}
                annotations.append(facts)
                joints[str(i)] = {"world_coord": world.tolist(), "joint_valid": valid.tolist()}
                K = seen.K
                camera["campos"][f"cam{i}"], camera["camrot"][f"cam{i}"] = (
                    position.tolist(),
                    R.tolist(),
                )
                camera["focal"][f"cam{i}"] = [K[0, 0], K[1, 1]]
                camera["princpt"][f"cam{i}"] = [K[0, 2], K[1, 2]]
                advance()
        home = root / "annotations" / split
        home.mkdir(parents=True)
        whole = {
            "data": {"images": images, "annotations": annotations},
            "camera": {"0": camera},
            "joint_3d": {"0": joints},
        }
        for kind, content in whole.items():
            (home / f"InterHand2.6M_{split}_{kind}.json").write_text(json.dumps(content))
        first += counts[split]
