import numpy as np

from cmkg.hands.inference.hand_result import HandResult
from cmkg.hands.inference.steady import OneEuro, SteadyHand


def test_still_joints_do_not_tremble_and_fast_ones_do_not_lag():
    rng = np.random.default_rng(0)
    still = 0.5 + 0.01 * rng.normal(size=(200, 21, 2))
    smooth = OneEuro()
    found = np.stack([smooth(one, 1 / 30) for one in still])
    assert found[50:].std(0).mean() < 0.5 * still[50:].std(0).mean()

    fast = np.linspace(0, 6, 60)[:, None, None] * np.ones((1, 21, 2))  # 3 boxes a second
    quick = OneEuro()
    found = np.stack([quick(one, 1 / 30) for one in fast])
    behind = (fast - found)[-1].max() / (fast[1] - fast[0]).max()
    assert behind < 1  # frames


def test_the_first_value_is_itself():
    value = np.ones((21, 2))
    assert np.array_equal(OneEuro()(value, 0.03), value)


def test_a_box_that_breathes_moves_no_joint():
    rng = np.random.default_rng(1)
    steady, found = SteadyHand.new(), []
    for _ in range(100):
        joints_px = np.full((21, 2), [600.0, 450.0]) + rng.normal(size=(21, 2))
        side = 150 * (1 + 0.03 * rng.normal())
        place = np.array([0.0, 0.0, 500.0])
        mm = rng.normal(size=(21, 3))
        one = HandResult(joints_px, mm, "right", (0, 0, side, side), 1.0, 1.0, place)
        found.append(steady(one, 1 / 30))
    moved = np.diff([one.joints_px for one in found[20:]], axis=0)
    assert np.abs(moved).mean() < 0.4
    np.testing.assert_allclose(found[-1].wrist_mm, place)
