from dataclasses import replace

import numpy as np
import pytest

from cmkg.hands import geometry
from cmkg.hands.body.mesh import anny_hand
from cmkg.hands.rendering import people, scenes
from cmkg.hands.skeleton import BONES


def test_joints_lie_in_the_hand_and_the_depth_agrees():
    config = scenes.SceneConfig(px=96, noisy_depth=False)
    inside = behind = total = 0
    for s in scenes.draw(config, range(24)):
        uv = np.rint(geometry.project(s.joints_mm, s.K)).astype(int)
        for (u, v), z in zip(
            uv[np.r_[0:4, 5:8, 9:12, 13:16, 17:20]],
            s.joints_mm[np.r_[0:4, 5:8, 9:12, 13:16, 17:20], 2],
            strict=False,
        ):
            total += 1
            inside += s.mask[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].any()
            # the skin is in front of the bone
            behind += s.depth[v, u] == 0 or s.depth[v, u] < z + 3
    assert inside / total > 0.99
    assert behind / total > 0.98


@pytest.mark.parametrize(
    "config",
    [scenes.SceneConfig(px=32, seed=4), scenes.SceneConfig(px=32, seed=4, sequences=2, frames=40)],
)
def test_a_sample_depends_on_seed_and_index_alone(config):
    together = scenes.draw(config, range(30, 40))
    alone = scenes.draw(config, [35])[0]
    backwards = scenes.draw(config, [39, 35, 2])[1]
    for other in (alone, backwards):
        for key, value in vars(together[5]).items():
            np.testing.assert_array_equal(value, getattr(other, key), err_msg=key)
    assert not np.array_equal(
        together[5].rgb, scenes.draw(scenes.SceneConfig(px=32, seed=5), [35])[0].rgb
    )


def test_sequences_are_smooth_and_share_one_person():
    config = scenes.SceneConfig(px=32, sequences=2, frames=60)
    found = [scenes.sequence_scene(config, i) for i in range(58)]
    steps = [
        np.linalg.norm((b.joints - b.joints[0]) - (a.joints - a.joints[0]), axis=1).max()
        for a, b in zip(found, found[1:], strict=False)
    ]
    assert max(steps) < 0.03  # metres between two frames
    lengths = [
        [np.linalg.norm(s.joints[b] - s.joints[a]) for a, b in BONES[::4]]
        for s in (*found[:5], scenes.sequence_scene(config, 70))
    ]
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], np.shape(lengths)), rtol=1e-6)


def test_wide_scenes_are_rolled_by_any_angle():
    def up(wide):
        return np.stack(
            [
                people.sample_orientation(people.stream("r", i), anny_hand(), 30, wide)
                @ (anny_hand().rest_joints[9] - anny_hand().rest_joints[0])
                for i in range(300)
            ]
        )

    assert (up(False)[:, 1] > 0).mean() < 0.1  # image y points down: few hands hang
    assert 0.4 < (up(True)[:, 1] > 0).mean() < 0.6
    plain, wide = (scenes.scene_of(scenes.SceneConfig(seed=3, wide=w), 0) for w in (False, True))
    assert not np.allclose(plain.joints, wide.joints)


def test_views_stay_within_the_flag():
    def turned(views_deg):
        rotations = [
            people.sample_orientation(people.stream("o", i), anny_hand(), views_deg)
            @ people.upright(anny_hand()).T
            for i in range(300)
        ]
        # between palm and camera
        return np.rad2deg([np.arccos(np.clip(R[2, 2], -1, 1)) for R in rotations])

    assert turned(40.0).max() <= 40.001
    # both faces, the palm more often
    assert turned(180.0).max() > 150
    assert np.median(turned(180.0)) < 90


def test_hands_may_lie_anywhere_in_their_boxes():
    config = scenes.SceneConfig(px=64, seed=5, noisy_depth=False)
    placed = replace(config, box_shift=0.1, box_zoom=0.25)
    middles, sides = [], []
    for own, moved in zip(
        scenes.draw(config, range(20)), scenes.draw(placed, range(20)), strict=True
    ):
        assert np.array_equal(own.rotation, np.eye(3))
        centre, side = geometry.crop_box(geometry.project(own.joints_mm, own.K))
        assert centre == pytest.approx(np.array([31.5, 31.5]), abs=0.51)
        centre_moved, side_moved = geometry.crop_box(geometry.project(moved.joints_mm, moved.K))
        middles.append((centre_moved - centre) / side)
        sides.append(side_moved / side)
        bones = np.linalg.norm(moved.joints_mm[1:] - moved.joints_mm[:-1], axis=1)
        same = np.linalg.norm(own.joints_mm[1:] - own.joints_mm[:-1], axis=1)
        assert bones == pytest.approx(same, rel=1e-4)
        v, u = np.nonzero(moved.mask)
        assert len(v) > 50
    assert 0.05 < np.abs(middles).max() < 0.15
    assert 0.75 < min(sides) < 0.9 < 1.1 < max(sides) < 1.35
