import numpy as np
import pytest
from scipy.io import savemat

from cmkg.errors import InputError
from cmkg.hands import geometry
from cmkg.hands.datasets.real_hands import BLOCKS, RealHands


def test_real_hands_are_centimetres_left_and_cropped(photographs):
    folder, joints, cameras, boxes = photographs
    sample = RealHands(str(folder), "train").samples([2])[0]
    back = sample.joints_mm @ sample.rotation  # out of the virtual camera
    np.testing.assert_allclose(back, 10 * joints[2] * [-1, 1, 1], rtol=1e-5)
    assert sample.mirrored
    assert sample.rgb.shape == (80, 80, 3)
    uv = geometry.project(sample.joints_mm, sample.K)
    np.testing.assert_allclose(uv[9], [39.5, 39.5], atol=1e-6)


def test_blocks_are_contiguous_and_do_not_overlap():
    assert BLOCKS["train"] == (0, 360)
    assert BLOCKS["test"] == (360, 460)
    assert BLOCKS["fit"][1] == BLOCKS["validation"][0]
    assert BLOCKS["validation"][1] == BLOCKS["train"][1]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda f: (f / "images/00001.jpg").unlink(),
            "images/00001.jpg: no such file; expected a picture",
        ),
        (
            lambda f: (f / "images/00001.jpg").write_bytes(b"\xff\xd8 broken"),
            "images/00001.jpg: expected",
        ),
        (lambda f: (f / "pose_gt.mat").unlink(), "pose_gt.mat: no such file"),
        (
            lambda f: (f / "pose_gt.mat").write_bytes(b"junk" * 99),
            "pose_gt.mat: expected a MATLAB file",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"other": np.zeros(3)}),
            "pose_gt.mat: has no field 'pose_gt'",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.zeros((460, 20, 3))}),
            r"field 'pose_gt' has shape \(460, 20, 3\)",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.full((460, 21, 3), np.nan)}),
            "'pose_gt' holds a number that is not finite",
        ),
        (
            lambda f: savemat(f / "pose_gt.mat", {"pose_gt": np.ones((100, 21, 3))}),
            "params.mat: field 'cam_param' has shape",
        ),
        (
            lambda f: savemat(f / "params.mat", {"cam_param": np.ones((460, 4))}),
            "params.mat: has no field 'bbox'",
        ),
    ],
)
def test_bad_real_hands_are_one_sentence(photographs, damage, sentence):
    damage(photographs[0])
    with pytest.raises(InputError, match=sentence):
        RealHands(str(photographs[0]), "train").samples([0, 1])
