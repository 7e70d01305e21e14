"""RHD, STB and FreiHAND: the facts of their formats, each as a literal of its own, on made data
in their exact layout."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.spatial.transform import Rotation

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets import freihand, rhd, stb
from cmkg.hands.datasets.freihand import FreiHand
from cmkg.hands.datasets.packed import Packed, pack
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.datasets.stb import Stb
from cmkg.recipes import data


@pytest.fixture
def copies(made_sets, tmp_path):
    """A function that gives a copy of a made dataset, to be changed."""
    clear()

    def copy(name):
        return shutil.copytree(made_sets[name], tmp_path / name)

    yield copy
    clear()


def clear():
    for cache in (rhd.annotations, stb.label_file, freihand.label_file):
        cache.cache_clear()


def rewrite(path, change):
    """Changes RHD's annotations."""
    labels = pickle.loads(path.read_bytes())
    change(labels)
    path.write_bytes(pickle.dumps(labels, protocol=2))
    clear()


# ---- RHD -----------------------------------------------------------------------------------------
def test_rhd_points_go_from_tip_to_base_left_hand_first_in_metres(copies):
    root = copies("rhd")

    def number(labels):
        labels[0]["xyz"] = np.arange(126).reshape(42, 3) / 1000.0

    rewrite(root / "training/anno_training.pickle", number)
    right, left = (Rhd(str(root)).hand(0, side)[0] for side in (False, True))

    def theirs(point):
        return [3.0 * point, 3.0 * point + 1, 3.0 * point + 2]  # millimetres

    for ours, point in (
        (0, 0),
        (1, 4),
        (4, 1),
        (5, 8),
        (8, 5),
        (9, 12),
        (10, 11),
        (12, 9),
        (13, 16),
        (16, 13),
        (17, 20),
        (20, 17),
    ):
        np.testing.assert_allclose(left[ours], theirs(point))
        np.testing.assert_allclose(right[ours], theirs(21 + point))


def test_rhd_depth_has_its_high_byte_in_red(copies):
    root = copies("rhd")
    picture = np.zeros((320, 320, 3), np.uint8)
    picture[..., 2], picture[..., 1] = 200, 100  # OpenCV writes blue first
    cv2.imwrite(str(root / "training/depth/00000.png"), picture)
    depth = Rhd(str(root)).depth(0)
    assert depth.dtype == np.uint16
    assert depth[0, 0] == round((200 * 256 + 100) / 65535 * 5000)
    assert rhd.decode_depth(np.full((1, 1, 3), 255, np.uint8))[0, 0] == 5000  # the background


def test_rhd_shows_the_hand_with_more_mask_pixels_and_a_tie_goes_right():
    mask = np.zeros((320, 320), np.uint8)
    mask[:200] = 1  # the person counts nothing
    mask[0, :10], mask[1, :10] = 17, 33
    assert not rhd.larger_hand_is_left(mask)
    mask[2, 0] = 2
    assert rhd.larger_hand_is_left(mask)
    mask[2, 1:3] = 18
    assert not rhd.larger_hand_is_left(mask)


def test_rhd_cameras_differ_and_splits_have_their_sizes(copies):
    root = copies("rhd")
    first, second = (Rhd(str(root)).labels(i)[2] for i in (0, 1))
    assert not np.allclose(first, second)
    assert rhd.COUNTS == {"training": 41258, "evaluation": 2728}
    (root / "made.json").unlink()
    clear()
    with pytest.raises(
        InputError, match="expected a dict with the ids 0 to 41257, found a dict of 8"
    ):
        len(Rhd(str(root)))


def test_rhd_visibility_is_the_third_number_and_decides_the_box(copies):
    root = copies("rhd")

    def hide(labels):
        labels[0]["uv_vis"][:, 2] = 0
        labels[0]["uv_vis"][21 + 12, 2] = 1  # the right hand's middle MCP alone

    rewrite(root / "training/anno_training.pickle", hide)
    sample = Rhd(str(root)).samples([0])[0]
    assert sample.visible.tolist() == [j == 9 for j in range(21)]
    joints, K, _ = Rhd(str(root)).hand(0, left=False)
    ray = np.linalg.norm(np.linalg.solve(K, [*geometry.project(joints, K)[9], 1.0]))
    # the smallest box: 50 pixels
    assert sample.K[0, 0] == pytest.approx(K[0, 0] * ray * (320 / 1.25) / 50, rel=1e-6)


def test_the_reference_crop():
    uv = np.zeros((21, 2))
    uv[9], uv[4] = (100.0, 80.0), (130.0, 75.0)
    uv[[j for j in range(21) if j not in (4, 9)]] = (95.0, 80.0)
    centre, side = geometry.crop_box(uv)
    # twice the largest extent from the middle MCP
    assert centre.tolist() == [100, 80]
    assert side == 60
    seen = np.ones(21, bool)
    seen[4] = False
    assert geometry.crop_box(uv, seen)[1] == 10
    assert geometry.crop_box(uv, np.zeros(21, bool))[1] == 200
    limited = [geometry.reference_side(s) for s in (10, 100, 300, 900)]
    assert limited == [50, 100, 256, 256]  # 256 / side lies in [1, 10]
    assert [geometry.reference_side(s, enlarged=False) for s in (10, 300, 900)] == [50, 300, 500]


def test_left_hands_are_mirrored_and_joints_stay_on_the_picture(made_sets):
    for dataset, left in (
        (Rhd(str(made_sets["rhd"])), [False, True]),
        (Stb(str(made_sets["stb"])), [True, True]),
        (FreiHand(str(made_sets["freihand"])), [False, False]),
    ):
        for i, sample in enumerate(dataset.samples([0, 1])):
            frame = dataset.frame(i)
            assert sample.mirrored == frame.left == left[i]
            back = sample.joints_mm @ sample.rotation
            np.testing.assert_allclose(
                back, frame.joints_mm * ([-1, 1, 1] if left[i] else 1), atol=1e-6
            )
            np.testing.assert_allclose(
                geometry.project(sample.joints_mm, sample.K)[9],
                [(sample.rgb.shape[0] - 1) / 2] * 2,
                atol=1e-6,
            )
        joints = np.stack([s.joints_mm for s in dataset.samples(range(8))])
        across = np.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])
        bend = sum(
            joints[:, 4 * f + k] - joints[:, 4 * f + 1] for f in range(1, 5) for k in (2, 3, 4)
        )
        # a right hand's fingers bend to the palm's side, that of index x little
        assert np.median((bend * across).sum(1)) > 0


def test_rhd_depth_turns_with_the_virtual_camera(made_sets):
    sample = Rhd(str(made_sets["rhd"]), px=160).samples([0])[0]
    u, v = np.rint(geometry.project(sample.joints_mm, sample.K)).astype(int).T
    inside = [
        abs(int(sample.depth[y, x]) - z)
        for x, y, z in zip(u, v, sample.joints_mm[:, 2], strict=False)
        if 0 <= x < 160 and 0 <= y < 160
    ]
    assert np.median(inside) < 15  # a joint lies some millimetres below its skin


# ---- STB -----------------------------------------------------------------------------------------
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
    joints = stb.label_file(str(root), "B2Counting", "BB")[0]
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
                stb.palm_to_wrist(stb.label_file(str(made_sets["stb"]), sk.place(i)[0], "SK")[0]),
                stb.SK_DEPTH_K,
            )
        ).astype(int)
        depth = sk.depth(i)
        inside = [
            (int(depth[y, x]), z)
            for (x, y), z in zip(
                uv,
                stb.label_file(str(made_sets["stb"]), sk.place(i)[0], "SK")[0][:, 2],
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
    from cmkg.recipes.common import fetch

    with pytest.raises(InputError, match="has no depth"):
        fetch(bare, [0], 24, "cpu", ("rgb", "depth"))


# ---- FreiHAND ------------------------------------------------------------------------------------
def test_freihand_numbers_and_splits(copies):
    assert freihand.COUNTS == {"training": 32560, "paper_train": 30000, "evaluation": 3960}
    root = copies("freihand")
    (root / "made.json").unlink()
    for domain, version in (("gs", 0), ("hom", 1), ("sample", 2), ("auto", 3)):
        assert FreiHand(str(root), "train", domain).number(7) == 7 + 32560 * version
        assert FreiHand(str(root), "test", domain).number(0) == 30000 + 32560 * version
    assert len(FreiHand(str(root), "train")) == 30000
    assert len(FreiHand(str(root), "test")) == 2560
    assert len(FreiHand(str(root), "evaluation")) == 3960
    assert FreiHand(str(root), "evaluation", "auto").number(5) == 5
    assert FreiHand(str(root), "test", "hom").path("rgb", 0).name == "00062560.jpg"
    with pytest.raises(InputError, match="holds 10 entries, expected 32560"):
        FreiHand(str(root)).frame(0)


def test_freihand_is_in_metres_and_in_our_order(copies):
    root = copies("freihand")
    xyz = json.loads((root / "training_xyz.json").read_text())
    np.testing.assert_allclose(FreiHand(str(root)).frame(3).joints_mm, 1000 * np.array(xyz[3]))
    assert not FreiHand(str(root)).frame(3).left


def test_freihand_masks_exist_for_the_green_screen_only(made_sets):
    root = str(made_sets["freihand"])
    assert FreiHand(root).mask(0).shape == (224, 224)
    assert len(FreiHand(root, domain="gs").item_checks(0)) == 3
    assert len(FreiHand(root, domain="hom").item_checks(0)) == 2


def test_freihand_evaluation_needs_its_later_labels(copies):
    root = copies("freihand")
    (root / "evaluation_xyz.json").unlink()
    clear()
    with pytest.raises(InputError, match="evaluation_xyz.json: no such file.*released later"):
        FreiHand(str(root), "evaluation").samples([0])


# ---- `cmkg data` ---------------------------------------------------------------------------------
CHOICES = [
    ("rhd", "training", {}),
    ("rhd", "evaluation", {}),
    ("stb", "train", {}),
    ("stb", "test", {"camera": "SK_color"}),
    ("stb", "test", {"camera": "BB_right"}),
    ("freihand", "train", {"domain": "sample"}),
    ("freihand", "test", {}),
    ("freihand", "evaluation", {}),
]


@pytest.mark.parametrize(
    ("name", "split", "more"), CHOICES, ids=lambda v: str(v) if isinstance(v, str) else ""
)
def test_inspect_verify_pack_info(made_sets, tmp_path, capsys, name, split, more):
    which = data.Which(name, str(made_sets[name]), split, px=40, **more)
    data.run(data.Inspect(which, str(tmp_path / "sheet.png"), count=2))
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 10
    data.run(data.Verify(which, workers=1))
    data.run(data.Pack(which, str(tmp_path / "set"), workers=1))
    data.run(data.Info(str(tmp_path / "set")))
    said = capsys.readouterr().out
    assert "every file and field is as expected" in said
    assert "checksums    right" in said
    packed = Packed(tmp_path / "set")
    assert (packed.depth is not None) == (name == "rhd")
    assert packed.meta["holds"]["made"]
    assert len(packed) == len(data.opened(which))


def test_verify_lists_everything_and_stops_at_nothing(copies, capsys):
    root = copies("rhd")
    (root / "training/color/00001.png").unlink()
    (root / "training/depth/00002.png").write_bytes(
        (root / "training/depth/00002.png").read_bytes()[:-30]
    )
    cv2.imwrite(str(root / "training/mask/00003.png"), np.zeros((100, 100), np.uint8))

    def spoil(labels):
        labels[4]["xyz"][:, 2] *= -1
        labels[5]["K"] = np.eye(2)
        labels[6]["xyz"][:] = np.nan
        labels[7]["K"][0, 2] += 5000

    rewrite(root / "training/anno_training.pickle", spoil)
    with pytest.raises(InputError, match=r"7 finding\(s\) in 8 samples"):
        data.run(data.Verify(data.Which("rhd", str(root)), workers=1))
    said = capsys.readouterr().out
    for part in (
        "color/00001.png: no such file",
        "depth/00002.png: expected a whole picture, its end is missing",
        "mask/00003.png: expected 320 x 320 pixels, found 100 x 100",
        "id 4: joint 0 is behind the camera",
        "id 5, field 'K' has shape (2, 2)",
        "id 6, field 'xyz' holds a number that is not finite",
        "id 7: joint 0 projects to",
    ):
        assert part in said, part


def test_a_dataset_that_is_not_there_is_one_sentence_with_layout_and_owner(tmp_path):
    for name, owner in (
        ("rhd", "lmb.informatik"),
        ("stb", "sites.google.com"),
        ("freihand", "lmb.informatik"),
    ):
        with pytest.raises(
            InputError, match=f"no such folder; expected .*its owners publish it at {owner}"
        ):
            data.run(data.Verify(data.Which(name, str(tmp_path / "none"))))


def test_made_data_is_marked_and_never_overwritten(made_sets):
    assert json.loads((made_sets["rhd"] / "made.json").read_text()) == {
        "dataset": "rhd",
        "seed": 0,
        "training": 8,
        "evaluation": 2,
    }
    with pytest.raises(InputError, match="holds something else"):
        data.run(data.Make("rhd", str(made_sets["rhd"]), 9))
    assert loadmat(made_sets["stb"] / "labels/B6Random_SK.mat")["handPara"].shape == (3, 21, 1)
