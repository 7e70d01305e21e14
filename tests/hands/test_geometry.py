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
