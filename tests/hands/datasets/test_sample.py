import numpy as np

from cmkg.hands import geometry
from cmkg.hands.datasets.freihand import FreiHand
from cmkg.hands.datasets.rhd import Rhd
from cmkg.hands.datasets.stb import Stb


def test_the_reference_crop():
    uv = np.zeros((21, 2))
    uv[9], uv[4] = (100.0, 80.0), (130.0, 75.0)
    uv[[j for j in range(21) if j not in (4, 9)]] = (95.0, 80.0)
    centre, side = geometry.crop_box(uv)
    # twice the largest extent from the middle MCP
    assert centre.tolist() == [100, 80]
    assert side == 60
    seen = np.ones(21, bool)
    seen[4] = False
    assert geometry.crop_box(uv, seen)[1] == 10
    assert geometry.crop_box(uv, np.zeros(21, bool))[1] == 200
    limited = [geometry.reference_side(s) for s in (10, 100, 300, 900)]
    assert limited == [50, 100, 256, 256]  # 256 / side lies in [1, 10]
    assert [geometry.reference_side(s, enlarged=False) for s in (10, 300, 900)] == [50, 300, 500]


def test_left_hands_are_mirrored_and_joints_stay_on_the_picture(made_sets):
    for dataset, left in (
        (Rhd(str(made_sets["rhd"])), [False, True]),
        (Stb(str(made_sets["stb"])), [True, True]),
        (FreiHand(str(made_sets["freihand"])), [False, False]),
    ):
        for i, sample in enumerate(dataset.samples([0, 1])):
            frame = dataset.frame(i)
            assert sample.mirrored == frame.left == left[i]
            back = sample.joints_mm @ sample.rotation
            np.testing.assert_allclose(
                back, frame.joints_mm * ([-1, 1, 1] if left[i] else 1), atol=1e-6
            )
            np.testing.assert_allclose(
                geometry.project(sample.joints_mm, sample.K)[9],
                [(sample.rgb.shape[0] - 1) / 2] * 2,
                atol=1e-6,
            )
        joints = np.stack([s.joints_mm for s in dataset.samples(range(8))])
        across = np.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])
        bend = sum(
            joints[:, 4 * f + k] - joints[:, 4 * f + 1] for f in range(1, 5) for k in (2, 3, 4)
        )
        # a right hand's fingers bend to the palm's side, that of index x little
        assert np.median((bend * across).sum(1)) > 0
