import numpy as np

from cmkg.hands.skeleton import BONES, retarget_matrix


def test_retargeting_sets_bone_lengths_and_keeps_directions():
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(21, 3))
    joints -= joints[0]
    lengths = np.array([np.linalg.norm(joints[b] - joints[a]) for a, b in BONES])
    wanted = rng.uniform(0.5, 2, 20)
    moved = retarget_matrix(lengths, wanted) @ joints
    for (a, b), old, new in zip(BONES, lengths, wanted, strict=False):
        np.testing.assert_allclose((moved[b] - moved[a]) / new, (joints[b] - joints[a]) / old)
    np.testing.assert_allclose(moved[0], 0)
