"""Draws docs/hands.png: what the network that comes with cmkg says of photographs.

python tools/draw_hands.py FOLDER

FOLDER: photographs that may be shown. They are evenly spaced ones, none left out; the research
photographs on which the network is measured are not ours to show.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from cmkg import Hand
from cmkg.hands.inference.drawing import draw_hands
from cmkg.hands.inference.pictures import read_any_picture, write_picture

DOCS = Path(__file__).parents[1] / "docs"
ROWS, COLUMNS, PX = 2, 6, 180


def main(folder):
    """Writes the picture."""
    paths = sorted(Path(folder).glob("*.jpg"))
    count = ROWS * COLUMNS
    hand, tiles = Hand.from_pretrained(), []
    for number in range(count):
        picture = read_any_picture(paths[number * len(paths) // count])
        drawn = draw_hands(picture, hand(picture))
        tiles.append(cv2.resize(drawn, (PX, PX), interpolation=cv2.INTER_AREA))
    rows = [np.hstack(tiles[at : at + COLUMNS]) for at in range(0, count, COLUMNS)]
    write_picture(DOCS / "hands.png", np.vstack(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
