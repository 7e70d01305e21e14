"""460 real photographs of one left hand with 3D joints.

Snap Inc., research licence; the user brings the folder:

    images/%05d.jpg (256 x 256), params.mat (bbox, cam_param),
    pose_gt.mat (pose_gt: N x 21 x 3, centimetres)

Frames follow each other in time: split in contiguous blocks, never at random. Where a box leaves
the photograph its edge is repeated: black bars would be a thing that no rendered hand has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from .reading import read_mat_field, read_picture
from .sample import Frame, Joints, Matrix, Sample, crop_frame, implausible, refuse_implausible

# [first, last) of each block; fit and validation are the parts of train that choose settings.
BLOCKS = {
    "train": (0, 360),
    "test": (360, 460),
    "fit": (0, 300),
    "validation": (300, 360),
    "all": (0, 460),
}
SIZE = (256, 256)
LAYOUT = "expected the folder of the real hands: images/%05d.jpg, params.mat, pose_gt.mat"


class LabelFiles(NamedTuple):
    """joints_mm, cameras (fx, fy, cx, cy of the full image), boxes (x, y, w, h of the crop)."""

    joints_mm: Float[np.ndarray, "n 21 3"]
    cameras: Float[np.ndarray, "n 4"]
    boxes: Float[np.ndarray, "n 4"]


def _read_field(folder: str, file: str, field: str, shape: tuple[int | None, ...]) -> np.ndarray:
    path = Path(folder) / file
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    return read_mat_field(path, field, shape)


@lru_cache(maxsize=4)
def read_label_files(folder: str) -> LabelFiles:
    """The labels of all frames."""
    joints_cm = _read_field(folder, "pose_gt.mat", "pose_gt", (None, 21, 3))
    cameras = _read_field(folder, "params.mat", "cam_param", (len(joints_cm), 4))
    boxes = _read_field(folder, "params.mat", "bbox", (len(joints_cm), 4))
    return LabelFiles(10.0 * joints_cm, cameras, boxes)


@dataclass(frozen=True)
class RealHands:
    """A block of the real hands."""

    folder: str
    block: str = "all"
    """A name of BLOCKS."""
    px: int = 80
    margin: float = 1.25

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise InputError(f"real hands: block is one of {', '.join(BLOCKS)}, got {self.block!r}")

    def _labels(self) -> LabelFiles:
        labels = read_label_files(self.folder)
        last = BLOCKS[self.block][1]
        if len(labels.joints_mm) < last:
            raise InputError(
                f"{self.folder}/pose_gt.mat: block {self.block!r} ends at frame {last}, the file "
                f"holds {len(labels.joints_mm)}"
            )
        return labels

    def __len__(self) -> int:
        self._labels()  # a mistake shows here
        return self.checked_count()

    def _frame_number(self, i: int) -> int:
        return BLOCKS[self.block][0] + i

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """The samples of these numbers within the block."""
        frames = [self.frame(int(index)) for index in indices]
        return [
            crop_frame(frame, self.px, self.margin, border=cv2.BORDER_REPLICATE) for frame in frames
        ]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """The photograph."""
        return read_picture(Path(self.folder) / f"images/{self._frame_number(i):05d}.jpg", SIZE)

    def labels(self, i: int) -> tuple[Joints, Matrix]:
        """joints_mm, and K of the crop."""
        number = self._frame_number(i)
        joints, camera, box = (part[number] for part in self._labels())
        if box[2] <= 0:
            raise InputError(
                f"{self.folder}/params.mat: field 'bbox' has a width of {box[2]:g} at frame "
                f"{number}, expected positive pixels; copy it again"
            )
        fx, fy, cx, cy = (camera - [0, 0, *box[:2]]) * SIZE[1] / box[2]
        return joints, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    def frame(self, i: int) -> Frame:
        """The photograph with its labels."""
        joints, K = self.labels(i)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, left=True)

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """Where the labels of a sample stand."""
        return f"{self.folder}/pose_gt.mat: field 'pose_gt', frame {self._frame_number(i)}"

    def file_checks(self) -> list[Callable[[], Any]]:
        """What must hold of whole files: each raises InputError where it does not."""
        return [self._labels]

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """What must hold of a sample: each returns sentences, or raises InputError."""
        return [
            lambda: self.color(i),
            lambda: implausible(*self.labels(i), SIZE, self.name(i)),
        ]

    def checked_count(self) -> int:
        """How many samples there are to check, should the labels be unreadable."""
        first, last = BLOCKS[self.block]
        return last - first

    def describe(self) -> dict[str, Any]:
        """What the set is, as plain JSON."""
        return {
            "dataset": "real hands",
            "block": self.block,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
        }
