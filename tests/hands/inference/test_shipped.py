"""What comes with cmkg, as anybody gets it."""

import numpy as np

from cmkg import Hand
from cmkg.hands import geometry
from cmkg.hands.inference.hand import OWN
from cmkg.hands.rendering.backgrounds import background, photographs
from cmkg.hands.rendering.people import stream
from tests.hands.runs import rendered_hands, rendered_picture

LARGEST_MB = 9


def test_hands_of_both_sides_are_found_in_whole_pictures():
    hand = Hand.from_pretrained()
    off, right_sides, found = [], 0, 0
    for number, sample in enumerate(rendered_hands()):
        for mirrored in (False, True):
            results = hand(rendered_picture(number, mirrored))
            if not results:
                continue
            found += 1
            one = results[0]
            right_sides += one.side == ("left" if mirrored else "right")
            truth = geometry.project(sample.joints_mm, sample.K)
            if mirrored:
                truth[:, 0] = 255 - truth[:, 0]
            off.append(np.linalg.norm(one.joints_px - truth, axis=1).mean() / one.box[2])
    assert found >= 12  # of 24 rendered ones, in all poses and behind things
    assert right_sides >= 0.7 * found
    assert np.median(off) < 0.1  # of the region's side


def test_no_hand_is_an_empty_list():
    hand = Hand.from_pretrained()
    empty = [background(stream("none", 0, n), photographs(), 160) for n in range(20)]
    assert not any(hand(one.astype(np.uint8)) for one in empty)


def test_what_ships_is_small_and_says_whose_it_is():
    assert sum(path.stat().st_size for path in OWN.iterdir()) < LARGEST_MB * 1e6
    card = (OWN / "README.md").read_text()
    for word in ("MediaPipe", "Apache-2.0", "changed"):
        assert word in card
