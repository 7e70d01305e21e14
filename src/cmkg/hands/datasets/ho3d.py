"""HO-3D, versions 2 and 3 (Hampali et al., CVPR 2020, CVPR 2022): real RGB-D of right hands.

    train/<sequence>/rgb/%04d.png (version 3: .jpg), depth/%04d.png, meta/%04d.pkl:
    camMat (3, 3), handJoints3D (21, 3) meters in OpenGL's axes, None if not annotated
    train.txt, evaluation.txt: one <sequence>/<frame> per line

Depth is R + 256 G in units of 0.125 mm. The evaluation joints are not published; the benchmark's
server scores them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped

from ...errors import InputError
from ...runtime.files import read_file
from ...runtime.progress import Bar
from ..files.pickles import read_pickle
from ..files.reading import COPY, as_numbers, expect_folder, is_made, read_depth, read_photograph
from .label_checks import disagreements
from .sample import (
    Frame,
    Joints,
    Matrix,
    Reading,
    Sample,
    crop_frame,
    implausible,
    read_once,
    refuse_implausible,
)

LAYOUT = (
    "expected HO-3D: train/<sequence>/{rgb,depth,meta} and train.txt; its owners publish it at "
    "tugraz.at/index.php?id=40231"
)
SIZE = (480, 640)
MOST_NAMES_BYTES = 1 << 24
DIGITS = 4  # of a frame's number
DEPTH_UNIT_MM = 0.12498664727900177
# HO-3D's order: wrist, index, middle, little, ring, thumb (three joints each), then the five tips.
TO_OUR_ORDER = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
FROM_OPENGL = np.array([1.0, -1.0, -1.0])  # OpenGL has y up and z backward


def read_annotation(path: Path) -> dict[str, Any]:
    """Reads the dict in meta/%04d.pkl."""
    annotation = read_pickle(path, "HO-3D's annotation of a frame")
    if not isinstance(annotation, dict) or {"camMat", "handJoints3D"} - set(annotation):
        raise InputError(f"{path}: expected the fields camMat and handJoints3D; copy it again")
    return annotation


def listed(root: str) -> list[str]:
    """Lists the <sequence>/<frame> names in train.txt."""
    expect_folder(root, LAYOUT)
    path = Path(root) / "train.txt"
    try:
        lines = read_file(path, "the names of frames", COPY, MOST_NAMES_BYTES).decode().split()
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected text, found other bytes; copy it again") from None
    for line in lines:
        sequence, _, frame = line.partition("/")
        if not sequence or not frame.isdecimal() or len(frame) != DIGITS or ".." in sequence:
            raise InputError(f"{path}: expected <sequence>/<frame> a line, found {line!r:.60}")
    if not lines:
        raise InputError(f"{path}: is empty; expected <sequence>/<frame> a line; copy it again")
    return lines


@lru_cache(maxsize=4)
def annotated(root: str) -> tuple[str, ...]:
    """Lists the training frames whose joints are annotated or whose annotation file is missing."""
    names, kept = listed(root), []
    with Bar("annotated frames", max(len(names) // 1000, 1), per_step=1000) as advance:
        for number, name in enumerate(names):
            path = annotation_file(root, name, "meta", ".pkl")
            if not path.exists() or read_annotation(path)["handJoints3D"] is not None:
                kept.append(name)
            if number % 1000 == 999:
                advance()
    return tuple(kept)


def annotation_file(root: str, name: str, kind: str, suffix: str) -> Path:
    """A file of a frame <sequence>/<frame>."""
    sequence, frame = name.split("/")
    return Path(root) / "train" / sequence / kind / f"{frame}{suffix}"


@dataclass(frozen=True)
class Ho3d:
    """The annotated training frames of HO-3D; `of` opens them.

    names: <sequence>/<frame> of each, so that other processes do not repeat the search.
    """

    root: str
    names: tuple[str, ...]
    px: int = 320
    margin: float = 1.25

    @classmethod
    def of(cls, root: str, split: str, px: int = 320, margin: float = 1.25) -> Ho3d:
        """Scans the annotations.

        Raises:
            InputError: the split is unknown, or its files are missing.
        """
        if split != "train":
            raise InputError(
                f"HO-3D: --split is train, got {split!r}: the evaluation's joints are not "
                "published; hold out sequences of the training frames by --indices"
            )
        return cls(root, annotated(root), px, margin)

    def __len__(self) -> int:
        return len(self.names)

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        name = self.names[i]
        picture = annotation_file(self.root, name, "rgb", ".png")
        if not picture.exists():
            picture = annotation_file(self.root, name, "rgb", ".jpg")
        depth = annotation_file(self.root, name, "depth", ".png")
        return [picture, depth, annotation_file(self.root, name, "meta", ".pkl")]

    def label_files(self) -> list[Path]:
        """Label files that samples share."""
        return [Path(self.root) / "train.txt"]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """The RGB picture."""
        return read_photograph(self.files(i)[0], SIZE)

    def depth(self, i: int) -> Shaped[np.ndarray, "h w"]:
        """Depth in millimeters, registered to the color picture."""
        return read_depth(self.files(i)[1], DEPTH_UNIT_MM, "red-low", SIZE)

    def labels(self, i: int) -> tuple[Joints, Matrix]:
        """Joints in mm in the camera's frame (y down, z forward), and K."""
        path = self.files(i)[2]
        annotation = read_annotation(path)
        joints = as_numbers(annotation["handJoints3D"], (21, 3), f"{path}: field 'handJoints3D'")
        K = as_numbers(annotation["camMat"], (3, 3), f"{path}: field 'camMat'")
        return 1000.0 * joints[TO_OUR_ORDER] * FROM_OPENGL, K

    def frame(self, i: int) -> Frame:
        """The picture with its labels."""
        joints, K = self.labels(i)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, depth_mm=self.depth(i))

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number; a box that leaves the picture is padded by edge replication."""
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(f, self.px, self.margin, border=cv2.BORDER_REPLICATE) for f in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """The location of a sample's labels, for messages."""
        return f"{self.files(i)[2]}: field 'handJoints3D'"

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of whole files."""
        return [lambda: listed(self.root) and None]

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample; each returns findings or raises InputError."""
        color, depth = read_once(self.color, i), read_once(self.depth, i)
        return [color, depth, lambda: self._look(i, color, depth)]

    def _look(self, i: int, color: Reading, depth: Reading) -> list[str]:
        joints, K = self.labels(i)
        if problems := implausible(joints, K, SIZE, self.name(i)):
            return problems
        return disagreements(Frame(color(), joints, K, depth_mm=depth()), self.name(i))

    def checked_count(self) -> int:
        """The number of samples to check."""
        return len(self)

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""
        return {
            "dataset": "HO-3D",
            "split": "train",
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }
