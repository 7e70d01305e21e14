"""DexYCB, HO-3D and InterHand2.6M: facts of their formats, on made data in their layouts."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets import dexycb, ho3d, interhand
from cmkg.hands.datasets.label_checks import curl, disagreements
from cmkg.hands.synthesis.synthetic import make_dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("real-sets")
    for name in ("dexycb", "ho3d", "interhand"):
        make_dataset(name, home / name, 8)
    return home


def opened(made, name):
    root = str(made / name)
    if name == "dexycb":
        return dexycb.DexYcb.of(root, "s0-train", 32)
    return ho3d.Ho3d.of(root, "train", 32) if name == "ho3d" else interhand.InterHand(root, "train")


@pytest.mark.parametrize("name", ["dexycb", "ho3d", "interhand"])
def test_every_frame_agrees_with_itself(made, name):
    dataset = opened(made, name)
    for i in range(0, len(dataset), 7):
        frame = dataset.frame(i)
        assert disagreements(frame, "x") == []
        assert curl(frame.joints_mm) * (-1 if frame.left else 1) > -0.2
        uv = geometry.project(dataset.samples([i])[0].joints_mm, dataset.samples([i])[0].K)
        middle = dataset.px / 2 - 0.5
        np.testing.assert_allclose(uv[9], middle, atol=1e-6)


# ---- DexYCB --------------------------------------------------------------------------------------
def test_dexycb_leaves_out_frames_without_a_hand(made):
    dataset = opened(made, "dexycb")
    assert len(dataset) == 2 * 4 * 8  # people, sequences but each fifth, cameras; frame 1 of 0, 1
    assert {place.frame for place in dataset.places} == {1}
    path = dataset.files(0)[2]
    with np.load(path) as held:
        np.testing.assert_allclose(dataset.joints(0), 1000 * held["joint_3d"][0], rtol=1e-6)
    np.testing.assert_allclose(
        geometry.project(dataset.joints(0), dataset.camera(0)), dataset.joints_px(0), atol=1e-3
    )


def test_dexycb_has_its_official_splits():
    sizes = {split: dexycb.official(split) for split in dexycb.SPLITS}
    for setup, axis in (("s0", 2), ("s1", 0), ("s2", 1), ("s3", 2)):
        parts = [set(sizes[f"{setup}-{part}"][axis]) for part in dexycb.PARTS]
        assert not parts[0] & (parts[1] | parts[2])
    assert list(sizes["s1-test"].people) == [7, 8]
    assert list(sizes["s2-test"].cameras) == [7]
    assert len(list(sizes["s0-train"].sequences)) == 80
    assert len(list(sizes["s3-test"].sequences)) == 15
    assert sizes["s3-val"].sequences[:5] == [15, 16, 17, 18, 19]
    assert list(sizes["s0-val"].people) == [0, 1]


def test_part_of_dexycb_cannot_be_split_by_sequences(made, tmp_path):
    root = shutil.copytree(made / "dexycb", tmp_path / "dexycb")
    shutil.rmtree(next(path for path in sorted(root.glob("*-*/*")) if path.is_dir()))
    with pytest.raises(InputError, match="cannot be told"):
        dexycb.DexYcb.of(str(root), "s0-train", complete=False)
    part = dexycb.DexYcb.of(str(root), "s2-test", complete=False)
    assert len(part) == 9


# ---- HO-3D ---------------------------------------------------------------------------------------
def test_ho3d_is_opengl_and_its_depth_has_the_low_byte_in_red(made):
    dataset = opened(made, "ho3d")
    assert len(dataset) == 7  # one of the eight is not annotated
    meta = pickle.loads(dataset.files(0)[2].read_bytes())
    joints, _ = dataset.labels(0)
    np.testing.assert_allclose(joints[0], 1000 * meta["handJoints3D"][0] * [1, -1, -1], rtol=1e-5)
    np.testing.assert_allclose(joints[4], 1000 * meta["handJoints3D"][16] * [1, -1, -1], rtol=1e-5)
    np.testing.assert_allclose(joints[17], 1000 * meta["handJoints3D"][7] * [1, -1, -1], rtol=1e-5)
    picture = cv2.imread(str(dataset.files(0)[1]))
    raw = picture[..., 2].astype(int) + 256 * picture[..., 1].astype(int)
    expected = np.rint(raw * 0.12498664727900177)
    np.testing.assert_array_equal(dataset.depth(0), expected)
    assert raw.max() > 255


def test_ho3d_keeps_its_evaluation_to_itself(made):
    with pytest.raises(InputError, match="joints are not published"):
        ho3d.Ho3d.of(str(made / "ho3d"), "evaluation")


# ---- InterHand2.6M -------------------------------------------------------------------------------
def test_interhand_turns_the_world_into_the_camera(made):
    dataset = opened(made, "interhand")
    home = made / "interhand/annotations/train"
    held = {
        kind: json.loads((home / f"InterHand2.6M_train_{kind}.json").read_text())
        for kind in interhand.KINDS
    }
    world = np.array(held["joint_3d"]["0"]["1"]["world_coord"])
    camera = held["camera"]["0"]
    R, position = (np.array(camera[name]["cam1"]) for name in ("camrot", "campos"))
    joints, _ = dataset.labels(1)
    np.testing.assert_allclose(joints[0], R @ (world[41] - position), atol=1e-6)  # left wrist, last
    np.testing.assert_allclose(joints[4], R @ (world[21] - position), atol=1e-6)  # thumb's tip
    assert dataset.frame(1).left


def test_two_hands_of_a_picture_are_two_samples(made, tmp_path):
    root = shutil.copytree(made / "interhand", tmp_path / "ih")
    path = root / "annotations/train/InterHand2.6M_train_data.json"
    held = json.loads(path.read_text())
    held["annotations"][0]["joint_valid"] = [[1]] * 42
    held["annotations"][1]["joint_valid"][30] = [0]  # a joint of the only hand
    path.write_text(json.dumps(held))
    sides = [seen.side for seen in interhand.hands_of(str(root), "train")]
    assert sides[:3] == ["right", "left", "right"]
    assert len(sides) == 8
