import cv2
import numpy as np
import pytest
from scipy.io import savemat


@pytest.fixture
def photographs(tmp_path):
    """A folder in the layout of the real hands: 460 labels, three pictures."""
    rng, n = np.random.default_rng(0), 460
    joints = rng.uniform([-6, -6, 38], [6, 6, 44], (n, 21, 3)).astype(np.float32)  # centimetres
    cameras = np.tile([900.0, 900.0, 640.0, 360.0], (n, 1))
    boxes = np.tile([440, 160, 400, 400], (n, 1)).astype(np.int32)
    (tmp_path / "images").mkdir()
    for i in range(3):
        cv2.imwrite(
            str(tmp_path / f"images/{i:05d}.jpg"), rng.integers(0, 255, (256, 256, 3), np.uint8)
        )
    savemat(tmp_path / "params.mat", {"cam_param": cameras, "bbox": boxes})
    savemat(tmp_path / "pose_gt.mat", {"pose_gt": joints})
    return tmp_path, joints, cameras, boxes
