import cv2
import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets import rhd
from cmkg.hands.datasets.rhd import Rhd
from tests.hands.copies import clear, rewrite


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
    assert rhd.decode_rhd_depth(np.full((1, 1, 3), 255, np.uint8))[0, 0] == 5000  # the background


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


def test_rhd_depth_turns_with_the_virtual_camera(made_sets):
    sample = Rhd(str(made_sets["rhd"]), px=160).samples([0])[0]
    u, v = np.rint(geometry.project(sample.joints_mm, sample.K)).astype(int).T
    inside = [
        abs(int(sample.depth[y, x]) - z)
        for x, y, z in zip(u, v, sample.joints_mm[:, 2], strict=False)
        if 0 <= x < 160 and 0 <= y < 160
    ]
    assert np.median(inside) < 15  # a joint lies some millimetres below its skin
