"""The decoded picture for hand detection, and conversions to and from its file's pixels.

A large file is decoded at a reduced size. This is the only place that converts boxes and cameras
from the file's pixels to the picture's, and results back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ..geometry import is_camera
from ..mediapipe.regions import Picture
from .hand_result import Box, HandResult
from .pictures import read_with_scale

FAR_PX = 1e6  # limit on box coordinates and sizes
SMALLEST = 8  # smallest side of a picture in pixels


class PictureView(NamedTuple):
    """A picture, its camera in the picture's pixels, and its scale.

    K: None if the camera is unknown. scale: pixels of the file per pixel of the picture.
    """

    picture: Picture
    K: Float[np.ndarray, "3 3"] | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, given: Any, K: Any = None) -> PictureView:
        """Creates the view of an array, a PIL image or a file.

        Args:
            given: (H, W, 3) uint8 RGB, a PIL image, or a path.
            K: its camera, in the file's pixels.

        Raises:
            InputError: the picture or the camera is invalid.
        """
        camera = None if K is None else expect_camera(K)
        if not isinstance(given, (str, Path)):
            return cls(to_rgb(given), camera)
        picture, scale = read_with_scale(given)
        if camera is not None:
            half = 0.5 / scale - 0.5
            shrink = np.array([[1 / scale, 0, half], [0, 1 / scale, half], [0, 0, 1.0]])
            camera = shrink @ camera
        return cls(to_rgb(picture), camera, scale)

    def box_of(self, box: Sequence[float]) -> Box:
        """Converts a box from the file's pixels to the picture's.

        Raises:
            InputError: the box is not four finite numbers, with sides of 2 pixels or more.
        """
        x, y, width, height = expect_box(box)
        corner = (x + 0.5) / self.scale - 0.5, (y + 0.5) / self.scale - 0.5
        return *corner, width / self.scale, height / self.scale

    def in_file_pixels(self, result: HandResult) -> HandResult:
        """Converts a result from the picture's pixels to the file's."""
        if self.scale == 1:
            return result
        x, y, width, height = (self.scale * number for number in result.box)
        half = (self.scale - 1) / 2
        return replace(
            result,
            joints_px=self.scale * (result.joints_px + 0.5) - 0.5,
            box=(x + half, y + half, width, height),
        )


def to_rgb(given: Any) -> Shaped[np.ndarray, "h w 3"]:
    """Converts an array, tensor or PIL image to an RGB array.

    Raises:
        InputError: the value is not (H, W, 3) uint8.
    """
    module = type(given).__module__
    if module.startswith("PIL."):
        given = np.asarray(given.convert("RGB"))
    elif module.startswith("torch"):
        given = given.detach().cpu().numpy()
    if not isinstance(given, np.ndarray):
        type_name = type(given).__name__
        raise InputError(
            f"a picture: expected (H, W, 3) uint8, a PIL image or a path, got {type_name}"
        )
    if given.ndim != 3 or given.shape[2] != 3:
        hints = {2: "; grey: give np.stack([grey] * 3, -1)"}
        hint = hints.get(given.ndim, "")
        if given.ndim == 3 and given.shape[2] == 4:
            hint = "; RGBA: give picture[..., :3]"
        if given.ndim == 3 and given.shape[0] == 3:
            hint = "; channels come last: give picture.transpose(1, 2, 0)"
        raise InputError(f"a picture: expected (H, W, 3) RGB, got shape {given.shape}{hint}")
    if given.dtype != np.uint8:
        hint = "; from 0 to 1: give (255 * picture).astype(np.uint8)" * (given.dtype.kind == "f")
        raise InputError(f"a picture: expected uint8, 0 to 255, got {given.dtype}{hint}")
    if min(given.shape[:2]) < SMALLEST:
        height, width = given.shape[:2]
        raise InputError(
            f"a picture: expected at least {SMALLEST} pixels a side, got {width} x {height}"
        )
    return given


def expect_side(name: str, side: Any) -> None:
    """Rejects a side other than right, left or None.

    Raises:
        InputError: the side is invalid; the message names the argument.
    """
    if side not in (None, "right", "left"):
        raise InputError(f"{name}: expected right, left or nothing, got {side!r:.40}")


def expect_box(box: Sequence[float]) -> Box:
    """Validates a box: x, y, width, height.

    Raises:
        InputError: the box is not four finite numbers, with sides of 2 pixels or more.
    """
    try:
        x, y, width, height = (float(number) for number in box)
    except (TypeError, ValueError):
        raise InputError(f"box: expected x, y, width, height in pixels, got {box!r:.80}") from None
    largest = float(np.abs([x, y, width, height]).max())
    if not largest < FAR_PX or min(width, height) < 2:
        raise InputError(f"box: expected finite numbers and 2 pixels a side or more, got {box!r}")
    return x, y, width, height


def expect_camera(K: Any) -> Float[np.ndarray, "3 3"]:
    """Validates a camera matrix in pixels.

    Raises:
        InputError: the matrix is not that of a camera.
    """
    try:
        camera = np.asarray(K, np.float64)
    except (TypeError, ValueError):
        camera = np.zeros(0)
    if not is_camera(camera):
        raise InputError(
            "K: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in the picture's pixels, got "
            f"{np.array2string(camera, precision=4, separator=', ')}"
        )
    return camera
