"""The photograph that ships with the page: a right hand, its palm to the camera."""

from functools import lru_cache
from pathlib import Path

import numpy as np

import cmkg.hands.page
from cmkg.hands.inference.pictures import read_any_picture

SAMPLE = Path(cmkg.hands.page.__file__).with_name("sample.jpg")


@lru_cache
def right_hand():
    return read_any_picture(SAMPLE)


def left_hand():
    return np.ascontiguousarray(right_hand()[:, ::-1])


def two_hands():
    """A left and a right one, side by side."""
    return np.hstack([left_hand(), right_hand()])


def beside_something_large():
    """A small hand in a large picture, beside something as large as a person."""
    picture = np.full((960, 1280, 3), 150, np.uint8)
    picture[200:, 700:1100] = (90, 70, 60)
    picture[560:880, 80:400] = right_hand()
    return picture
