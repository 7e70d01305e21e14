import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cmkg.hands.body.kinematics import BonePoses, chain_bones, rotation_matrices, skin

PARENTS = [-1, 0, 1, 0, 3]


def chain_of_matrices(turns, heads):
    """Forward kinematics as textbooks write it: 4 x 4 matrices of each bone against its parent."""
    world = []
    for bone, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = turns[bone]
        local[:3, 3] = heads[bone] - (heads[parent] if parent >= 0 else 0)
        world.append(world[parent] @ local if parent >= 0 else local)
    unposed = [np.linalg.inv(np.block([[np.eye(3), h[:, None]], [0, 0, 0, 1]])) for h in heads]
    return np.stack([w @ u for w, u in zip(world, unposed, strict=True)])


@pytest.fixture
def hands():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 3))


def test_arrays_tensors_and_the_textbook_agree(hands):
    vectors, heads = hands
    ours = chain_bones(rotation_matrices(vectors), heads, PARENTS)
    tensors = chain_bones(rotation_matrices(torch.tensor(vectors)), torch.tensor(heads), PARENTS)
    np.testing.assert_allclose(tensors.R, ours.R, atol=1e-12)
    np.testing.assert_allclose(tensors.t, ours.t, atol=1e-12)
    for i in range(4):
        world = chain_of_matrices(Rotation.from_rotvec(vectors[i]).as_matrix(), heads[i])
        np.testing.assert_allclose(ours.R[i], world[:, :3, :3], atol=1e-12)
        np.testing.assert_allclose(ours.t[i], world[:, :3, 3], atol=1e-12)


def test_rotations_and_their_derivative_where_nothing_turns():
    vectors = torch.randn(6, 3, dtype=torch.float64)
    np.testing.assert_allclose(
        rotation_matrices(vectors), rotation_matrices(vectors.numpy()), atol=1e-12
    )
    still = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_matrices, still)


def test_skinning_is_the_loop_over_vertices_and_bones(hands):
    rng = np.random.default_rng(1)
    rest, weights = rng.normal(size=(4, 7, 3)), rng.dirichlet(np.ones(5), 7)
    bones = BonePoses(rotation_matrices(hands[0]), hands[1])
    loop = np.zeros_like(rest)
    for i, v, j in np.ndindex(4, 7, 5):
        loop[i, v] += weights[v, j] * (bones.R[i, j] @ rest[i, v] + bones.t[i, j])
    np.testing.assert_allclose(skin(rest, weights, bones), loop, atol=1e-12)
