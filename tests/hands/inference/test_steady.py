import numpy as np

from cmkg.hands.inference.steady import OneEuro


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
