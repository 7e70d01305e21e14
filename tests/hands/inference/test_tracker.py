import numpy as np
import pytest

from cmkg import Hand, Tracker
from cmkg.errors import InputError
from tests.hands.photographs import right_hand, two_hands


@pytest.fixture(scope="module")
def hand():
    return Hand.from_pretrained()


def moved(picture, step):
    return np.ascontiguousarray(np.roll(picture, 4 * step, axis=1))


def test_a_hand_is_followed_by_its_own_joints(hand, monkeypatch):
    track = Tracker(hand, steady=False, search_every=100)
    (first,) = track(right_hand(), 0.0)
    monkeypatch.setattr(hand, "find", lambda _: pytest.fail("it was looked for again"))
    for step in range(1, 6):
        (found,) = track(moved(right_hand(), step), step / 30)
        assert found.track == first.track == 1
        off = np.linalg.norm(found.joints_px - first.joints_px - [4 * step, 0], axis=1).mean()
        assert off < 0.03 * first.box[2]
    monkeypatch.undo()
    assert track(np.full_like(right_hand(), 128), 1.0) == []
    (again,) = track(right_hand(), 2.0)
    assert again.track == 2


def test_more_hands_are_looked_for_now_and_then(hand):
    track = Tracker(hand, search_every=2)
    width = right_hand().shape[1]
    half = two_hands()
    half[:, :width] = 128
    assert [one.side for one in track(half, 0.0)] == ["right"]
    track(two_hands(), 0.1)
    assert sorted(one.side for one in track(two_hands(), 0.2)) == ["left", "right"]
    only = Tracker(hand, side="left")
    assert [one.side for one in only(two_hands(), 0.0)] == ["left"]
    stated = Tracker(hand, known_side="left")
    assert {one.side for one in stated(two_hands(), 0.0)} == {"left"}


def test_steadied_joints_tremble_less(hand):
    rng = np.random.default_rng(0)
    frames = [
        (right_hand() + rng.normal(0, 12, right_hand().shape)).clip(0, 255).astype(np.uint8)
        for _ in range(8)
    ]

    def tremble(steady):
        track = Tracker(hand, steady=steady)
        places = [track(frame, n / 30)[0].joints_px for n, frame in enumerate(frames)]
        return np.diff(places, axis=0).std()

    assert tremble(True) < 0.7 * tremble(False)


@pytest.mark.usefixtures("unchecked")
def test_times_and_settings_that_cannot_be_are_refused(hand):
    track = Tracker(hand)
    track(right_hand(), 1.0)
    with pytest.raises(InputError, match="seconds: 0.5 is before the last frame's 1.0"):
        track(right_hand(), 0.5)
    with pytest.raises(InputError, match="seconds: nan is before"):
        track(right_hand(), float("nan"))
    with pytest.raises(InputError, match="search_every: expected 1 frame or more"):
        Tracker(hand, search_every=0)
    with pytest.raises(InputError, match="side: expected"):
        Tracker(hand, side="auto")
