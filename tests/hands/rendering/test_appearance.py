from dataclasses import replace

import numpy as np

from cmkg.hands.rendering.scenes import SceneConfig, draw

SCENE = SceneConfig(px=48, seed=3)


def drawn(appearance):
    return draw(replace(SCENE, appearance=appearance), range(3))


def test_the_four_domains_are_the_same_frames_in_other_colours():
    lit = drawn("lit")
    for name in ("gs", "hom", "sample", "auto"):
        pictures, again = drawn(name), drawn(name)
        for picture, same, own in zip(pictures, again, lit, strict=True):
            assert np.array_equal(picture.rgb, same.rgb)
            assert np.array_equal(picture.joints_mm, own.joints_mm)
            assert np.array_equal(picture.depth, own.depth)
            assert picture.rgb.dtype == np.uint8
            assert not np.array_equal(picture.rgb, own.rgb)


def test_the_green_screen_leaves_the_hand_as_it_was_and_the_others_do_not():
    for own, screen, sample in zip(drawn("lit"), drawn("gs"), drawn("sample"), strict=True):
        inside, outside = own.mask > 0, own.mask == 0
        difference = np.abs(own.rgb.astype(int) - screen.rgb.astype(int))
        assert np.median(difference[inside]) <= 2
        red, green, blue = screen.rgb[outside].astype(int).T
        assert (green > np.maximum(red, blue)).mean() > 0.9
        moved = np.abs(own.rgb.astype(int) - sample.rgb.astype(int))
        assert np.median(moved[inside]) > 2
