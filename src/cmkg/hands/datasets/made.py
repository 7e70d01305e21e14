"""Made data in each dataset's exact layout, from rendered hands: for trying things out, for
`--quick`, for tests.

made.json in the folder gives the counts, and marks every set that is packed from it as made.
"""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ...engine import Bar, write_json
from ...errors import InputError
from .. import backgrounds, geometry
from ..scenes import SceneConfig, photographed, scene, sequence_scene, stream
from . import freihand, rhd, stb


def make(dataset, root, count=40, seed=0):
    """Writes `count` made training pictures (and a quarter as many for evaluation) of rhd, stb
    or freihand to `root`."""
    root, quarter = Path(root), max(count // 4, 1)
    writers = {
        "rhd": (_write_rhd, {"training": count, "evaluation": quarter}),
        "stb": (_write_stb, {"frames": max(count // 10, 1)}),
        "freihand": (
            _write_freihand,
            {"training": count + quarter, "paper_train": count, "evaluation": quarter},
        ),
    }
    write, counts = writers[dataset]
    facts = {"dataset": dataset, "seed": seed} | counts
    if root.exists():
        held = root / "made.json"
        if not held.exists() or json.loads(held.read_text()) != facts:
            raise InputError(
                f"{root}: is there already and holds something else; choose another folder or "
                "remove this one"
            )
        return counts
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial, counts, seed)
    write_json(partial / "made.json", facts)
    os.replace(partial, root)
    return counts


def _save(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    if not cv2.imwrite(str(path), image):
        raise OSError(28, "could not be written", str(path))


def _render(config, scenes, px):
    return photographed(config, scenes, px, supersampling=1)


# ---- RHD -----------------------------------------------------------------------------------------
def _write_rhd(root, counts, seed):
    config = SceneConfig(seed=seed, px=320, margin=2.0, noisy_depth=False)
    first = 0
    for split, count in counts.items():
        labels = {}
        with Bar(f"made {split}", count) as advance:
            for i in range(count):
                drawn = _render(config, [scene(config, first + i)], 320)[0]
                labels[i] = _write_rhd_frame(
                    root / split, i, drawn, left=i % 2 == 1, rng=stream("rhd", seed, first + i)
                )
                advance()
        (root / split / f"anno_{split}.pickle").write_bytes(pickle.dumps(labels, protocol=2))
        first += count


def _write_rhd_frame(folder, i, drawn, left, rng):
    rgb, depth_mm, K, joints, seen = (drawn[k] for k in ("rgb", "depth", "K", "joints_mm", "mask"))
    if left:
        rgb, joints, K = geometry.mirror(rgb, joints, K)
        depth_mm, seen = depth_mm[:, ::-1], seen[:, ::-1]
    raw = np.where(depth_mm > 0, np.rint(depth_mm / 5000 * 65535), 65535).astype(int)
    _save(folder / f"color/{i:05d}.png", rgb)
    _save(
        folder / f"depth/{i:05d}.png",
        np.stack([raw // 256, raw % 256, 0 * raw], -1).astype(np.uint8),
    )
    _save(
        folder / f"mask/{i:05d}.png",
        (seen * (rhd.LEFT_PARTS if left else rhd.RIGHT_PARTS)[1]).astype(np.uint8),
    )
    other = joints * [-1, 1, 1] + [0, 0, 400.0]
    xyz, uv_vis = np.zeros((42, 3)), np.zeros((42, 3))
    for start, points, shown in (
        (0, joints if left else other, left),
        (rhd.RIGHT, other if left else joints, not left),
    ):
        xyz[start + rhd.TO_OUR_ORDER] = points / 1000
        uv_vis[start + rhd.TO_OUR_ORDER, :2] = geometry.project(points, K)
        uv_vis[start + rhd.TO_OUR_ORDER, 2] = shown * (rng.random(21) > 0.1)
    return {
        "uv_vis": uv_vis.astype(np.float32),
        "xyz": xyz.astype(np.float32),
        "K": K.astype(np.float32),
    }


# ---- STB -----------------------------------------------------------------------------------------
def _write_stb(root, counts, seed):
    from scipy.io import savemat  # here: it would slow the start of every command

    frames = counts["frames"]
    config = SceneConfig(
        seed=seed, px=640, sequences=len(stb.SEQUENCES), frames=frames, noisy_depth=False
    )
    (root / "labels").mkdir()
    with Bar("made STB", len(stb.SEQUENCES) * frames) as advance:
        for s, sequence in enumerate(stb.SEQUENCES):
            labels = {"BB": [], "SK": []}
            for frame in range(frames):
                found = sequence_scene(config, s * frames + frame)
                bb, sk = _write_stb_frame(root / "images" / sequence, frame, found, config)
                labels["BB"].append(bb)
                labels["SK"].append(sk)
                advance()
            for pair, joints in labels.items():
                savemat(root / f"labels/{sequence}_{pair}.mat", {"handPara": np.stack(joints, -1)})


def _write_stb_frame(folder, frame, found, config):
    """Four pictures of one left hand; returns the BB and the SK label, each (3, 21)."""
    flip = np.array([-1.0, 1.0, 1.0])
    # as the left camera sees them
    left = (found.vertices @ found.rotation) * flip, (found.joints @ found.rotation) * flip
    right = [a - [stb.BASELINE_MM / 1000, 0, 0] for a in left]
    deep = [a @ stb.SK_ROTATION.T + stb.SK_TRANSLATION_MM / 1000 for a in left]
    views = {
        "BB_left": (left, stb.BB_K),
        "BB_right": (right, stb.BB_K),
        "SK_color": (left, stb.SK_K),
        "SK_depth": (deep, stb.SK_DEPTH_K),
    }
    behind = cv2.resize(found.behind, (640, 640))
    for name, ((vertices, joints), K) in views.items():
        K = K.copy()
        K[0, 2] = 639 - K[0, 2]  # the renderer's hand is a right one: drawn in a mirror
        mirrored = replace(
            found, vertices=vertices * flip, joints=joints * flip, K=K, behind=behind
        )
        drawn = _render(config, [mirrored], 640)[0]
        rgb, depth = drawn["rgb"][:480, ::-1], drawn["depth"][:480, ::-1].astype(int)
        _save(
            folder / f"{name}_{frame}.png",
            rgb
            if name != "SK_depth"
            else np.stack([depth % 256, depth // 256, 0 * depth], -1).astype(np.uint8),
        )
    return [_stb_label(1000 * joints) for _, joints in (left, deep)]


def _stb_label(joints_mm):
    """Ours -> theirs (3, 21): the wrist becomes the palm's centre by the default convention."""
    palm = joints_mm.copy()
    palm[0] = joints_mm[13] + (joints_mm[0] - joints_mm[13]) / 2.0
    theirs = np.empty((21, 3))
    theirs[stb.TO_OUR_ORDER] = palm
    return theirs.T


# ---- FreiHAND ------------------------------------------------------------------------------------
def _write_freihand(root, counts, seed):
    first = 0
    for part, count in (("training", counts["training"]), ("evaluation", counts["evaluation"])):
        config = SceneConfig(seed=seed, px=224, margin=1.25)
        labels = {name: [] for name in freihand.SHAPES}
        with Bar(f"made {part}", count) as advance:
            for i in range(count):
                for domain in range(len(freihand.DOMAINS) if part == "training" else 1):
                    found = scene(config, first + i)
                    drawn = _render(
                        config, [replace(found, behind=_behind(part, domain, seed, first + i))], 224
                    )[0]
                    _save(root / part / f"rgb/{i + count * domain:08d}.jpg", drawn["rgb"])
                    if part == "training" and domain == 0:
                        _save(root / part / f"mask/{i:08d}.jpg", 255 * drawn["mask"])
                xyz = drawn["joints_mm"] / 1000
                for name, value in (
                    ("K", drawn["K"]),
                    ("xyz", xyz),
                    ("scale", np.linalg.norm(xyz[9] - xyz[10])),
                    ("mano", np.zeros((1, 61))),
                ):
                    labels[name].append(np.asarray(value).tolist())
                advance()
        for name, values in labels.items():
            (root / f"{part}_{name}.json").write_text(json.dumps(values))
        first += count


def _behind(part, domain, seed, index):
    if part == "training" and domain == 0:
        return np.full((224, 224, 3), [40.0, 170.0, 60.0], np.float32)
    rng = stream("behind", seed, index, domain)
    return backgrounds.background(rng, backgrounds.photographs(None), 224).astype(np.float32)
