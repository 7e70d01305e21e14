import cv2
import numpy as np
import pytest

from cmkg.hands import geometry
from cmkg.hands.inference.placing import place_wrist
from cmkg.hands.inference.seeing import Box, Place, assumed_camera, direction_of, look_at
from cmkg.hands.skeleton import MIDDLE_MCP

K = np.array([[520.0, 0, 310], [0, 530, 250], [0, 0, 1]])


def hand_in_front(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(21, 3)) * 40 + [90.0, -50.0, 450.0]


@pytest.mark.parametrize("whose", ["right", "left"])
@pytest.mark.parametrize("px", [32, 224])
def test_joints_come_back_from_the_view_to_the_picture_and_its_camera(whose, px):
    joints = hand_in_front()
    joints_px = geometry.project(joints, K)
    picture = np.zeros((480, 640, 3), np.uint8)
    view = look_at(picture, Place(Box.of_joints(joints_px), whose, (0.6, 0.8)), K, px)
    own = joints * [-1.0, 1, 1] if whose == "left" else joints
    seen = own @ view.R.T  # what the virtual camera has before it
    uv = (2 * geometry.project(seen, view.K) + 1) / px - 1
    square = K[0, 0] == K[1, 1]
    np.testing.assert_allclose(view.to_picture(uv), joints_px, atol=1e-6 if square else 1e-6)
    np.testing.assert_allclose(view.to_camera(seen), joints, atol=1e-9)
    assert np.abs(uv[MIDDLE_MCP]).max() < 1e-6 + 1 / px  # the box's middle


@pytest.mark.parametrize("whose", ["right", "left"])
@pytest.mark.parametrize("side", [40.0, 90.0, 700.0])
def test_what_is_drawn_at_a_place_is_seen_there(side, whose):
    """A dot in a picture of any size, and where the view says it is."""
    picture = np.zeros((900, 1200, 3), np.uint8)
    radius = max(int(side / 20), 2)
    cv2.circle(picture, (700, 300), radius, (255, 255, 255), -1)
    box = Box(700 + side / 5, 300 - side / 8, side)
    view = look_at(picture, Place(box, whose, (-0.8, 0.6)), assumed_camera(picture), 64)
    weight = view.picture[..., 0].astype(float)
    v, u = np.mgrid[:64, :64]
    found = np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
    uv = np.tile((2 * found + 1) / 64 - 1, (21, 1))
    np.testing.assert_allclose(view.to_picture(uv)[0], [700, 300], atol=0.02 * side)


@pytest.mark.parametrize("whose", ["right", "left"])
def test_a_hand_is_seen_upright(whose):
    """As NetConfig.upright turns training hands: the middle MCP right above the wrist."""
    joints_px = geometry.project(hand_in_front(2), K)
    box, way = Box.of_joints(joints_px), direction_of(joints_px)
    view = look_at(np.zeros((480, 640, 3), np.uint8), Place(box, whose, way), K, 96)
    homogeneous = np.column_stack([joints_px, np.ones(21)]) @ view.to_view.T
    seen = homogeneous[:, :2] / homogeneous[:, 2:]
    right, down = seen[MIDDLE_MCP] - seen[0]
    assert down < 0
    assert abs(right) < 0.1 * abs(down)  # but for the turn of the virtual camera


def test_boxes():
    a, b = Box(50, 50, 20), Box(60, 50, 20)
    assert a.overlap(a) == 1
    assert a.overlap(b) == pytest.approx(10 * 20 / (800 - 200))
    assert a.overlap(Box(100, 50, 20)) == 0
    assert Box.around(10, 20, 30, 10) == Box(25, 25, 30)
    assert a.towards(Box(55, 52, 100)) == Box(55, 52, 32)


def test_the_wrist_is_placed_where_it_was():
    joints = hand_in_front(1)
    relative = joints - joints[0]
    exact = geometry.project(joints, K)
    found = place_wrist(relative, exact, K, np.ones(21))
    np.testing.assert_allclose(found, joints[0], atol=1e-6)
    # with noise: no nearby place projects better
    noisy = exact + np.random.default_rng(2).normal(size=(21, 2)) * 3
    weights = np.linspace(0.2, 1, 21)

    def cost(wrist):
        off = geometry.project(relative + wrist, K) - noisy
        return (weights * (off**2).sum(1)).sum()

    found = place_wrist(relative, noisy, K, weights)
    best = cost(found)
    for step in np.vstack([np.eye(3), -np.eye(3)]):
        assert cost(found + 0.5 * step) > best
