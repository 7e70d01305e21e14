import cv2
import numpy as np
import pytest
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets import stb
from cmkg.hands.datasets.packed.labelled_set import open_frames
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.datasets.stb import Stb
from cmkg.hands.network.loader import Loader
from tests.hands.copies import clear


def test_stb_order_splits_and_layouts(copies):
    root = copies("stb")
    assert stb.SPLITS["test"] == ("B1Counting", "B1Random")
    assert len(stb.SPLITS["train"]) == 10
    assert stb.FRAMES == 1500
    savemat(
        root / "labels/B2Counting_BB.mat",
        {"handPara": np.arange(63.0).reshape(21, 3).T[..., None] + [[[0]], [[0]], [[500]]]},
    )
    clear()
    joints = stb.read_mat_labels(str(root), "B2Counting", "BB")[0]
    for ours, theirs in (
        (0, 0),
        (17, 1),
        (20, 4),
        (13, 5),
        (16, 8),
        (9, 9),
        (10, 10),
        (12, 12),
        (5, 13),
        (8, 16),
        (1, 17),
        (4, 20),
    ):
        np.testing.assert_allclose(
            joints[ours], [3.0 * theirs, 3.0 * theirs + 1, 3.0 * theirs + 2 + 500]
        )
    before = Stb(str(root), "test").color(0)
    for sequence in (root / "images").iterdir():
        sequence.rename(root / sequence.name)
    (root / "images").rmdir()
    np.testing.assert_array_equal(Stb(str(root), "test").color(0), before)


def test_stb_wrist_conventions():
    joints = np.random.default_rng(0).normal(size=(21, 3))
    palm, middle, ring, four = joints[0], joints[9], joints[13], joints[[5, 9, 13, 17]].mean(0)
    np.testing.assert_allclose(stb.palm_to_wrist(joints)[0], ring + 2.0 * (palm - ring))
    np.testing.assert_allclose(
        stb.palm_to_wrist(joints, "middle")[0], middle + 2.2 * (palm - middle)
    )
    np.testing.assert_allclose(stb.palm_to_wrist(joints, "mean")[0], four + 2.25 * (palm - four))
    np.testing.assert_array_equal(stb.palm_to_wrist(joints)[1:], joints[1:])
    with pytest.raises(InputError, match="--wrist is one of ring, middle, mean"):
        Stb("anywhere", wrist="palm")


def test_stb_cameras():
    assert stb.BB_K.tolist() == [[822.79041, 0, 318.47345], [0, 822.79041, 250.31296], [0, 0, 1]]
    assert stb.SK_K.tolist() == [[607.92271, 0, 314.78337], [0, 607.88192, 236.42484], [0, 0, 1]]
    assert stb.SK_DEPTH_K.tolist() == [
        [475.62768, 0, 336.41179],
        [0, 474.77709, 238.77962],
        [0, 0, 1],
    ]
    X = np.array([[10.0, 20.0, 500.0]])
    np.testing.assert_allclose(stb.to_camera(X, "BB_left"), X)
    np.testing.assert_allclose(stb.to_camera(X, "BB_right"), X - [[120.054, 0, 0]])
    R = Rotation.from_rotvec([0.00531, -0.01196, 0.00301]).as_matrix()
    seen_by_depth = X @ R.T + [-24.0381, -0.4563, -1.2326]
    np.testing.assert_allclose(stb.to_camera(seen_by_depth, "SK_color"), X, atol=1e-9)


def test_stb_depth_has_its_low_byte_in_red(copies):
    root = copies("stb")
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[..., 2], picture[..., 1] = 44, 2
    cv2.imwrite(str(root / "images/B1Counting/SK_depth_0.png"), picture)
    assert Stb(str(root), "test", "SK_color").depth(0)[0, 0] == 44 + 256 * 2


def test_the_stereo_pair_and_the_depth_camera_see_the_same_hand(made_sets):
    left, right, sk = (
        Stb(str(made_sets["stb"]), "test", camera) for camera in ("BB_left", "BB_right", "SK_color")
    )
    for i in range(len(left)):
        np.testing.assert_allclose(right.joints(i), left.joints(i) - [120.054, 0, 0], atol=1e-6)
        np.testing.assert_allclose(sk.joints(i), left.joints(i), atol=1e-6)  # made so
        uv = np.rint(
            geometry.project(
                stb.palm_to_wrist(
                    stb.read_mat_labels(str(made_sets["stb"]), sk.place(i)[0], "SK")[0]
                ),
                stb.SK_DEPTH_K,
            )
        ).astype(int)
        depth = sk.depth(i)
        inside = [
            (int(depth[y, x]), z)
            for (x, y), z in zip(
                uv,
                stb.read_mat_labels(str(made_sets["stb"]), sk.place(i)[0], "SK")[0][:, 2],
                strict=False,
            )
            if 0 <= x < 640 and 0 <= y < 480 and depth[y, x]
        ]
        # of fingers that are seen
        assert len(inside) > 10
        assert np.quantile([abs(d - z) for d, z in inside], 0.25) < 20


def test_the_target_never_sees_depth_or_the_other_eye(copies, tmp_path):
    root = copies("stb")
    whole = pack(Stb(str(root), "test", px=32), tmp_path / "whole", workers=1)
    for path in [
        *root.glob("images/*/SK_*"),
        *root.glob("images/*/BB_right_*"),
        *root.glob("labels/*_SK.mat"),
    ]:
        path.unlink()
    clear()
    bare = pack(Stb(str(root), "test", px=32), tmp_path / "bare", workers=1)
    assert bare.depth is None
    assert "depth" not in bare.meta["arrays"]
    assert bare.meta["crc32"] == whole.meta["crc32"]
    sk = Stb(str(copies("stb") if not root.exists() else root), "test", "SK_color")
    # and with the depth camera chosen, samples do not open its maps
    assert "depth" not in sk.samples.__code__.co_names
    with pytest.raises(InputError, match="has no depth"):
        Loader(open_frames(bare), 24, "cpu", ("rgb", "depth"))
