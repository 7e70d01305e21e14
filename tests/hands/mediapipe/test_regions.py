import numpy as np
import pytest

from cmkg.hands.mediapipe.palms import PX as PALM_PX
from cmkg.hands.mediapipe.palms import anchors, letterbox, palms_of
from cmkg.hands.mediapipe.regions import PX, Region, view_of


def hand_points(rng, size=100.0):
    """A rough upright hand: the wrist below, fingers above."""
    points = np.zeros((21, 2))
    for finger in range(5):
        for part in range(4):
            points[1 + 4 * finger + part] = [0.2 * (finger - 2), -0.5 - 0.15 * part]
    return size * (points + 0.02 * rng.standard_normal((21, 2))) + [300, 200]


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.5, -1.4])
def test_a_region_turns_and_grows_with_its_joints(angle):
    rng = np.random.default_rng(0)
    points = hand_points(rng)
    c, s = np.cos(angle), np.sin(angle)
    turned = 2 * (points - points[0]) @ np.array([[c, s], [-s, c]]) + [50, 900]
    first, second = Region.of_joints(points), Region.of_joints(turned)
    np.testing.assert_allclose(second.side, 2 * first.side, rtol=0.05)
    np.testing.assert_allclose(first.to_screen(points), second.to_screen(turned), atol=6)
    knuckles = first.to_screen(points)[[9]] - first.to_screen(points)[[0]]
    assert abs(knuckles[0, 0]) < 3  # the middle MCP is right above the wrist
    assert knuckles[0, 1] < 0


def test_places_and_joints_come_back_from_the_networks_frame():
    rng = np.random.default_rng(1)
    region = Region.of_joints(hand_points(rng)).changed(0.3, 1.2, (0.1, -0.05))
    points = rng.uniform(0, 500, (21, 2))
    np.testing.assert_allclose(region.to_picture(region.to_screen(points)), points)
    joints = rng.standard_normal((21, 3))
    np.testing.assert_allclose(region.to_camera(region.from_camera(joints)), joints)
    # 3D joints turn as the picture does
    flat = np.column_stack([points - points[0], np.zeros(21)])
    own = region.from_camera(flat)[:, :2] * PX / region.side
    np.testing.assert_allclose(own, region.to_screen(points) - region.to_screen(points)[0])


@pytest.mark.parametrize("side", [120.0, 1500.0])
def test_the_view_shows_what_is_at_a_place(side):
    picture = np.zeros((900, 1200, 3), np.uint8)
    region = Region(500.0, 450.0, side, 0.6)
    place = np.array([[500 + side / 5, 450 - side / 7]])
    radius = side / 40
    v, u = np.mgrid[:900, :1200]
    picture[(u - place[0, 0]) ** 2 + (v - place[0, 1]) ** 2 < radius**2] = 255
    seen = view_of(picture, region)[..., 0].astype(float)
    rows, columns = np.indices((PX, PX)) + 0.5
    middle = [(columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()]
    np.testing.assert_allclose(middle, region.to_screen(place)[0], atol=0.6)


def test_palms_come_back_in_the_pictures_pixels():
    """Two anchors of one palm, and one of another: two palms, the surest first."""
    place = letterbox(np.zeros((400, 800, 3), np.uint8))
    assert place.picture.shape == (PALM_PX, PALM_PX, 3)
    boxes, scores = np.zeros((2016, 18), np.float32), np.full(2016, -20.0, np.float32)

    def put(anchor, x, y, size, score):
        own = (np.array([x, y]) + 0.5) / place.scale + [place.left, place.top] - anchors()[anchor]
        boxes[anchor, :2], boxes[anchor, 2:4] = own, size / place.scale
        boxes[anchor, 4:] = np.tile(own, 7)
        boxes[anchor, 9] -= 20 / place.scale  # the middle MCP: 20 pixels above the wrist
        scores[anchor] = score

    put(700, 200, 150, 80, 3.0)
    put(701, 204, 150, 80, 2.0)
    put(1500, 600, 250, 40, 1.0)
    first, second = palms_of(boxes, scores, place, 0.5)
    assert first.score > second.score
    np.testing.assert_allclose([second.region.x, second.region.y], [600, 250 - 20], atol=0.5)
    np.testing.assert_allclose([second.region.side, second.region.angle], [2.6 * 40, 0], atol=0.1)
    assert 200 < first.region.x < 204  # their mean, by score
    assert palms_of(boxes, scores, place, 0.999) == []
