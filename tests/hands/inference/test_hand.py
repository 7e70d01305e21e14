import re

import numpy as np
import pytest
import torch
from PIL import Image

from cmkg import Hand, HandResult, Thresholds
from cmkg.errors import InputError
from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.geometry import project
from cmkg.hands.inference import pictures
from cmkg.hands.inference.hand import OWN
from cmkg.hands.inference.hand_files import HandFacts, write_hand_folder
from cmkg.hands.inference.picture_view import expect_camera
from cmkg.hands.inference.pictures import write_picture
from tests.hands.photographs import SAMPLE, left_hand, right_hand, two_hands


@pytest.fixture(scope="module")
def hand():
    return Hand.from_pretrained()


def test_a_hand_is_found_and_so_is_its_mirror_image(hand):
    (right,), (left,) = hand([right_hand(), left_hand()])
    assert isinstance(right, HandResult)
    assert (right.side, left.side) == ("right", "left")
    assert right.palm_towards_camera
    assert left.palm_towards_camera
    assert min(right.confidence, left.confidence) > 0.9
    width = right_hand().shape[1]
    mirrored = left.joints_px * [-1, 1] + [width - 1, 0]
    off = np.linalg.norm(mirrored - right.joints_px, axis=1)
    assert off.mean() < 0.03 * right.box[2]
    np.testing.assert_array_equal(right.joints_mm[0], 0)
    first, wrist, *rest = str(right).splitlines()
    assert re.match(r"a right hand \(\d+ %\), \d+ % sure, palm to the camera", first)
    assert wrist.split()[0] == "wrist"
    assert len(rest) == 20
    # fingers point up in the picture: y is down
    assert (right.joints_mm[[8, 12, 16, 20], 1] < -80).all()


def test_several_hands_and_how_many(hand):
    found = hand(two_hands())
    width = right_hand().shape[1]
    assert sorted(one.side for one in found) == ["left", "right"]
    for one in found:
        assert (one.joints_px[9, 0] < width) == (one.side == "left")
    (only,) = Hand.from_pretrained(max_hands=1)(two_hands())
    assert isinstance(only, HandResult)


def test_a_side_may_be_asked_for_or_stated(hand):
    (left,) = hand(two_hands(), side="left")
    assert left.side == "left"
    assert hand(right_hand(), side="left") == []
    (stated,) = hand(right_hand(), known_side="left")
    assert stated.side == "left"
    assert stated.side_confidence == 1.0
    assert not stated.palm_towards_camera  # of a left hand this is the back


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_picture_gives_the_turned_hand(hand, turns):
    (upright,), (turned,) = hand(
        [right_hand(), np.ascontiguousarray(np.rot90(right_hand(), turns))]
    )
    height, width = right_hand().shape[:2]
    x, y = upright.joints_px.T
    expected = {1: (y, width - 1 - x), 2: (width - 1 - x, height - 1 - y), 3: (height - 1 - y, x)}
    off = np.linalg.norm(turned.joints_px - np.column_stack(expected[turns]), axis=1).mean()
    assert off < 0.03 * upright.box[2]
    assert turned.side == upright.side


def test_a_hand_that_fills_the_picture_is_found(hand):
    """Nothing is seen of it at first sight."""
    close = np.ascontiguousarray(right_hand()[100:270, 100:240])
    assert hand.networks.find_palms(close, 0.5) == []
    (found,) = hand(close)
    (whole,) = hand(right_hand())
    off = np.linalg.norm(found.joints_px + [100, 100] - whole.joints_px, axis=1).mean()
    assert off < 0.05 * whole.box[2]


def test_a_box_spares_the_search_and_may_be_rough(hand):
    (whole,) = hand(right_hand())
    x, y, width, height = whole.box
    (boxed,) = hand(two_hands(), box=(x + 320 + 15, y - 10, 0.8 * width, 0.8 * height))
    np.testing.assert_allclose(boxed.joints_px - [320, 0], whole.joints_px, atol=0.04 * width)
    assert hand(np.full((200, 200, 3), 128, np.uint8), box=(50, 50, 90, 90)) == []


def test_nothing_in_view_is_an_empty_list(hand):
    assert hand(np.full((60, 80, 3), 128, np.uint8)) == []
    nothing, something = hand([np.zeros((64, 64, 3), np.uint8), right_hand()])
    assert nothing == []
    assert len(something) == 1
    strict = Hand.from_pretrained(thresholds=Thresholds(palm=1.0))
    assert strict(right_hand()) == []


def test_every_usual_kind_of_picture_is_taken(hand, tmp_path):
    (expected,) = hand(right_hand())
    Image.fromarray(right_hand()).save(tmp_path / "a.png")
    for given in (
        Image.fromarray(right_hand()),
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        torch.from_numpy(right_hand()),
    ):
        (found,) = hand(given)
        np.testing.assert_allclose(found.joints_px, expected.joints_px, atol=1e-3)


def test_with_a_camera_the_wrist_has_a_place(hand):
    K = np.array([[400.0, 0, 160], [0, 400, 160], [0, 0, 1]])
    (found,) = hand(right_hand(), K=K)
    placed = project(found.wrist_mm + found.joints_mm, K)
    off = np.linalg.norm(placed - found.joints_px, axis=1).mean()
    assert off < 0.05 * found.box[2]
    assert 100 < found.wrist_mm[2] < 2000
    # The same hand at the side of a wide picture: turned by the angle at which it is seen.
    wide = np.zeros((320, 960, 3), np.uint8)
    wide[:, 640:] = right_hand()
    (aside,) = hand(wide, K=np.array([[400.0, 0, 160], [0, 400, 160], [0, 0, 1]]))
    (plain,) = hand(wide)
    assert np.abs(aside.joints_mm - plain.joints_mm).max() > 20
    np.testing.assert_allclose(
        np.linalg.norm(aside.joints_mm, axis=1), np.linalg.norm(plain.joints_mm, axis=1), rtol=1e-6
    )


def test_a_rulers_bone_scales_all(hand):
    (usual,), (large,) = (
        hand(right_hand()),
        Hand.from_pretrained(bone_mm=2 * hand.bone_mm)(right_hand()),
    )
    np.testing.assert_allclose(large.joints_mm, 2 * usual.joints_mm)
    assert 15 < np.linalg.norm(usual.joints_mm[9] - usual.joints_mm[10]) < 50


def test_three_looks_are_averaged(hand):
    (one,), (three,) = hand(right_hand()), Hand.from_pretrained(looks=3)(right_hand())
    off = np.linalg.norm(one.joints_px - three.joints_px, axis=1).mean()
    assert 0 < off < 0.03 * one.box[2]


def test_a_large_jpeg_is_answered_in_the_files_pixels(hand, tmp_path, monkeypatch):
    big = np.kron(right_hand(), np.ones((3, 3, 1), np.uint8))
    write_picture(tmp_path / "big.jpg", big)
    K = np.array([[1200.0, 0, 480], [0, 1200, 480], [0, 0, 1]])
    (whole,) = hand(tmp_path / "big.jpg", K=K)
    monkeypatch.setattr(pictures, "WORKING_PIXELS", big.shape[0] * big.shape[1] // 4)
    (half,) = hand(tmp_path / "big.jpg", K=K)
    off = np.linalg.norm(half.joints_px - whole.joints_px, axis=1).mean()
    assert off < 0.03 * whole.box[2]
    np.testing.assert_allclose(half.wrist_mm, whole.wrist_mm, rtol=0.1, atol=15)
    (small,) = hand(SAMPLE)
    assert np.linalg.norm(small.joints_px * 3 + 1 - whole.joints_px, axis=1).mean() < 12


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_picture_is_one_sentence(hand):
    said = {
        r"expected uint8, 0 to 255, got float64; from 0 to 1": np.zeros((20, 20, 3)),
        r"got shape \(20, 20, 4\); RGBA": np.zeros((20, 20, 4), np.uint8),
        r"got shape \(20, 20\); grey": np.zeros((20, 20), np.uint8),
        r"channels come last": np.zeros((3, 20, 20), np.uint8),
        r"at least 8 pixels a side, got 1 x 1": np.zeros((1, 1, 3), np.uint8),
        r"got dict": {},
    }
    for sentence, given in said.items():
        with pytest.raises(InputError, match=sentence):
            hand(given)
    for box in ((1, 2, 3), (0, 0, 0, 5), (0, 0, float("nan"), 5), "box"):
        with pytest.raises(InputError, match="box: expected"):
            hand(right_hand(), box=box)
    with pytest.raises(InputError, match="K: expected"):
        hand(right_hand(), K=np.eye(4))
    with pytest.raises(InputError, match="known_side: expected right, left or nothing"):
        hand(right_hand(), known_side="both")
    for settings, sentence in (
        ({"bone_mm": 500.0}, "bone_mm: expected"),
        ({"max_hands": 0}, "max_hands: expected 1 to"),
        ({"looks": 2}, "looks: expected 1 or 3"),
        ({"thresholds": Thresholds(presence=2.0)}, "thresholds.presence: expected 0 to 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            Hand.from_pretrained(**settings)
    assert expect_camera([[1, 0, 0], [0, 1, 0], [0, 0, 1]]).shape == (3, 3)


def test_a_folder_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"found no manifest\.json"):
        Hand.from_pretrained(tmp_path / "typed-wrong")
    landmarks, palms = ((OWN / name).read_bytes() for name in (LANDMARKS_FILE, PALMS_FILE))

    def written(name, *given):
        write_hand_folder(tmp_path / name, *given)
        return tmp_path / name

    facts = HandFacts(32.0, "hand_landmark_lite")
    assert Hand.from_pretrained(written("good", landmarks, palms, facts)).bone_mm == 32.0
    (tmp_path / "good" / LANDMARKS_FILE).write_bytes(landmarks[:-1] + b"x")
    with pytest.raises(InputError, match="its checksum is not the one"):
        Hand.from_pretrained(tmp_path / "good")
    with pytest.raises(InputError, match="is another network"):
        Hand.from_pretrained(written("swapped", palms, landmarks, facts))
    with pytest.raises(InputError, match="expected bone_mm from 5 to 120"):
        Hand.from_pretrained(written("size", landmarks, palms, HandFacts(1e9, "a")))
    (tmp_path / "link").mkdir()
    for name in ("manifest.json", "hand.json", PALMS_FILE):
        (tmp_path / "link" / name).write_bytes((OWN / name).read_bytes())
    (tmp_path / "link" / LANDMARKS_FILE).symlink_to(OWN / LANDMARKS_FILE)
    with pytest.raises(InputError, match="is a link out of its folder"):
        Hand.from_pretrained(tmp_path / "link")
