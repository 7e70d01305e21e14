"""Cameras and crops. Camera frame: x right, y down, z forward; millimetres; pixels.

Every sample is seen by a *virtual camera*: the camera turned so that its axis passes through the
centre of the hand's box, and zoomed until the box fills the picture. Turning a camera about its
centre and zooming it are homographies of the image, so crop, shift, in-plane rotation and zoom
are exact for pixels, depth and joints at once. Errors in millimetres are the same in both
frames.
"""

import cv2
import numpy as np

from .skeleton import MIDDLE_MCP

# side of the box in units of the largest extent from its centre (RHD's reference crop)
CROP_EXTENT = 2.0
# the reference crop's smallest and largest side, in pixels of the dataset's picture
CROP_SIDES_PX = (50.0, 500.0)
CROP_UNSEEN_PX = 200.0  # its side when no key point is visible
# and what the box may be enlarged by to 256 pixels: a side of 25.6 to 256
CROP_SCALES = (1.0, 10.0)


def project(points, K):
    """Pinhole projection of (..., 3) points by K (3, 3) or (..., 3, 3) -> (..., 2) pixels."""
    h = np.einsum("...ij,...j->...i", K, points)
    return h[..., :2] / h[..., 2:]


def crop_box(uv, visible=None):
    """The protocol's box around key points uv (21, 2): centre = middle MCP, side = 2 x the largest
    extent from it, over the points that are visible (21,) bool; all when None, 200 pixels when
    none is.

    Returns (centre (2,), side) in pixels. The box may leave the image.
    """
    centre, seen = uv[MIDDLE_MCP], uv if visible is None else uv[visible]
    return centre, CROP_EXTENT * float(np.abs(seen - centre).max()) if len(seen) else CROP_UNSEEN_PX


def reference_side(side, enlarged=True):
    """A box's side as RHD's reference crop limits it: to [50, 500] pixels, and its scale 256 /
    side to [1, 10]."""
    side = float(np.clip(side, *CROP_SIDES_PX))
    return 256 / float(np.clip(256 / side, *CROP_SCALES)) if enlarged else side


def rotation_to_axis(direction):
    """The smallest rotation (3, 3) that takes `direction` (3,) to +z."""
    d = direction / np.linalg.norm(direction)
    axis = np.cross(d, [0.0, 0.0, 1.0])
    sine, cosine = np.linalg.norm(axis), d[2]
    if sine < 1e-9:
        return np.eye(3)
    a = axis / sine
    skew = np.array([[0, -a[2], a[1]], [a[2], 0, -a[0]], [-a[1], a[0], 0]])
    return np.eye(3) + sine * skew + (1 - cosine) * skew @ skew


def virtual_camera(K, centre, side, px, margin=1.0):
    """The camera that looks at `centre` and sees a box of `side` pixels over `px / margin` pixels.

    Returns (K_virtual (3, 3), R (3, 3)): a point X of the camera's frame is R @ X in the virtual
    one.
    """
    ray = np.linalg.solve(K, [centre[0], centre[1], 1.0])
    R = rotation_to_axis(ray)
    # A side of `side` pixels at the box's centre spans this angle; the focal length there is |ray|
    # * f.
    focal = (K[0, 0] + K[1, 1]) / 2 * np.linalg.norm(ray) * (px / margin) / side
    return np.array([[focal, 0, px / 2 - 0.5], [0, focal, px / 2 - 0.5], [0, 0, 1]]), R


def homography(K_from, R, K_to):
    """Maps pixels of the camera K_from to those of the camera K_to, which is turned by R: (3,
    3)."""
    return K_to @ R @ np.linalg.inv(K_from)


def warp(image, H, px, border=cv2.BORDER_CONSTANT):
    """The px x px picture that the homography H makes of `image`, anti-aliased when it shrinks;
    zero outside."""
    scale = np.sqrt(abs(np.linalg.det(H[:2, :2])) / max(H[2, 2] ** 2, 1e-12))
    if scale < 0.5 and image.ndim == 3:  # shrinking: average before sampling
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    return cv2.warpPerspective(image, H, (px, px), flags=cv2.INTER_LINEAR, borderMode=border)


def warp_depth(depth_mm, K_from, R, K_to, px):
    """Depth along the new axis, (px, px) uint16 mm, of a depth map (H, W) in mm; nearest pixel, 0
    where none was measured.

    A pixel at depth z on the old ray r (z = 1) has depth z (R r)_z in the turned camera.
    """
    seen = cv2.warpPerspective(
        depth_mm, homography(K_from, R, K_to), (px, px), flags=cv2.INTER_NEAREST
    )
    v, u = np.mgrid[:px, :px]
    new = np.stack(
        [(u - K_to[0, 2]) / K_to[0, 0], (v - K_to[1, 2]) / K_to[1, 1], np.ones((px, px))], -1
    )
    return np.clip(np.rint(seen / (new @ R[:, 2])), 0, 65535).astype(np.uint16)  # (R^T new)_z


def mirror(image, joints, K):
    """A left hand as a right one: image flipped, x negated, principal point mirrored."""
    flipped = K.copy()
    flipped[0, 2] = image.shape[1] - 1 - K[0, 2]
    return np.ascontiguousarray(image[:, ::-1]), joints * np.array([-1.0, 1.0, 1.0]), flipped
