import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.inference import hand as hand_module
from cmkg.hands.inference import pictures
from cmkg.hands.inference.export_files import write_manifest
from cmkg.hands.inference.hand import Hand, HandResult, expect_camera, first_boxes
from cmkg.hands.inference.pictures import write_picture
from cmkg.hands.inference.seeing import Box
from cmkg.hands.inference.videos import Follower
from cmkg.hands.network.hand_student import HandStudent
from cmkg.hands.network.heatmaps import cell_centres
from cmkg.hands.network.pose import Pose

CELLS = 16


def bright_spot(pictures: torch.Tensor) -> Pose:
    """A network that sees one thing: the brightest place, with 21 joints around it.

    A step to the right on the picture is one for every joint but the wrist.
    """
    grey = torch.nn.functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), CELLS)
    flat = grey.flatten(1)
    spread = flat.max(1).values - flat.median(1).values
    centre = (flat[:, :, None] == flat.max(1).values[:, None, None]).float()
    centre = (centre * cell_centres(CELLS, CELLS)).sum(1) / centre.sum(1)
    ring = torch.arange(21) * 2 * torch.pi / 21
    offsets = 0.4 * torch.stack([ring.cos(), ring.sin()], 1)
    offsets[9] = 0  # the box's middle
    uv = centre[:, None] + offsets
    off = (uv[:, :, None] - cell_centres(CELLS, CELLS)).square().sum(3)
    sharp = torch.where(spread > 1, 200.0, 0.0)[:, None, None]
    heatmaps = (-sharp * off).view(len(uv), 21, CELLS, CELLS)
    joints = torch.zeros(len(uv), 21, 3)
    joints[:, 1:, 0] = 1.0
    return Pose(joints, uv, heatmaps)


@pytest.fixture
def hand():
    student = HandStudent("resnet10", 0.125, "integral", 2, 32, bone_mm=30.0)
    student.forward = bright_spot
    return Hand(student)


def spot(x, y, size=(90, 120), radius=4):
    picture = np.full((*size, 3), 30, np.uint8)
    v, u = np.mgrid[: size[0], : size[1]]
    picture[(u - x) ** 2 + (v - y) ** 2 < radius**2] = 255
    return picture


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_hand_is_found_in_a_whole_picture(hand, side):
    (found,) = hand(spot(70, 30), side=side)
    assert isinstance(found, HandResult)
    assert found.side == side
    np.testing.assert_allclose(found.joints_px[9], [70, 30], atol=4)
    # one bone to the right in what the network saw: a left hand was mirrored for it
    away = 30.0 if side == "right" else -30.0
    np.testing.assert_allclose(found.joints_mm[1:, 0], away, rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(found.joints_mm[1:], axis=1), 30.0, rtol=1e-6)
    assert found.wrist_mm is None


def test_a_rough_box_is_looked_at_again_until_it_stands_still(hand):
    (rough,) = hand(spot(70, 30), side="right", box=(45, 10, 30, 30))
    np.testing.assert_allclose(rough.joints_px[9], [70, 30], atol=2)


def test_nothing_in_view_is_an_empty_result_and_several_pictures_are_several(hand):
    assert hand(np.full((60, 60, 3), 80, np.uint8)) == []
    nothing, something = hand([np.full((60, 60, 3), 80, np.uint8), spot(70, 30)])
    assert nothing == []
    assert len(something) == 1
    assert len(hand(np.stack([spot(70, 30)] * 2))) == 2


def test_with_a_camera_the_wrist_has_a_place(hand):
    K = np.array([[300.0, 0, 60], [0, 300, 45], [0, 0, 1]])
    (found,) = hand(spot(70, 30), side="right", K=K)
    assert found.wrist_mm.shape == (3,)


def test_a_students_own_unit_counts(hand):
    hand.student.net.unit_mm.fill_(25.0)
    for again, bone_mm in (
        (Hand(hand.student), 25.0),
        (Hand(hand.student, 28.0), hand.student.unit_of(28.0)),
    ):
        (found,) = again(spot(70, 30), side="right")
        assert again.bone_mm == bone_mm
        lengths = np.linalg.norm(found.joints_mm[1:], axis=1)
        np.testing.assert_allclose(lengths, bone_mm, rtol=1e-6)


def test_a_large_jpeg_is_answered_in_the_files_pixels(hand, tmp_path, monkeypatch):
    big = np.kron(spot(70, 30), np.ones((4, 4, 1), np.uint8))
    write_picture(tmp_path / "big.jpg", big)
    K = np.array([[1200.0, 0, 240], [0, 1200, 180], [0, 0, 1]])
    monkeypatch.setattr(hand_module, "PASSES", 1)
    given = {"side": "right", "K": K, "box": (180, 20, 200, 200)}
    (whole,) = hand(tmp_path / "big.jpg", **given)
    monkeypatch.setattr(pictures, "WORKING_PIXELS", big.shape[0] * big.shape[1] // 4)
    (half,) = hand(tmp_path / "big.jpg", **given)
    np.testing.assert_allclose(half.joints_px[9], [281.5, 121.5], atol=8)
    np.testing.assert_allclose(half.joints_px, whole.joints_px, atol=12)
    np.testing.assert_allclose(half.wrist_mm, whole.wrist_mm, rtol=0.15, atol=15)


def test_a_hand_is_followed_over_a_video(hand):
    follow = Follower(hand, hz=30, side="right", steady=False)
    for step in range(8):
        (found,) = follow(spot(40 + 5 * step, 30))
        np.testing.assert_allclose(found.joints_px[9], [40 + 5 * step, 30], atol=5)
    assert follow(np.full((90, 120, 3), 80, np.uint8)) == []


def test_first_boxes_cover_the_picture():
    boxes = first_boxes(np.zeros((90, 120, 3), np.uint8))
    assert boxes[0] == Box(60, 45, 120)
    for x, y in ((5, 5), (115, 5), (60, 85)):
        assert any(abs(x - b.x) < b.side / 2 and abs(y - b.y) < b.side / 2 for b in boxes[1:])


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_picture_is_one_sentence(hand, tmp_path):
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
    picture = spot(70, 30)
    for box in ((1, 2, 3), (0, 0, 0, 5), (0, 0, float("nan"), 5), "box"):
        with pytest.raises(InputError, match="box: expected"):
            hand(picture, box=box)
    with pytest.raises(InputError, match="K: expected"):
        hand(picture, K=np.eye(4))
    with pytest.raises(InputError, match="side: expected"):
        hand(picture, side="both")
    with pytest.raises(InputError, match="pooled head"):
        Hand(HandStudent("resnet10", 0.125, px=32))
    with pytest.raises(InputError, match="found no manifest.json"):
        Hand.from_pretrained(tmp_path / "runs/typed-wrong")
    for settings, weights, sentence in (
        ("{", b"", "expected a hand student's settings"),
        ('{"nonsense": 1}', b"", "expected a hand student's settings"),
        ('{"backbone": "resnet10", "width": 0.0625}', b"junk" * 10**6, "expected weights of"),
        ('{"backbone": "resnet10", "width": 16}', b"junk", "they describe .* weights"),
    ):
        (tmp_path / "config.json").write_text(settings)
        (tmp_path / "model.safetensors").write_bytes(weights)
        write_manifest(tmp_path)
        with pytest.raises(InputError, match=sentence):
            Hand.from_pretrained(tmp_path)
    assert expect_camera([[1, 0, 0], [0, 1, 0], [0, 0, 1]]).shape == (3, 3)
