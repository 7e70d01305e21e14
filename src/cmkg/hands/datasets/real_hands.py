"""Reads the 460 real photographs of one left hand with 3D joints as records of a folder.

The dataset is by Snap Inc. under a research license; the user provides the folder:

    images/%05d.jpg (square crops), params.mat (bbox, cam_param), pose_gt.mat (pose_gt: N x 21 x 3,
    centimeters)

Any number of frames is accepted. They are consecutive in time; the first 18 of 23 are for training,
which is 360 of the 460.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError
from ..files.reading import read_mat_field

LABELS, CAMERAS, PICTURES = "pose_gt.mat", "params.mat", "images"
FILES = (LABELS, CAMERAS, PICTURES)
TRAIN_SHARE = 18 / 23


def records_of(root: str) -> list[dict[str, Any]]:
    """Converts the frames to records of datasets/folder.py.

    Raises:
        InputError: a file is not in the format described above.
    """
    home = Path(root)
    joints_cm = read_mat_field(home / LABELS, "pose_gt", (None, 21, 3))
    cameras = read_mat_field(home / CAMERAS, "cam_param", (len(joints_cm), 4))
    boxes = read_mat_field(home / CAMERAS, "bbox", (len(joints_cm), 4))
    if (bad := np.flatnonzero(boxes[:, 2] <= 0)).size:
        raise InputError(
            f"{home / CAMERAS}: field 'bbox' has a width of {boxes[bad[0], 2]:g} at frame "
            f"{bad[0]}, expected positive pixels; copy it again"
        )
    train = round(len(joints_cm) * TRAIN_SHARE)
    records = []
    for number, (joints, camera, box) in enumerate(zip(joints_cm, cameras, boxes, strict=True)):
        image = f"{PICTURES}/{number:05d}.jpg"
        scale = _width(home / image) / box[2]
        records.append(
            {
                "image": image,
                "K": ((camera - [0, 0, *box[:2]]) * scale).tolist(),
                "side": "left",
                "joints_cm": joints.tolist(),
                "split": "train" if number < train else "test",
            }
        )
    return records


def _width(path: Path) -> int:
    """The width of a picture; a missing or damaged picture is reported later, when it is read."""
    try:
        if not path.is_file():
            return 256
        with Image.open(path, formats=["JPEG"]) as picture:
            return picture.width
    except (OSError, SyntaxError):
        return 256
