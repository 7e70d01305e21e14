"""Cameras and crops, in millimeters and pixels (camera frame: x right, y down, z forward).

Every sample is seen by a *virtual camera*: the camera rotated so that its axis passes through the
center of the hand's box, and zoomed until the box fills the picture. Rotating a camera about its
center and zooming it are homographies of the image, so crop, shift, in-plane rotation and zoom are
exact for pixels, depth and joints at once. Errors in millimeters are the same in both frames.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from .skeleton import MIDDLE_MCP

CROP_EXTENT = 2.0  # side of the box in units of the largest extent from its center (RHD's crop)
CROP_SIDES_PX = (50.0, 500.0)  # the crop's smallest and largest side, in the dataset's pixels
CROP_UNSEEN_PX = 200.0  # the crop's side if no key point is visible
CROP_SCALES = (1.0, 10.0)  # range of the enlargement to 256 pixels: sides of 25.6 to 256

Matrix = Float[np.ndarray, "3 3"]


def project(points: Shaped[np.ndarray, "*n 3"], K: Float[np.ndarray, "*k 3 3"]) -> np.ndarray:
    """Projects points (..., 3) by a pinhole camera K (3, 3) or (..., 3, 3) to pixels (..., 2)."""
    h = np.einsum("...ij,...j->...i", K, points)
    return h[..., :2] / h[..., 2:]


def crop_box(
    uv: Float[np.ndarray, "21 2"], visible: Bool[np.ndarray, "21"] | None = None
) -> tuple[Float[np.ndarray, "2"], float]:
    """The center and side of the protocol's box around key points, in pixels.

    The center is the middle MCP. The side is twice the largest extent of the visible points from
    it (all points if `visible` is None), or 200 pixels if none is visible. The box may extend
    beyond the image.
    """
    centre = uv[MIDDLE_MCP]
    seen = uv if visible is None else uv[visible]
    if not len(seen):
        return centre, CROP_UNSEEN_PX
    return centre, CROP_EXTENT * float(np.abs(seen - centre).max())


def reference_side(side: float, enlarged: bool = True) -> float:
    """Limits a box's side as RHD's reference crop does.

    The side is clipped to [50, 500] pixels and, if `enlarged`, the scale 256 / side to [1, 10].
    """
    side = float(np.clip(side, *CROP_SIDES_PX))
    return 256 / float(np.clip(256 / side, *CROP_SCALES)) if enlarged else side


def rotation_to_axis(direction: Float[np.ndarray, "3"]) -> Matrix:
    """The smallest rotation that maps `direction` to +z."""
    d = direction / np.linalg.norm(direction)
    x, y, cosine = d
    if np.hypot(x, y) < 1e-9:
        return np.eye(3)
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])  # Rodrigues' formula
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def virtual_camera(
    K: Matrix, centre: Float[np.ndarray, "2"], side: float, px: int, margin: float = 1.0
) -> tuple[Matrix, Matrix]:
    """The camera that looks at `centre` and maps a box of `side` pixels to px / margin pixels.

    Returns:
        K of the virtual camera, and R: a point X of the camera's frame is R @ X in the virtual one.
    """
    ray = np.linalg.solve(K, [centre[0], centre[1], 1.0])
    R = rotation_to_axis(ray)
    # The box's center lies |ray| focal lengths away, where `side` pixels span this angle.
    focal = (K[0, 0] + K[1, 1]) / 2 * np.linalg.norm(ray) * (px / margin) / side
    middle = px / 2 - 0.5
    return np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]), R


def homography(K_from: Matrix, R: Matrix, K_to: Matrix) -> Matrix:
    """Maps pixels of the camera K_from to those of the camera K_to, which is rotated by R."""
    return K_to @ R @ np.linalg.inv(K_from)


def warp(image: np.ndarray, H: Matrix, px: int, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Warps an image (H, W) or (H, W, 3) by the homography H to a px x px picture.

    Strong shrinking is anti-aliased. Pixels outside are zero, or as `border` specifies.
    """
    scale = np.sqrt(abs(np.linalg.det(H[:2, :2])) / max(H[2, 2] ** 2, 1e-12))
    if scale < 0.5 and image.ndim == 3:  # shrinking: average before sampling
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    return cv2.warpPerspective(image, H, (px, px), flags=cv2.INTER_LINEAR, borderMode=border)


def warp_depth(
    depth_mm: Shaped[np.ndarray, "h w"], K_from: Matrix, R: Matrix, K_to: Matrix, px: int
) -> Shaped[np.ndarray, "px px"]:
    """Warps a depth map in mm to uint16 mm along the new axis.

    Sampling is nearest-neighbor; 0 = not measured. A pixel at depth z on the old ray r (z = 1) has
    depth z (R r)_z in the rotated camera.
    """
    H = homography(K_from, R, K_to)
    seen = cv2.warpPerspective(depth_mm, H, (px, px), flags=cv2.INTER_NEAREST)
    v, u = np.mgrid[:px, :px]
    x, y = (u - K_to[0, 2]) / K_to[0, 0], (v - K_to[1, 2]) / K_to[1, 1]
    new_rays = np.stack([x, y, np.ones((px, px))], -1)
    return np.clip(np.rint(seen / (new_rays @ R[:, 2])), 0, 65535).astype(np.uint16)  # (R^T new)_z


def mirror(
    image: np.ndarray, joints: Float[np.ndarray, "21 3"], K: Matrix
) -> tuple[np.ndarray, Float[np.ndarray, "21 3"], Matrix]:
    """Mirrors a left hand to a right one: flips the image, x, the principal point and the skew."""
    flipped = K.copy()
    flipped[0, 2] = image.shape[1] - 1 - K[0, 2]
    flipped[0, 1] = -K[0, 1]
    return np.ascontiguousarray(image[:, ::-1]), joints * np.array([-1.0, 1.0, 1.0]), flipped


FOCAL_PX = (1.0, 1e6)  # plausible focal lengths


def is_camera(K: np.ndarray) -> bool:
    """Whether a matrix is a plausible camera [[fx, s, cx], [0, fy, cy], [0, 0, 1]]."""
    if K.shape != (3, 3) or not (np.abs(K) < FOCAL_PX[1]).all():  # also rejects NaN
        return False
    focal = K[0, 0], K[1, 1]
    is_upper = K[1, 0] == 0 and np.allclose(K[2], [0, 0, 1])
    return bool(min(focal) >= FOCAL_PX[0] and is_upper)
