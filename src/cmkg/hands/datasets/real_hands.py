"""460 real photographs of one left hand with 3D joints (Snap Inc., research licence; the user
brings the folder).

    images/%05d.jpg (256 x 256), params.mat (bbox, cam_param),
    pose_gt.mat (pose_gt: N x 21 x 3, centimetres)

Frames follow each other in time: split in contiguous blocks, never at random. Where a box leaves
the photograph its edge is repeated: black bars would be a thing that no rendered hand has.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ...errors import InputError
from .files import mat_field, picture
from .sample import Frame, cropped, implausible, refuse_implausible

BLOCKS = {
    "train": (0, 360),
    "test": (360, 460),
    "fit": (0, 300),
    "validation": (300, 360),
    "all": (0, 460),
}
SIZE = (256, 256)


LAYOUT = "expected the folder of the real hands: images/%05d.jpg, params.mat, pose_gt.mat"


def _field(folder, file, field, shape):
    path = Path(folder) / file
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    return mat_field(path, field, shape)


@lru_cache(maxsize=4)
def label_files(folder):
    """joints_mm (N, 21, 3), cameras (N, 4) and boxes (N, 4) of all frames."""
    joints = _field(folder, "pose_gt.mat", "pose_gt", (None, 21, 3))
    cameras = _field(folder, "params.mat", "cam_param", (len(joints), 4))
    boxes = _field(folder, "params.mat", "bbox", (len(joints), 4))
    return 10.0 * joints, cameras, boxes  # centimetres -> millimetres


@dataclass(frozen=True)
class RealHands:
    folder: str
    block: str = "all"
    """A name of BLOCKS."""
    px: int = 80
    margin: float = 1.25

    def __post_init__(self):
        if self.block not in BLOCKS:
            raise InputError(f"real hands: block is one of {', '.join(BLOCKS)}, got {self.block!r}")

    @property
    def _labels(self):
        joints, cameras, boxes = label_files(self.folder)
        if len(joints) < BLOCKS[self.block][1]:
            raise InputError(
                f"{self.folder}/pose_gt.mat: block {self.block!r} ends at frame "
                f"{BLOCKS[self.block][1]}, the file holds {len(joints)}"
            )
        return joints, cameras, boxes

    def __len__(self):
        self._labels  # noqa: B018 - raises early
        return BLOCKS[self.block][1] - BLOCKS[self.block][0]

    def samples(self, indices):
        return [
            cropped(self.frame(int(i)), self.px, self.margin, border=cv2.BORDER_REPLICATE)
            for i in indices
        ]

    def color(self, i):
        return picture(Path(self.folder) / "images" / f"{BLOCKS[self.block][0] + i:05d}.jpg", SIZE)

    def labels(self, i):
        """joints_mm (21, 3), K (3, 3) of the crop."""
        joints, cameras, box = (a[BLOCKS[self.block][0] + i] for a in self._labels)
        if box[2] <= 0:
            raise InputError(
                f"{self.folder}/params.mat: field 'bbox' has a width of {box[2]:g} at frame "
                f"{BLOCKS[self.block][0] + i}, "
                "expected positive pixels; copy it again"
            )
        fx, fy, cx, cy = (cameras - [0, 0, *box[:2]]) * SIZE[1] / box[2]
        return joints, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    def frame(self, i):
        joints, K = self.labels(i)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, left=True)

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i):
        return f"{self.folder}/pose_gt.mat: field 'pose_gt', frame {BLOCKS[self.block][0] + i}"

    def file_checks(self):
        return [lambda: self._labels]

    def item_checks(self, i):
        return [lambda: self.color(i), lambda: implausible(*self.labels(i), SIZE, self.name(i))]

    def items(self):
        return BLOCKS[self.block][1] - BLOCKS[self.block][0]

    def describe(self):
        return {
            "dataset": "real hands",
            "block": self.block,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
        }
