"""What every dataset yields."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Sample:
    """One hand, right or mirrored to right, in the frame of its virtual camera (see geometry.py)."""

    rgb: np.ndarray  # (px, px, 3) uint8
    joints_mm: np.ndarray  # (21, 3)
    K: np.ndarray  # (3, 3) of the virtual camera
    rotation: np.ndarray  # (3, 3): virtual frame = rotation @ camera frame (of the mirrored image, if mirrored)
    depth: np.ndarray | None = None  # (px, px) uint16 mm, 0 = not measured
    mirrored: bool = False  # it was a left hand
