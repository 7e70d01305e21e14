import numpy as np
import pytest

from cmkg.hands import geometry

K = np.array([[500.0, 0, 320], [0, 510.0, 240], [0, 0, 1]])


def points(n=21, seed=0):
    return np.random.default_rng(seed).uniform([-100, -100, 400], [100, 100, 700], (n, 3))


def test_the_virtual_camera_sees_what_the_homography_shows():
    X = points()
    uv = geometry.project(X, K)
    centre, side = geometry.crop_box(uv)
    Kv, R = geometry.virtual_camera(K, centre, side, 80, 1.25)
    H = geometry.homography(K, R, Kv)
    h = np.concatenate([uv, np.ones((21, 1))], 1) @ H.T
    np.testing.assert_allclose(h[:, :2] / h[:, 2:], geometry.project(X @ R.T, Kv), atol=1e-8)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(geometry.project((X @ R.T)[9], Kv), [39.5, 39.5], atol=1e-8)


def test_the_box_fills_its_share_of_the_picture():
    X = points() + [0, 0, 3000]  # far away: perspective does not matter
    centre, side = geometry.crop_box(geometry.project(X, K))
    Kv, R = geometry.virtual_camera(K, centre, side, 100, 1.25)
    extent = np.abs(geometry.project(X @ R.T, Kv) - 49.5).max()
    assert extent == pytest.approx(100 / 1.25 / 2, rel=0.03)


def test_a_mirrored_hand_projects_to_the_mirrored_place():
    X, image = points(), np.zeros((480, 640, 3), np.uint8)
    _, Xm, Km = geometry.mirror(image, X, K)
    expected = geometry.project(X, K)
    expected[:, 0] = 639 - expected[:, 0]
    np.testing.assert_allclose(geometry.project(Xm, Km), expected)


def test_a_box_far_from_the_axis_is_as_large_as_its_angle():
    """`side` pixels at the end of a ray are seen under side / (f |ray|): the picture spans that."""
    camera = np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])
    for ray in ([0.0, 0, 1], [0.6, 0, 1]):
        centre = geometry.project(np.array(ray), camera)
        Kv, R = geometry.virtual_camera(camera, centre, 40.0, 100)
        edge = np.array(ray) + [0, 20 / 500, 0]  # half a side across the ray
        seen = geometry.project(R @ edge, Kv)
        np.testing.assert_allclose(seen, [49.5, 49.5 + 50], atol=1e-6)


@pytest.mark.parametrize(
    ("side", "enlarged", "expected"),
    [
        (100.0, True, 100.0),
        (10.0, False, 50.0),
        (900.0, False, 500.0),
        (900.0, True, 256.0),  # a scale below 1 would shrink it
        (10.0, True, 50.0),
    ],
)
def test_a_box_has_the_limits_of_rhds_reference_crop(side, enlarged, expected):
    assert geometry.reference_side(side, enlarged) == pytest.approx(expected)


def test_the_box_is_about_the_middle_knuckle_over_what_is_seen():
    uv = np.zeros((21, 2))
    uv[9] = [10.0, 20.0]
    uv[4] = [40.0, 20.0]
    centre, side = geometry.crop_box(uv)
    assert (centre.tolist(), side) == ([10.0, 20.0], 60.0)
    seen = np.zeros(21, bool)
    assert geometry.crop_box(uv, seen)[1] == 200.0
    seen[[4, 9]] = True
    uv[0] = [500.0, 0.0]
    assert geometry.crop_box(uv, seen)[1] == 60.0


def test_depth_is_measured_along_the_new_axis():
    """A wall square to the new axis is as far everywhere, however slanted it was to the old one."""
    camera = np.array([[100.0, 0, 49.5], [0, 100.0, 49.5], [0, 0, 1]])
    R = geometry.rotation_to_axis(np.array([0.3, 0.1, 1.0]))
    v, u = np.mgrid[:100, :100]
    rays = np.stack([(u - 49.5) / 100, (v - 49.5) / 100, np.ones((100, 100))], -1)
    wall = 1000 / (rays @ R[2])  # z of the old frame where the new one's is 1000 mm
    new = np.array([[200.0, 0, 19.5], [0, 200.0, 19.5], [0, 0, 1]])
    found = geometry.warp_depth(np.rint(wall).astype(np.uint16), camera, R, new, 40)
    assert np.abs(found.astype(int) - 1000).max() <= 12  # the nearest pixel's, half a pixel away
    assert found.dtype == np.uint16


def test_a_shrunk_picture_is_averaged_and_beyond_the_picture_is_nothing():
    board = np.uint8(255 * (np.indices((64, 64)).sum(0) % 2))[..., None].repeat(3, 2)
    np.testing.assert_array_equal(geometry.warp(board, np.eye(3), 64), board)
    quarter = np.diag([0.25, 0.25, 1.0])
    inner = geometry.warp(board, quarter, 16)[2:-2, 2:-2].astype(int)
    assert np.abs(inner - 127).max() < 30  # without the average every pixel would be 0 or 255
    grey = geometry.warp(np.uint8(255 * np.ones((64, 64, 3))), quarter, 20)
    assert grey[2:14, 2:14].min() == 255
    assert grey[18:].max() == 0


def test_a_mirrored_camera_sees_the_mirrored_hand_where_it_is_in_the_mirrored_picture():
    rng = np.random.default_rng(0)
    joints = rng.uniform(-80, 80, (21, 3)) + [0, 0, 500]
    K = np.array([[500.0, 12.0, 150.0], [0, 480.0, 110.0], [0, 0, 1]])  # with a skew
    picture = rng.integers(0, 255, (240, 320, 3), np.uint8)
    flipped, mirrored, K_mirrored = geometry.mirror(picture, joints, K)
    u, v = geometry.project(joints, K).T
    np.testing.assert_allclose(geometry.project(mirrored, K_mirrored).T, [319 - u, v])
    assert (flipped == picture[:, ::-1]).all()


def test_cameras_that_cannot_be_are_none():
    good = np.array([[500.0, 0, 150], [0, 480, 110], [0, 0, 1]])
    assert geometry.is_camera(good)
    for row, column, value in (
        (0, 0, 1e-300),
        (1, 1, 1e300),
        (0, 2, float("nan")),
        (1, 0, 3.0),
        (2, 2, 2.0),
        (0, 0, -5.0),
    ):
        bad = good.copy()
        bad[row, column] = value
        assert not geometry.is_camera(bad)
