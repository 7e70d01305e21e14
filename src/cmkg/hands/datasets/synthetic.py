"""Made data in each dataset's exact layout, from rendered hands.

For trying things out, for `--quick`, for tests. made.json in the folder gives the counts, and marks
every set that is packed from it as made.
"""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from ...errors import InputError
from ...runtime.files import PathLike, read_json, write_json
from ...runtime.partial_folders import begin_anew, rename_whole
from ...runtime.progress import Bar
from .. import geometry
from ..body.mesh import anny_hand
from ..rendering.backgrounds import background, photographs
from ..rendering.scenes import (
    Drawn,
    Scene,
    SceneConfig,
    photograph_scenes,
    scene_of,
    sequence_scene,
    stream,
)
from . import dexycb, freihand, ho3d, interhand, rhd, stb
from .sample import Frame

Counts = dict[str, int]
FLIP = np.array([-1.0, 1.0, 1.0])
GREEN = [40.0, 170.0, 60.0]
NOTHING_MEASURED = 65535  # RHD's background saturates


def make_dataset(dataset: str, root: PathLike, count: int = 40, seed: int = 0) -> Counts:
    """Writes `count` made training pictures, and a quarter as many for evaluation, to `root`.

    Args:
        dataset: "folder", "rhd", "stb", "freihand", "dexycb", "ho3d" or "interhand".
        root: the folder to write.
        count: training pictures.
        seed: of the scenes.

    Returns:
        What was made: {part: count}.

    Raises:
        InputError: the folder is there and holds something else.
    """
    root, quarter = Path(root), max(count // 4, 1)
    sequences = MADE_PEOPLE * MADE_SEQUENCES * len(dexycb.CAMERAS)
    known: dict[str, tuple[Callable[[Path, Counts, int], None], Counts]] = {
        "folder": (_write_folder, {"records": max(count, FOLDER_SEQUENCES)}),
        "rhd": (_write_rhd, {"training": count, "evaluation": quarter}),
        "stb": (_write_stb, {"frames": max(count // 10, 1)}),
        "freihand": (
            _write_freihand,
            {"training": count + quarter, "paper_train": count, "evaluation": quarter},
        ),
        "dexycb": (
            _write_dexycb,
            {
                "people": MADE_PEOPLE,
                "sequences": MADE_SEQUENCES,
                "frames": max(count // sequences, 1),
            },
        ),
        "ho3d": (_write_ho3d, {"frames": count}),
        "interhand": (_write_interhand, {"train": count, "val": quarter, "test": quarter}),
    }
    write, counts = known[dataset]
    facts = {"dataset": dataset, "seed": seed} | counts
    if root.exists():
        held = root / "made.json"
        if not held.exists() or read_json(held) != facts:
            raise InputError(
                f"{root}: is there already and holds something else; choose another folder or "
                "remove this one"
            )
        return counts
    partial = root.with_name(root.name + ".partial")
    begin_anew(partial)
    write(partial, counts, seed)
    write_json(partial / "made.json", facts)
    rename_whole(partial, root)
    return counts


def _save_picture(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    if not cv2.imwrite(str(path), image):
        raise OSError(errno.ENOSPC, "could not be written", str(path))


def _photograph(scene: Scene, px: int, noisy_depth: bool) -> Drawn:
    return photograph_scenes([scene], anny_hand(), px, noisy_depth, supersampling=1)[0]


# ---- RHD -----------------------------------------------------------------------------------------
def _write_rhd(root: Path, counts: Counts, seed: int) -> None:
    config = SceneConfig(seed=seed, px=320, margin=2.0)
    first = 0
    for split, count in counts.items():
        labels = {}
        with Bar(f"made {split}", count) as advance:
            for i in range(count):
                drawn = _photograph(scene_of(config, first + i), 320, noisy_depth=False)
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
    _save_picture(folder / f"color/{i:05d}.png", rgb)
    _save_picture(folder / f"depth/{i:05d}.png", two_bytes)
    _save_picture(folder / f"mask/{i:05d}.png", (seen * palm).astype(np.uint8))
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


# ---- STB -----------------------------------------------------------------------------------------
def _write_stb(root: Path, counts: Counts, seed: int) -> None:
    from scipy.io import savemat  # here: it would slow the start of every command

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
    # As the left camera, the right camera and the depth camera see them.
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
        K[0, 2] = 639 - K[0, 2]  # the renderer's hand is a right one: drawn in a mirror
        mirrored = replace(
            scene, vertices=vertices * FLIP, joints=joints * FLIP, K=K, behind=behind
        )
        drawn = _photograph(mirrored, 640, noisy_depth=False)
        picture = drawn.rgb[:480, ::-1]
        if name == "SK_depth":
            depth = drawn.depth[:480, ::-1].astype(int)
            picture = np.stack([depth % 256, depth // 256, 0 * depth], -1).astype(np.uint8)
        _save_picture(folder / f"{name}_{frame}.png", picture)
    return [_stb_label(1000 * joints) for _, joints in (left, deep)]


def _stb_label(joints_mm: Float[np.ndarray, "21 3"]) -> Float[np.ndarray, "3 21"]:
    """Ours as theirs: the wrist becomes the palm's centre by the default convention."""
    ring = joints_mm[stb.RING_MCP]
    palm = joints_mm.copy()
    palm[0] = ring + (joints_mm[0] - ring) / 2.0
    theirs = np.empty((21, 3))
    theirs[stb.TO_OUR_ORDER] = palm
    return theirs.T


# ---- FreiHAND ------------------------------------------------------------------------------------
def _write_freihand(root: Path, counts: Counts, seed: int) -> None:
    config = SceneConfig(seed=seed, px=224, margin=1.25)
    first = 0
    for part, domains in (("training", freihand.DOMAINS), ("evaluation", ("gs",))):
        count = counts[part]
        labels: dict[str, list[Any]] = {name: [] for name in freihand.SHAPES}
        with Bar(f"made {part}", count) as advance:
            for i in range(count):
                drawn = _write_freihand_pictures(root / part, config, first + i, i, count, domains)
                for name, value in _freihand_labels(drawn).items():
                    labels[name].append(value.tolist())
                advance()
        for name, values in labels.items():
            (root / f"{part}_{name}.json").write_text(json.dumps(values))
        first += count


def _write_freihand_pictures(
    folder: Path, config: SceneConfig, number: int, i: int, count: int, domains: Sequence[str]
) -> Drawn:
    """Writes one hand before a background each of `domains`; returns what was drawn last."""
    for place in range(len(domains)):
        scene = scene_of(config, number)
        green = folder.name == "training" and place == 0
        behind = _behind(config.seed, number, place, green)
        drawn = _photograph(replace(scene, behind=behind), 224, noisy_depth=True)
        _save_picture(folder / f"rgb/{i + count * place:08d}.jpg", drawn.rgb)
        if green:
            _save_picture(folder / f"mask/{i:08d}.jpg", 255 * drawn.mask)
    return drawn


def _freihand_labels(drawn: Drawn) -> dict[str, np.ndarray]:
    xyz = drawn.joints_mm / 1000
    return {
        "K": drawn.K,
        "xyz": xyz,
        "scale": np.asarray(np.linalg.norm(xyz[9] - xyz[10])),
        "mano": np.zeros((1, 61)),
    }


def _behind(seed: int, number: int, domain: int, green: bool) -> Float[np.ndarray, "px px 3"]:
    if green:
        return np.full((224, 224, 3), GREEN, np.float32)
    rng = stream("behind", seed, number, domain)
    return background(rng, photographs(), 224).astype(np.float32)


# ---- a folder of recordings ----------------------------------------------------------------------
FOLDER_SEQUENCES = 5
FOLDER_SIZE = (240, 320)


def _write_folder(root: Path, counts: Counts, seed: int) -> None:
    """RGB-D pairs of both hands in five sequences, the last for the test; some without a label."""
    config = SceneConfig(seed=seed, px=FOLDER_SIZE[1], margin=1.6)
    count, records = counts["records"], []
    with Bar("made recordings", count) as advance:
        for i in range(count):
            drawn = _photograph(scene_of(config, i), FOLDER_SIZE[1], noisy_depth=True)
            records.append(_write_record(root, i, drawn, stream("folder", seed, i)))
            sequence = i * FOLDER_SEQUENCES // count
            is_test = sequence == FOLDER_SEQUENCES - 1
            records[-1] |= {"sequence": f"s{sequence}", "split": "test" if is_test else "train"}
            if not is_test and i % 4:  # three of four training pairs have no label
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
    _save_picture(root / f"rgb/{i:05d}.jpg", rgb[rows])
    _save_picture(root / f"depth/{i:05d}.png", np.ascontiguousarray(depth[rows]))
    (x, y), side = geometry.crop_box(geometry.project(joints, K))
    return {
        "image": f"rgb/{i:05d}.jpg",
        "depth": f"depth/{i:05d}.png",
        "K": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        "side": "left" if left else "right",
        "box": [round(v, 1) for v in (x - side / 2, y - side / 2, side, side)],
        "joints_mm": joints.round(2).tolist(),
    }


# ---- the real RGB-D sets of today ----------------------------------------------------------------
LARGER = 4  # these sets' pictures are 640 x 480: drawn at a quarter of that
MADE_PEOPLE, MADE_SEQUENCES = 2, 5


def _large_frame(config: SceneConfig, number: int, left: bool) -> Frame:
    """A hand in a 640 x 480 picture, with depth."""
    drawn = _photograph(scene_of(config, number), config.px, noisy_depth=False)
    rgb, joints, K, depth = drawn.rgb, drawn.joints_mm, drawn.K, drawn.depth
    if left:
        rgb, joints, K = geometry.mirror(rgb, joints, K)
        depth = np.ascontiguousarray(depth[:, ::-1])
    K = np.diag([LARGER, LARGER, 1.0]) @ K
    half = (LARGER - 1) / 2  # pixels' middles
    top = 80
    K[:2, 2] += [half, half - top]
    size = (LARGER * config.px, LARGER * config.px)
    rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)[top:-top]
    depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)[top:-top]
    return Frame(rgb, joints, K, left, depth_mm=depth)


def _write_dexycb(root: Path, counts: Counts, seed: int) -> None:
    """Two people, five sequences each, every camera; the first frame of each shows no hand."""
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
                        seen = _large_frame(config, number, side == "left")
                        _write_dexycb_frame(folder / camera, frame, seen)
                    advance()
    f, cx, cy = 600.0, 319.5, 239.5
    text = f"color: {{fx: {f}, fy: {f}, ppx: {cx}, ppy: {cy}}}\n"
    for camera in dexycb.CAMERAS:
        (intrinsics / f"{camera}_640x480.yml").write_text(text)


def _write_dexycb_frame(folder: Path, frame: int, seen: Frame) -> None:
    """A camera has one K there: the picture is seen anew by it."""
    K = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
    joints = seen.joints_mm.copy()
    H = K @ np.linalg.inv(seen.K)
    rgb = cv2.warpPerspective(seen.rgb, H, (640, 480), borderMode=cv2.BORDER_REPLICATE)
    assert seen.depth_mm is not None
    depth = cv2.warpPerspective(seen.depth_mm, H, (640, 480), flags=cv2.INTER_NEAREST)
    uv = geometry.project(joints, K)
    if not frame:
        joints, uv = np.full((21, 3), -1000.0), np.full((21, 2), -1.0)
    _save_picture(folder / f"color_{frame:06d}.jpg", rgb)
    _save_picture(folder / f"aligned_depth_to_color_{frame:06d}.png", depth)
    metres, pixels = (joints[None] / 1000).astype(np.float32), uv[None].astype(np.float32)
    np.savez(folder / f"labels_{frame:06d}.npz", joint_3d=metres, joint_2d=pixels)


def _write_ho3d(root: Path, counts: Counts, seed: int) -> None:
    """Two sequences of right hands, one as version 2 has them, one as version 3; every fifth frame
    is not annotated.
    """
    config, names = SceneConfig(seed=seed, px=160, margin=1.8), []
    with Bar("made HO-3D", counts["frames"]) as advance:
        for number in range(counts["frames"]):
            sequence, suffix = (("MC1", "png"), ("SM1", "jpg"))[number % 2]
            seen = _large_frame(config, number, left=False)
            home, frame = root / "train" / sequence, f"{number // 2:04d}"
            _save_picture(home / f"rgb/{frame}.{suffix}", seen.rgb)
            assert seen.depth_mm is not None
            raw = np.rint(seen.depth_mm / ho3d.DEPTH_UNIT_MM).astype(int)
            two_bytes = np.stack([raw % 256, raw // 256, 0 * raw], -1).astype(np.uint8)
            _save_picture(home / f"depth/{frame}.png", two_bytes)
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


def _write_interhand(root: Path, counts: Counts, seed: int) -> None:
    """Each picture of one hand, right or left; the other one's joints are not valid."""
    config = SceneConfig(seed=seed, px=160, margin=1.8)
    first = 0
    for split in interhand.SPLITS:
        images, annotations = [], []
        joints: dict[str, Any] = {}
        camera: dict[str, Any] = {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
        with Bar(f"made {split}", counts[split]) as advance:
            for i in range(counts[split]):
                left = i % 2 == 1
                seen = _large_frame(config, first + i, left)
                file = f"Capture0/cam{i}/image{i:05d}.jpg"
                _save_picture(root / "images" / split / file, seen.rgb)
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
        for kind, held in whole.items():
            (home / f"InterHand2.6M_{split}_{kind}.json").write_text(json.dumps(held))
        first += counts[split]
