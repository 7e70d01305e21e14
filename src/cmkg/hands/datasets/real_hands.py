"""460 real photographs of one left hand with 3D joints (Snap Inc., research licence; the user brings the folder).

    images/%05d.jpg (256 x 256), params.mat (bbox, cam_param), pose_gt.mat (pose_gt: N x 21 x 3, centimetres)

Frames follow each other in time: split in contiguous blocks, never at random. Where a box leaves the photograph its
edge is repeated: black bars would be a thing that no rendered hand has.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from scipy.io import loadmat

from ...errors import InputError
from .. import geometry
from .sample import Sample

BLOCKS = {"train": (0, 360), "test": (360, 460), "fit": (0, 300), "validation": (300, 360), "all": (0, 460)}


def _field(folder, file, field, shape):
    path = Path(folder) / file
    if not path.exists():
        raise InputError(
            f"{path}: no such file; expected the folder of the real hands: images/, params.mat, pose_gt.mat"
        )
    try:
        value = loadmat(path)[field]
    except KeyError:
        raise InputError(f"{path}: has no field {field!r}; expected it with shape {shape}") from None
    except Exception as error:
        raise InputError(f"{path}: expected a MATLAB file, could not read it ({error}); copy it again") from None
    if value.ndim != len(shape) or any(s is not None and s != v for s, v in zip(shape, value.shape)):
        raise InputError(
            f"{path}: field {field!r} has shape {value.shape}, expected {tuple('N' if s is None else s for s in shape)}"
        )
    if not np.isfinite(value).all():
        raise InputError(
            f"{path}: field {field!r} holds a number that is not finite at frame {np.argwhere(~np.isfinite(value))[0][0]}"
        )
    return value.astype(np.float64)


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

    @cached_property
    def _labels(self):
        joints = _field(self.folder, "pose_gt.mat", "pose_gt", (None, 21, 3))
        count = len(joints)
        cameras = _field(self.folder, "params.mat", "cam_param", (count, 4))
        boxes = _field(self.folder, "params.mat", "bbox", (count, 4))
        if count < BLOCKS[self.block][1]:
            raise InputError(
                f"{self.folder}/pose_gt.mat: block {self.block!r} ends at frame {BLOCKS[self.block][1]}, the file holds {count}"
            )
        return 10.0 * joints, cameras, boxes  # centimetres -> millimetres

    def __len__(self):
        self._labels  # noqa: B018 - raises early
        return BLOCKS[self.block][1] - BLOCKS[self.block][0]

    def samples(self, indices):
        return [self._sample(BLOCKS[self.block][0] + int(i)) for i in indices]

    def _sample(self, frame):
        joints, cameras, boxes = (a[frame] for a in self._labels)
        path = Path(self.folder) / "images" / f"{frame:05d}.jpg"
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(f"{path}: expected a 256 x 256 photograph, could not read it; copy it again")
        scale = image.shape[1] / boxes[2]
        fx, fy, cx, cy = (cameras - [0, 0, *boxes[:2]]) * scale
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        image, joints, K = geometry.mirror(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), joints, K)
        centre, side = geometry.crop_box(geometry.project(joints, K))
        K_virtual, R = geometry.virtual_camera(K, centre, side, self.px, self.margin)
        rgb = geometry.warp(image, geometry.homography(K, R, K_virtual), self.px, cv2.BORDER_REPLICATE)
        return Sample(rgb, joints @ R.T, K_virtual, R, mirrored=True)

    def describe(self):
        return {"dataset": "real hands", "block": self.block, "count": len(self), "px": self.px, "margin": self.margin}
