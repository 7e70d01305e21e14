"""The student that comes with cmkg, as anybody gets it."""

import numpy as np

from cmkg import Hand
from cmkg.hands import geometry
from cmkg.hands.inference.hand import OWN
from cmkg.hands.inference.running import Networks
from cmkg.hands.network.hand_student import load_student
from cmkg.hands.rendering.backgrounds import background, photographs
from cmkg.hands.rendering.scenes import stream
from tests.hands.runs import rendered_hands, rendered_picture

LARGEST_MB = 5


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
    assert found >= 18  # of 24
    assert right_sides >= 0.7 * found
    assert np.median(off) < 0.12  # of the box's side


def test_no_hand_is_an_empty_list():
    hand = Hand.from_pretrained()
    empty = [background(stream("none", 0, n), photographs(), 160) for n in range(20)]
    assert sum(bool(hand(one.astype(np.uint8))) for one in empty) <= 2


def test_what_ships_is_small_and_the_same_by_onnxruntime_and_by_torch():
    assert sum(path.stat().st_size for path in OWN.iterdir()) < LARGEST_MB * 1e6
    student = load_student(OWN)
    pictures = np.stack([rendered_picture(n)[64:160, 64:160] for n in range(3)])
    own, right = Networks.of_folder(OWN, student).see(pictures), Networks(student).see(pictures)
    np.testing.assert_allclose(own.joints, right.joints - right.joints[:, :1], atol=0.05)
    np.testing.assert_allclose(own.uv, right.uv, atol=0.02)
