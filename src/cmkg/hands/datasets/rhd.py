"""RHD, the Rendered Hand pose Dataset (Zimmermann and Brox, ICCV 2017): RGB, depth and mask. The
paper's source.

{training,evaluation}/{color,depth,mask}/%05d.png (320 x 320), {split}/anno_{split}.pickle: {id:
{"uv_vis": (42, 3), "xyz": (42, 3) metres, "K": (3, 3), another camera for each picture}}
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...errors import InputError
from .. import geometry
from ..unpickle import read_pickle
from .files import folder, made, numbers, picture
from .sample import Frame, cropped, implausible, refuse_implausible

LAYOUT = (
    "expected RHD_published_v2: {training,evaluation}/{color,depth,mask}/%05d.png and "
    "anno_{training,evaluation}.pickle beside them; "
    "its owners publish it at "
    "lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html"
)
COUNTS = {"training": 41_258, "evaluation": 2_728}
SIZE = (320, 320)
# theirs: tip -> base
TO_OUR_ORDER = np.array([0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17])
RIGHT = 21  # points 0-20 are the left hand's, 21-41 the right one's
LEFT_PARTS, RIGHT_PARTS = (2, 17), (18, 33)  # mask values; 0 is the background, 1 the person
DEPTH_RANGE_M = 5.0
FIELDS = {"uv_vis": (42, 3), "xyz": (42, 3), "K": (3, 3)}


def decode_depth(rgb):
    """Millimetres uint16 of a depth picture (H, W, 3): metres = (R 256 + G) / 65535 * 5, the high
    byte in red.

    >>> int(decode_depth(np.array([[[26, 10, 0]]], np.uint8))[0, 0])
    509
    """
    raw = rgb[..., 0].astype(np.int64) * 256 + rgb[..., 1]  # uint8 arithmetic would overflow
    return np.rint(raw / 65535 * DEPTH_RANGE_M * 1000).astype(np.uint16)


def larger_hand_is_left(mask):
    """Which hand a picture is of: the side with more mask pixels; a tie goes right."""

    def count(low, high):
        return int(((mask >= low) & (mask <= high)).sum())

    return count(*LEFT_PARTS) > count(*RIGHT_PARTS)


@lru_cache(maxsize=2)
def annotations(root, split):
    """{id: {"uv_vis", "xyz", "K"}} of a split; the entries are looked at when they are used."""
    folder(root, LAYOUT)
    path = Path(root) / split / f"anno_{split}.pickle"
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    held, expected = read_pickle(path, "RHD's annotations"), made(root, **COUNTS)[split]
    if not isinstance(held, dict) or set(held) != set(range(expected)):
        found = f"a dict of {len(held)}" if isinstance(held, dict) else type(held).__name__
        raise InputError(
            f"{path}: expected a dict with the ids 0 to {expected - 1}, found {found}; copy "
            "the file again"
        )
    return held


@dataclass(frozen=True)
class Rhd:
    root: str
    split: str = "training"
    """training or evaluation."""
    px: int = 320
    margin: float = 1.25

    def __post_init__(self):
        if self.split not in COUNTS:
            raise InputError(f"RHD: --split is training or evaluation, got {self.split!r}")

    def __len__(self):
        return len(annotations(self.root, self.split))

    def path(self, kind, i):
        return Path(self.root) / self.split / kind / f"{i:05d}.png"

    def color(self, i):
        return picture(self.path("color", i), SIZE)

    def depth(self, i):
        return decode_depth(picture(self.path("depth", i), SIZE))

    def mask(self, i):
        return picture(self.path("mask", i), SIZE, channels=1)

    def labels(self, i):
        """uv_vis (42, 3), xyz (42, 3) in metres, K (3, 3) of a picture, as float64."""
        name = f"{self.root}/{self.split}/anno_{self.split}.pickle: id {i}"
        entry = annotations(self.root, self.split)[i]
        if not isinstance(entry, dict) or set(FIELDS) - set(entry):
            found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
            raise InputError(
                f"{name}: expected the fields {', '.join(FIELDS)}, found {found}; "
                "copy the file again"
            )
        return [
            numbers(entry[field], shape, f"{name}, field {field!r}")
            for field, shape in FIELDS.items()
        ]

    def hand(self, i, left):
        """joints_mm (21, 3), K, visible (21,) of one of the two hands, in our order."""
        uv_vis, xyz, K = self.labels(i)
        points = TO_OUR_ORDER + (0 if left else RIGHT)
        return 1000.0 * xyz[points], K, uv_vis[points, 2] > 0

    def frame(self, i):
        left = larger_hand_is_left(self.mask(i))
        joints, K, visible = self.hand(i, left)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, left, visible, self.depth(i))

    def samples(self, indices):
        return [
            cropped(self.frame(int(i)), self.px, self.margin, geometry.reference_side)
            for i in indices
        ]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i):
        return f"{self.root}/{self.split}/anno_{self.split}.pickle: id {i}"

    def file_checks(self):
        return [lambda: annotations(self.root, self.split)]

    def item_checks(self, i):
        return [
            lambda: self.color(i),
            lambda: self.depth(i),
            lambda: self.mask(i),
            lambda: self.plausible(i),
        ]

    def plausible(self, i):
        """The hand that the picture is of: the other one may be anywhere."""
        return implausible(*self.hand(i, larger_hand_is_left(self.mask(i)))[:2], SIZE, self.name(i))

    def items(self):
        """How many pictures there are to check, should the annotations be unreadable: those of
        the folder."""
        return len(list((Path(self.root) / self.split / "color").glob("*.png")))

    def describe(self):
        return {
            "dataset": "RHD",
            "split": self.split,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": made(self.root, **COUNTS)["made"],
        }
