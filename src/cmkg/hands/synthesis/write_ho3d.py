"""Writes rendered hands in HO-3D's layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from ...runtime.progress import Bar
from ..datasets import ho3d
from ..rendering.scenes import SceneConfig
from .drawing_tools import Counts, photograph_large, save_picture


def part_sizes(count: int) -> Counts:
    """The parts of a set of `count` training pictures, and their sizes."""
    return {"frames": count}


def write_ho3d(root: Path, counts: Counts, seed: int) -> None:
    """Writes two sequences of right hands, one in version 2's layout, one in version 3's.

    Every fifth frame is not annotated.
    """
    config, names = SceneConfig(seed=seed, px=160, margin=1.8), []
    with Bar("made HO-3D", counts["frames"]) as advance:
        for number in range(counts["frames"]):
            sequence, suffix = (("MC1", "png"), ("SM1", "jpg"))[number % 2]
            seen = photograph_large(config, number, left=False)
            home, frame = root / "train" / sequence, f"{number // 2:04d}"
            save_picture(home / f"rgb/{frame}.{suffix}", seen.rgb)
            assert seen.depth_mm is not None
            raw = np.rint(seen.depth_mm / ho3d.DEPTH_UNIT_MM).astype(int)
            two_bytes = np.stack([raw % 256, raw // 256, 0 * raw], -1).astype(np.uint8)
            save_picture(home / f"depth/{frame}.png", two_bytes)
            theirs = np.empty((21, 3), np.float32)
            theirs[ho3d.TO_OUR_ORDER] = seen.joints_mm * ho3d.FROM_OPENGL / 1000
            meta = {
                "camMat": seen.K.astype(np.float32),
                "handJoints3D": None if number % 5 == 4 else theirs,
                "objName": "021_bleach_cleanser",
            }
            (home / "meta").mkdir(exist_ok=True)
            (home / f"meta/{frame}.pkl").write_bytes(pickle.dumps(meta, protocol=2))
            names.append(f"{sequence}/{frame}")
            advance()
    (root / "train.txt").write_text("\n".join(names) + "\n")
