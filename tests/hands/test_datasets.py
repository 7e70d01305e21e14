import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets.packed import Packed, Shard, merge, pack, verify
from cmkg.hands.datasets.real_hands import BLOCKS, RealHands
from cmkg.hands.datasets.rendered import Rendered
from cmkg.hands.scenes import SceneConfig

HANDS = Rendered(SceneConfig(px=32, seed=3), count=40)


@pytest.fixture(scope="session")
def packed_folder(tmp_path_factory):
    return pack(HANDS, tmp_path_factory.mktemp("packed") / "set", workers=1).folder


def test_a_pack_holds_what_the_dataset_yields(packed_folder):
    packed = Packed(packed_folder)
    for i, sample in zip((0, 37), HANDS.samples([0, 37]), strict=False):
        for name in ("rgb", "depth"):
            np.testing.assert_array_equal(getattr(packed, name)[i], getattr(sample, name))
        np.testing.assert_allclose(packed.joints_mm[i], sample.joints_mm, rtol=1e-6)
    assert packed.meta["bone_mm"] == pytest.approx(
        np.linalg.norm(packed.joints_mm[:, 9] - packed.joints_mm[:, 10], axis=1).mean(), rel=1e-5
    )
    assert "rendered" in verify(packed_folder)


def test_several_processes_write_the_same_set(packed_folder, tmp_path):
    other = pack(Rendered(HANDS.config, 40), tmp_path / "two", workers=2)
    assert json.loads((packed_folder / "meta.json").read_text())["crc32"] == other.meta["crc32"]
    big = pack(Rendered(SceneConfig(px=16), 130), tmp_path / "pool", workers=2)
    one = pack(Rendered(SceneConfig(px=16), 130), tmp_path / "one", workers=1)
    assert big.meta["crc32"] == one.meta["crc32"]


def test_a_killed_pack_goes_on(tmp_path):
    code = (
        "from cmkg.hands.datasets.packed import pack; from cmkg.hands.datasets.rendered "
        "import Rendered; "
        "from cmkg.hands.scenes import SceneConfig; pack(Rendered(SceneConfig(px=32), 400), "
        f"{str(tmp_path / 'set')!r}, 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    chunks = tmp_path / "set.partial" / "chunks.npy"
    deadline = time.time() + 60
    while time.time() < deadline and not (
        chunks.exists() and chunks.stat().st_size > 128 and np.load(chunks).sum() >= 2
    ):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    assert 2 <= np.load(chunks).sum() < 13
    resumed = pack(Rendered(SceneConfig(px=32), 400), tmp_path / "set", workers=1)
    unbroken = pack(Rendered(SceneConfig(px=32), 400), tmp_path / "again", workers=1)
    assert resumed.meta["crc32"] == unbroken.meta["crc32"]


def broken(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    return copy


def truncate(copy):
    with open(copy / "rgb.npy", "r+b") as f:
        f.truncate(1000)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "rgb.npy: expected"),
        (lambda c: (c / "K.npy").unlink(), "K.npy: expected"),
        (lambda c: np.save(c / "K.npy", np.zeros((3, 3))), r"K.npy: holds \(3, 3\)"),
        (lambda c: (c / "meta.json").unlink(), "expected a packed set"),
        (lambda c: (c / "meta.json").write_text("{"), "meta.json: expected JSON"),
        (lambda c: (c / "meta.json").write_text("{}"), "field 'format' is None"),
    ],
)
def test_a_damaged_pack_is_one_sentence(packed_folder, tmp_path, damage, sentence):
    with pytest.raises(InputError, match=sentence):
        Packed(broken(packed_folder, tmp_path, damage))


def test_a_changed_byte_is_found(packed_folder, tmp_path):
    def change(copy):
        with open(copy / "depth.npy", "r+b") as f:
            f.seek(5000)
            f.write(b"\xff\x00\xff")

    with pytest.raises(InputError, match="depth.npy: its checksum"):
        verify(broken(packed_folder, tmp_path, change))


def test_merged_shards_are_the_whole_set(packed_folder, tmp_path):
    for i in range(3):
        pack(Shard(HANDS, f"{i}/3"), tmp_path / f"{i}", workers=1)
    whole = merge([tmp_path / n for n in "201"], tmp_path / "whole")
    assert whole.meta == json.loads((packed_folder / "meta.json").read_text())
    with pytest.raises(
        InputError, match="expected the shards 0/3 to 2/3, each once; found 0/3, 2/3"
    ):
        merge([tmp_path / "0", tmp_path / "2"], tmp_path / "other")
    pack(Shard(Rendered(SceneConfig(px=32, seed=4), 40), "1/3"), tmp_path / "stranger", workers=1)
    with pytest.raises(InputError, match="holds another set"):
        merge([tmp_path / "0", tmp_path / "stranger", tmp_path / "2"], tmp_path / "other")
    with pytest.raises(InputError, match="--shard: expected i/n with 0 <= i < n <= 40, got '3/3'"):
        Shard(HANDS, "3/3")
    assert not (tmp_path / "other").exists()


def test_another_set_in_the_same_folder_is_refused(packed_folder):
    with pytest.raises(InputError, match="seed = 3, asked for is 4"):
        pack(Rendered(SceneConfig(px=32, seed=4), 40), packed_folder)


# ---- real hands, in made data of the same layout -------------------------------------------------
@pytest.fixture
def photographs(tmp_path):
    rng, n = np.random.default_rng(0), 460
    joints = rng.uniform([-6, -6, 38], [6, 6, 44], (n, 21, 3)).astype(np.float32)  # centimetres
    cameras = np.tile([900.0, 900.0, 640.0, 360.0], (n, 1))
    boxes = np.tile([440, 160, 400, 400], (n, 1)).astype(np.int32)
    (tmp_path / "images").mkdir()
    for i in range(3):
        cv2.imwrite(
            str(tmp_path / f"images/{i:05d}.jpg"), rng.integers(0, 255, (256, 256, 3), np.uint8)
        )
    savemat(tmp_path / "params.mat", {"cam_param": cameras, "bbox": boxes})
    savemat(tmp_path / "pose_gt.mat", {"pose_gt": joints})
    return tmp_path, joints, cameras, boxes


def test_real_hands_are_centimetres_left_and_cropped(photographs):
    folder, joints, cameras, boxes = photographs
    sample = RealHands(str(folder), "train").samples([2])[0]
    back = sample.joints_mm @ sample.rotation  # out of the virtual camera
    np.testing.assert_allclose(back, 10 * joints[2] * [-1, 1, 1], rtol=1e-5)
    assert sample.mirrored
    assert sample.rgb.shape == (80, 80, 3)
    uv = geometry.project(sample.joints_mm, sample.K)
    np.testing.assert_allclose(uv[9], [39.5, 39.5], atol=1e-6)


def test_blocks_are_contiguous_and_do_not_overlap():
    assert BLOCKS["train"] == (0, 360)
    assert BLOCKS["test"] == (360, 460)
    assert BLOCKS["fit"][1] == BLOCKS["validation"][0]
    assert BLOCKS["validation"][1] == BLOCKS["train"][1]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda f: (f / "images/00001.jpg").unlink(),
            "images/00001.jpg: no such file; expected a picture",
        ),
        (
            lambda f: (f / "images/00001.jpg").write_bytes(b"\xff\xd8 broken"),
            "images/00001.jpg: expected",
        ),
        (lambda f: (f / "pose_gt.mat").unlink(), "pose_gt.mat: no such file"),
        (
            lambda f: (f / "pose_gt.mat").write_bytes(b"junk" * 99),
            "pose_gt.mat: expected a MATLAB file",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"other": np.zeros(3)}),
            "pose_gt.mat: has no field 'pose_gt'",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.zeros((460, 20, 3))}),
            r"field 'pose_gt' has shape \(460, 20, 3\)",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.full((460, 21, 3), np.nan)}),
            "'pose_gt' holds a number that is not finite",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.ones((100, 21, 3))}),
            "params.mat: field 'cam_param' has shape",
        ),
        (
            lambda f: savemat(f / "params.mat", {"cam_param": np.ones((460, 4))}),
            "params.mat: has no field 'bbox'",
        ),
    ],
)
def test_bad_real_hands_are_one_sentence(photographs, damage, sentence):
    damage(photographs[0])
    with pytest.raises(InputError, match=sentence):
        RealHands(str(photographs[0]), "train").samples([0, 1])


def test_an_unreadable_image_leaves_no_half_pack(photographs, tmp_path):
    with pytest.raises(InputError, match="00003.jpg"):
        pack(RealHands(str(photographs[0]), "train", 32), tmp_path / "out" / "set", workers=1)
    assert not (tmp_path / "out" / "set").exists()
