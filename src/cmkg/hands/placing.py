"""Estimates a hand's position in the camera's frame from its joints in millimeters and pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from . import geometry

STEPS = 3  # Gauss-Newton steps after the linear solution


def place_wrist(
    joints_mm: Float[np.ndarray, "21 3"],
    joints_px: Float[np.ndarray, "21 2"],
    K: Float[np.ndarray, "3 3"],
    weights: Float[np.ndarray, " 21"],
) -> Float[np.ndarray, "3"]:
    """The wrist t in the camera's frame, mm, for which joints_mm + t projects best to joints_px.

    A joint's ray (a, b, 1) implies (X + t)_x = a (X + t)_z and likewise for y. This is linear in t
    and solved by least squares; a few Gauss-Newton steps on the squared pixel distance follow.

    Args:
        joints_mm: relative to the wrist, in the camera's frame; their size determines t's scale.
        joints_px: positions on the picture.
        K: the camera.
        weights: the non-negative weight of each joint.
    """
    rays = np.column_stack([joints_px, np.ones(21)]) @ np.linalg.inv(K).T
    a, b = rays[:, 0], rays[:, 1]
    zero, ones = np.zeros(21), np.ones(21)
    left = np.concatenate([np.column_stack([ones, zero, -a]), np.column_stack([zero, ones, -b])])
    x, y, z = joints_mm.T
    right = np.concatenate([a * z - x, b * z - y])
    root = np.sqrt(np.concatenate([weights, weights]))
    t = np.linalg.lstsq(left * root[:, None], right * root, rcond=None)[0]
    for _ in range(STEPS):
        X = joints_mm + t
        if (X[:, 2] <= 1).any():  # behind the camera: keep the current solution
            break
        off = (joints_px - geometry.project(X, K)).ravel()
        depth = X[:, 2]
        J = np.zeros((21, 2, 3))
        J[:, 0, 0], J[:, 1, 1] = K[0, 0] / depth, K[1, 1] / depth
        J[:, 0, 2] = -K[0, 0] * X[:, 0] / depth**2
        J[:, 1, 2] = -K[1, 1] * X[:, 1] / depth**2
        root = np.repeat(np.sqrt(weights), 2)
        t = t + np.linalg.lstsq(J.reshape(42, 3) * root[:, None], off * root, rcond=None)[0]
    return t
