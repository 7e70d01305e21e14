"""The rasteriser against shapes whose depth is known; the hand against its own joints;
determinism."""

import numpy as np
import pytest

from cmkg.hands import geometry, poses, scenes
from cmkg.hands.mesh import ANGLES, LIMITS_DEG, anny_hand, pose, skeleton
from cmkg.hands.render import Look, Renderer
from cmkg.hands.skeleton import BONES

PX = 96
K = np.array([[120.0, 0, PX / 2 - 0.5], [0, 120.0, PX / 2 - 0.5], [0, 0, 1]])


def plain_look(count):
    lamp = np.array([[0, 0, -1.0], [0, -1.0, 0]])
    return Look(
        np.full((count, 3), 0.5),
        lamp,
        np.full((2, 3), 0.5),
        np.full(3, 0.3),
        np.full(3, 0.3),
        0.0,
        0.0,
        99.0,
        np.zeros((2, 3)),
        0.0,
    )


def draw_mesh(vertices, faces):
    rgb, depth = Renderer(vertices, faces, np.zeros(len(vertices))).draw(
        vertices[None], K[None], PX, [plain_look(len(vertices))]
    )
    return rgb[0], depth[0]


def rays():
    u, v = np.meshgrid(np.arange(PX), np.arange(PX))
    return np.stack([(u - K[0, 2]) / 120, (v - K[1, 2]) / 120, np.ones((PX, PX))], -1)


def test_a_tilted_plane():
    corners = np.array([[-1, -1, 0.4], [1, -1, 0.5], [1, 1, 0.7], [-1, 1, 0.6]])
    normal = np.cross(corners[1] - corners[0], corners[3] - corners[0])
    _, depth = draw_mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))
    expected = normal @ corners[0] / (rays() @ normal)
    assert (depth > 0).all()
    assert np.abs(depth - expected).max() < 0.0005


def icosphere(radius, centre, divisions=5):
    t = (1 + 5**0.5) / 2
    v = np.array(
        [
            [-1, t, 0],
            [1, t, 0],
            [-1, -t, 0],
            [1, -t, 0],
            [0, -1, t],
            [0, 1, t],
            [0, -1, -t],
            [0, 1, -t],
            [t, 0, -1],
            [t, 0, 1],
            [-t, 0, -1],
            [-t, 0, 1],
        ]
    )
    f = np.array(
        [
            [0, 11, 5],
            [0, 5, 1],
            [0, 1, 7],
            [0, 7, 10],
            [0, 10, 11],
            [1, 5, 9],
            [5, 11, 4],
            [11, 10, 2],
            [10, 7, 6],
            [7, 1, 8],
            [3, 9, 4],
            [3, 4, 2],
            [3, 2, 6],
            [3, 6, 8],
            [3, 8, 9],
            [4, 9, 5],
            [2, 4, 11],
            [6, 2, 10],
            [8, 6, 7],
            [9, 8, 1],
        ]
    )
    for _ in range(divisions):
        a, b, c = (v[f[:, i]] for i in range(3))
        n = len(v)
        v = np.concatenate([v, a + b, b + c, c + a])
        m = len(f)
        ab, bc, ca = (n + i * m + np.arange(m) for i in range(3))
        f = np.concatenate(
            [
                np.stack(q, 1)
                for q in ((f[:, 0], ab, ca), (f[:, 1], bc, ab), (f[:, 2], ca, bc), (ab, bc, ca))
            ]
        )
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
    return radius * v + centre, f


def test_a_sphere_and_its_light():
    centre, radius = np.array([0.02, -0.01, 0.5]), 0.12
    rgb, depth = draw_mesh(*icosphere(radius, centre))
    r = rays()
    a, b, c = (r**2).sum(-1), r @ centre, centre @ centre - radius**2
    disc = b**2 - a * c
    hit = disc > 0
    expected = (b - np.sqrt(np.maximum(disc, 0))) / a
    # away from the silhouette, where a facet's chord is longest
    inner = disc > 0.02 * b**2 * radius
    assert np.abs(depth - expected)[inner].max() < 0.0005
    assert ((depth > 0) != hit).mean() < 0.01
    assert rgb[hit].min() >= 0
    assert rgb[int(PX / 2), int(PX / 2)].mean() > rgb[hit].mean()


def test_joints_lie_in_the_hand_and_the_depth_agrees():
    config = scenes.SceneConfig(px=96, noisy_depth=False)
    inside = behind = total = 0
    for s in scenes.draw(config, range(24)):
        uv = np.rint(geometry.project(s["joints_mm"], s["K"])).astype(int)
        for (u, v), z in zip(
            uv[np.r_[0:4, 5:8, 9:12, 13:16, 17:20]],
            s["joints_mm"][np.r_[0:4, 5:8, 9:12, 13:16, 17:20], 2],
            strict=False,
        ):
            total += 1
            inside += s["mask"][max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].any()
            # the skin is in front of the bone
            behind += s["depth"][v, u] == 0 or s["depth"][v, u] < z + 3
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
        for key, value in together[5].items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
    assert not np.array_equal(
        together[5]["rgb"], scenes.draw(scenes.SceneConfig(px=32, seed=5), [35])[0]["rgb"]
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


def test_poses_are_inside_human_limits_and_mostly_free_of_collisions():
    shape, free = np.zeros(len(anny_hand().shape_directions)), 0
    for i in range(200):
        angles = poses.sample_free_angles(scenes.stream("t", i), anny_hand(), shape)
        assert (angles >= LIMITS_DEG[:, 0]).all()
        assert (angles <= LIMITS_DEG[:, 1]).all()
        free += not poses.collides(skeleton(anny_hand(), shape, angles)[2])
    assert free > 190


def test_gestures_are_inside_human_limits_and_shut_more_fingers():
    def draws(draw):
        return np.stack([draw(scenes.stream("g", i)) for i in range(300)])

    gestures, others = draws(poses.sample_gesture), draws(poses.sample_angles)
    assert (gestures >= LIMITS_DEG[:, 0]).all()
    assert (gestures <= LIMITS_DEG[:, 1]).all()

    # the middle joints of all four fingers
    def fists(angles):
        return (angles[:, 2:16:4] > 80).all(1).mean()

    assert fists(gestures) > 2 * fists(others)


def test_wide_scenes_are_rolled_by_any_angle():
    def up(wide):
        return np.stack(
            [
                scenes.sample_orientation(scenes.stream("r", i), anny_hand(), 30, wide)
                @ (anny_hand().rest_joints[9] - anny_hand().rest_joints[0])
                for i in range(300)
            ]
        )

    assert (up(False)[:, 1] > 0).mean() < 0.1  # image y points down: few hands hang
    assert 0.4 < (up(True)[:, 1] > 0).mean() < 0.6
    plain, wide = (scenes.scene(scenes.SceneConfig(seed=3, wide=w), 0) for w in (False, True))
    assert not np.allclose(plain.joints, wide.joints)


def test_flexion_bends_towards_the_palm_and_keeps_bone_lengths():
    hand = anny_hand()
    names = [a[0] for a in ANGLES]
    zero, bent = np.zeros(len(ANGLES)), np.zeros(len(ANGLES))
    bent[[i for i, n in enumerate(names) if n.endswith(("pip flexion", "mcp flexion"))]] = 60
    shape = np.zeros(len(hand.shape_directions))
    (_, open_hand), (_, fist) = pose(hand, shape, zero), pose(hand, shape, bent)
    assert ((fist - open_hand)[[8, 12, 16, 20]] @ hand.palm_normal > 0.03).all()
    for a, b in BONES:
        assert np.linalg.norm(fist[b] - fist[a]) == pytest.approx(
            np.linalg.norm(open_hand[b] - open_hand[a]), rel=0.02
        )


def test_views_stay_within_the_flag():
    def turned(views_deg):
        rotations = [
            scenes.sample_orientation(scenes.stream("o", i), anny_hand(), views_deg)
            @ scenes.upright(anny_hand()).T
            for i in range(300)
        ]
        # between palm and camera
        return np.rad2deg([np.arccos(np.clip(R[2, 2], -1, 1)) for R in rotations])

    assert turned(40.0).max() <= 40.001
    # both faces, the palm more often
    assert turned(180.0).max() > 150
    assert np.median(turned(180.0)) < 90


@pytest.mark.slow
def test_our_skinning_is_annys():
    """The same pose through Anny's own forward pass. Needs `pip install cmkg[hand]`; Anny's
    first load takes a minute."""
    anny, torch = pytest.importorskip("anny"), pytest.importorskip("torch")
    model = anny.Anny()
    hand = anny_hand()
    labels = list(hand.bones)
    rotation = torch.eye(4, dtype=model.dtype).repeat(1, model.bone_count, 1, 1)
    out0 = model(pose_parameters=rotation)
    from cmkg.hands.mesh import axis_angle, skin

    bone, axis = (
        labels.index("finger3-1.R"),
        np.array([0.3, 0.9, 0.1]) / np.linalg.norm([0.3, 0.9, 0.1]),
    )
    turn = axis_angle(axis, np.array(0.7))
    delta = rotation.clone()
    delta[0, model.bone_labels.index("finger3-1.R"), :3, :3] = torch.as_tensor(turn)
    moved = (
        model(pose_parameters=delta, pose_parameterization="local-ref")["vertices"][0]
        - out0["vertices"][0]
    )
    kept = moved.norm(dim=1).numpy()
    R, t = np.tile(np.eye(3), (len(labels), 1, 1)), np.zeros((len(labels), 3))
    for b in (bone, bone + 1, bone + 2):
        R[b], t[b] = turn, hand.joints[bone] - turn @ hand.joints[bone]
    ours = np.linalg.norm(skin(hand.template, hand.weights, R, t) - hand.template, axis=1)
    assert np.sort(ours)[-50:].mean() == pytest.approx(
        np.sort(kept)[-50:].mean(), rel=0.1
    )  # the mean person is not Anny's default
    assert (ours > 1e-6).sum() == pytest.approx((kept > 1e-6).sum(), rel=0.1)
