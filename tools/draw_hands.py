"""Draws docs/hands.png: what the student that comes with cmkg says of rendered hands.

python tools/draw_hands.py

Scenes that it has not seen, one after another, none left out; every second one mirrored, so that it
shows a left hand. The photographs on which the student is measured are not ours to show.
"""

from pathlib import Path

import cv2
import numpy as np

from cmkg import Hand
from cmkg.hands.datasets.rendered import Rendered
from cmkg.hands.experiments.main import FIRST_TEST_SCENE
from cmkg.hands.experiments.weights import SCENE
from cmkg.hands.inference.drawing import draw_hands
from cmkg.hands.inference.pictures import write_picture
from cmkg.runtime.settings import replace_settings

DOCS = Path(__file__).parents[1] / "docs"
FIRST = FIRST_TEST_SCENE + 100_000
ROWS, COLUMNS, PX = 2, 6, 160


def main():
    """Writes the picture."""
    scene = replace_settings(SCENE, px=2 * PX, margin=1.7, in_front=0.15)
    hands = Rendered(scene, ROWS * COLUMNS, FIRST).samples(range(ROWS * COLUMNS))
    hand = Hand.from_pretrained()
    tiles = []
    for number, one in enumerate(hands):
        picture = np.ascontiguousarray(one.rgb[:, :: -1 if number % 2 else 1])
        drawn = draw_hands(picture, hand(picture))
        tiles.append(cv2.resize(drawn, (PX, PX), interpolation=cv2.INTER_AREA))
    rows = [np.hstack(tiles[at : at + COLUMNS]) for at in range(0, len(tiles), COLUMNS)]
    write_picture(DOCS / "hands.png", np.vstack(rows))
    write_picture(DOCS / "hand.jpg", hands[9].rgb)  # what a first `cmkg predict` can be given


if __name__ == "__main__":
    main()
