"""RHD, the Rendered Hand pose Dataset (Zimmermann and Brox, ICCV 2017): the paper's source dataset.

RGB, depth and mask:

    {training,evaluation}/{color,depth,mask}/%05d.png (320 x 320), {split}/anno_{split}.pickle:
    {id: {"uv_vis": (42, 3), "xyz": (42, 3) meters, "K": (3, 3), a different camera per picture}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from .. import geometry
from ..files.pickles import read_pickle
from ..files.reading import (
    as_numbers,
    expect_folder,
    expected_counts,
    is_made,
    read_photograph,
    read_picture,
)
from .label_checks import disagreements
from .sample import (
    Frame,
    Joints,
    Matrix,
    Reading,
    Sample,
    Visible,
    crop_frame,
    implausible,
    read_once,
    refuse_implausible,
)

LAYOUT = (
    "expected RHD_published_v2: {training,evaluation}/{color,depth,mask}/%05d.png and "
    "anno_{training,evaluation}.pickle beside them; its owners publish it at "
    "lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html"
)
COUNTS = {"training": 41_258, "evaluation": 2_728}
SIZE = (320, 320)
# RHD lists each finger from its tip to its base.
TO_OUR_ORDER = np.array([0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17])
RIGHT = 21  # points 0-20 are the left hand's, 21-41 the right one's
LEFT_PARTS, RIGHT_PARTS = (2, 17), (18, 33)  # mask values; 0 is the background, 1 the person
DEPTH_RANGE_M = 5.0
FIELDS = {"uv_vis": (42, 3), "xyz": (42, 3), "K": (3, 3)}


class Labels(NamedTuple):
    """The labels of both hands: pixels and visibility, meters, and the camera."""

    uv_vis: Float[np.ndarray, "42 3"]
    xyz: Float[np.ndarray, "42 3"]
    K: Matrix


class OneHand(NamedTuple):
    """The label of one hand in this project's joint order."""

    joints_mm: Joints
    K: Matrix
    visible: Visible


def decode_rhd_depth(rgb: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "h w"]:
    """Decodes a depth picture to uint16 millimeters.

    meters = (R 256 + G) / 65535 * 5, with the high byte in red.

    >>> int(decode_rhd_depth(np.array([[[26, 10, 0]]], np.uint8))[0, 0])
    509
    """
    raw = rgb[..., 0].astype(np.int64) * 256 + rgb[..., 1]  # uint8 arithmetic would overflow
    return np.rint(raw / 65535 * DEPTH_RANGE_M * 1000).astype(np.uint16)


def larger_hand_is_left(mask: Shaped[np.ndarray, "h w"]) -> bool:
    """Whether the left hand has more mask pixels; a tie counts as right."""

    def count(low: int, high: int) -> int:
        return int(((mask >= low) & (mask <= high)).sum())

    return count(*LEFT_PARTS) > count(*RIGHT_PARTS)


@lru_cache(maxsize=2)
def read_annotations(root: str, split: str) -> dict[int, Any]:
    """Reads {id: {"uv_vis", "xyz", "K"}} of a split; entries are validated when they are used."""
    expect_folder(root, LAYOUT)
    path = Path(root) / split / f"anno_{split}.pickle"
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    annotations = read_pickle(path, "RHD's annotations")
    if not isinstance(annotations, dict) or not all(
        isinstance(number, int) for number in annotations
    ):
        raise InputError(
            f"{path}: expected a dict with a number an entry, found {type(annotations).__name__}; "
            "copy the file again"
        )
    return dict(sorted(annotations.items()))


@lru_cache(maxsize=4)
def _ids(root: str, split: str) -> tuple[int, ...]:
    return tuple(read_annotations(root, split))


def expect_all_annotations(root: str, split: str) -> None:
    """Rejects annotations that do not match the pictures.

    Raises:
        InputError: annotations are missing or extra.
    """
    entries, expected = read_annotations(root, split), expected_counts(root, **COUNTS)[split]
    if set(entries) != set(range(expected)):
        raise InputError(
            f"{Path(root) / split / f'anno_{split}.pickle'}: expected a dict with the ids 0 to "
            f"{expected - 1}, found a dict of {len(entries)}; copy the file again, or take what is "
            "there: --only-present"
        )


@dataclass(frozen=True)
class Rhd:
    """A split of RHD."""

    root: str
    split: str = "training"
    """training or evaluation."""
    px: int = 320
    margin: float = 1.25
    complete: bool = True
    """Reject annotations that do not cover every picture."""

    def __post_init__(self) -> None:
        if self.split not in COUNTS:
            raise InputError(f"RHD: --split is training or evaluation, got {self.split!r}")

    def __len__(self) -> int:
        if self.complete:
            expect_all_annotations(self.root, self.split)
        return len(read_annotations(self.root, self.split))

    def id(self, i: int) -> int:
        """The number in the names of a sample's files."""
        return _ids(self.root, self.split)[i]

    def path(self, kind: str, i: int) -> Path:
        """The file of a picture: color, depth or mask."""
        return Path(self.root) / self.split / kind / f"{self.id(i):05d}.png"

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        return [self.path(kind, i) for kind in ("color", "depth", "mask")]

    def label_files(self) -> list[Path]:
        """Label files that samples share."""
        return [Path(self.root) / self.split / f"anno_{self.split}.pickle"]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """The RGB picture."""
        return read_photograph(self.path("color", i), SIZE)

    def depth(self, i: int) -> Shaped[np.ndarray, "h w"]:
        """Depth in mm."""
        return decode_rhd_depth(read_picture(self.path("depth", i), SIZE))

    def mask(self, i: int) -> Shaped[np.ndarray, "h w"]:
        """The segmentation mask of person and hands."""
        return read_picture(self.path("mask", i), SIZE, channels=1)

    def labels(self, i: int) -> Labels:
        """Both hands' labels of a picture."""
        entry = read_annotations(self.root, self.split)[self.id(i)]
        if not isinstance(entry, dict) or set(FIELDS) - set(entry):
            keys = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
            raise InputError(
                f"{self.name(i)}: expected the fields {', '.join(FIELDS)}, found {keys}; copy the "
                "file again"
            )
        name = self.name(i)
        return Labels(
            *(as_numbers(entry[f], shape, f"{name}, field {f!r}") for f, shape in FIELDS.items())
        )

    def hand(self, i: int, left: bool) -> OneHand:
        """One of the two hands."""
        uv_vis, xyz, K = self.labels(i)
        points = TO_OUR_ORDER + (0 if left else RIGHT)
        return OneHand(1000.0 * xyz[points], K, uv_vis[points, 2] > 0)

    def frame(self, i: int) -> Frame:
        """The larger hand of a picture."""
        left = larger_hand_is_left(self.mask(i))
        joints, K, visible = self.hand(i, left)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, left, visible, self.depth(i))

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number."""
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(f, self.px, self.margin, geometry.reference_side) for f in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """The location of a sample's labels, for messages."""
        return f"{self.root}/{self.split}/anno_{self.split}.pickle: id {self.id(i)}"

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of whole files; each raises InputError if it fails."""
        return [lambda: expect_all_annotations(self.root, self.split)]

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample; each returns findings or raises InputError."""
        parts = [read_once(read, i) for read in (self.color, self.depth, self.mask)]
        return [*parts, lambda: self._look(i, *parts)]

    def _look(self, i: int, color: Reading, depth: Reading, of_mask: Reading) -> list[str]:
        """Checks the picture's larger hand only, since the other one may be anywhere."""
        mask = of_mask()
        left = larger_hand_is_left(mask)
        joints, K, visible = self.hand(i, left)
        if problems := implausible(joints, K, SIZE, self.name(i)):
            return problems
        low, high = LEFT_PARTS if left else RIGHT_PARTS
        uv = self.labels(i).uv_vis[TO_OUR_ORDER + (0 if left else RIGHT), :2]
        frame = Frame(color(), joints, K, left, visible, depth())
        return disagreements(frame, self.name(i), uv, (mask >= low) & (mask <= high))

    def checked_count(self) -> int:
        """The number of pictures in the folder, which does not depend on readable annotations."""
        return len(list((Path(self.root) / self.split / "color").glob("*.png")))

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""
        return {
            "dataset": "RHD",
            "split": self.split,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }
