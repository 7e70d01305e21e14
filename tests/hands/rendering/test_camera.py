from dataclasses import replace

import numpy as np
import pytest

from cmkg.hands.rendering.camera import Camera, ambient_light, develop, sample_camera, sense_depth

STILL = 0  # a stream whose first draw is no motion blur
PLAIN = Camera(1.0, np.eye(3), 1.0, 0.0, 0.0, (0.0, 0.0), 100)


def photograph(camera, brightness=0.5, cover=1.0):
    light = np.full((32, 32, 3), brightness * cover, np.float32)
    mask = np.full((32, 32), cover, np.float32)
    behind = np.full((32, 32, 3), 90.0, np.float32)
    return develop(np.random.default_rng(STILL), camera, light, mask, behind).astype(float)


def test_without_a_hand_the_background_comes_back():
    assert np.abs(photograph(PLAIN, cover=0.0) - 90).max() <= 1


def test_light_exposure_and_black_brighten():
    base = photograph(PLAIN).mean()
    assert photograph(PLAIN, brightness=0.8).mean() > base + 5
    assert photograph(replace(PLAIN, exposure=1.4)).mean() > base + 5
    assert photograph(replace(PLAIN, black=10.0)).mean() == pytest.approx(base + 10, abs=1)


def test_noise_has_the_strength_that_is_asked_for():
    little, much = (photograph(replace(PLAIN, noise=(n, 0.0))).std() for n in (4.0, 8.0))
    assert much / little == pytest.approx(2, rel=0.1)
    assert 2 < little < 4  # JPEG takes some of its colour


def test_a_camera_follows_from_its_stream():
    a, b, c = (sample_camera(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert a.exposure == b.exposure != c.exposure
    assert 45 <= a.jpeg_quality < 97


def test_depth_is_rounded_and_its_noise_grows_with_the_square_of_distance():
    rng = np.random.default_rng(0)
    exact = np.full((64, 64), 500.4, np.float32)
    exact[:, :8] = 0  # nothing there
    assert (sense_depth(rng, exact, noisy=False) == np.rint(exact)).all()
    spread = []
    for distance in (500, 1000):
        measured = sense_depth(rng, np.full((64, 64), distance, np.float32), noisy=True)
        assert measured.dtype == np.uint16
        assert 0 <= (measured == 0).mean() < 0.01  # few holes on a plane
        spread.append(measured[measured > 0].std())
    assert spread[0] == pytest.approx(1.5, rel=0.15)
    assert spread[1] / spread[0] == pytest.approx(4, rel=0.15)
    edge = np.full((64, 64), 500.0, np.float32)
    edge[:, 32:] = 900.0
    lost = sense_depth(rng, edge, noisy=True) == 0
    assert 0.2 < lost[:, 31:33].mean() < 0.8  # half of what lies at a step
    assert lost[:, :30].mean() < 0.01


def test_creases_get_less_light():
    depth = np.full((48, 48), 0.5)
    assert ambient_light(depth) == pytest.approx(1.0)
    depth[20:28, 20:28] += 0.05  # a pit, farther away
    light = ambient_light(depth)
    assert light[24, 24] < 0.9 < light[4, 4]
    assert ambient_light(np.zeros((48, 48))) == pytest.approx(1.0)
