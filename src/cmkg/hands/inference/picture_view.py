"""A picture as a hand is looked for in it, and its way to and from the pixels of its file.

A large file is decoded smaller. Boxes and cameras come in the file's pixels and are taken to the
picture's here, once; results go back here, once.
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

FAR_PX = 1e6  # no box begins or ends there
SMALLEST = 8  # pixels a side of a picture that is looked at


class PictureView(NamedTuple):
    """A picture, its camera in its own pixels, and its scale.

    K: None where the camera is unknown. scale: pixels of the file per pixel of the picture.
    """

    picture: Picture
    K: Float[np.ndarray, "3 3"] | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, given: Any, K: Any = None) -> PictureView:
        """The view of an array, a PIL image or a file.

        Args:
            given: (H, W, 3) uint8 RGB, a PIL image, or a path.
            K: its camera, in the file's pixels.

        Raises:
            InputError: it is no picture, or the camera is none.
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
        """A box of the file's pixels on the picture.

        Raises:
            InputError: these are no four finite numbers with a size.
        """
        x, y, width, height = expect_box(box)
        corner = (x + 0.5) / self.scale - 0.5, (y + 0.5) / self.scale - 0.5
        return *corner, width / self.scale, height / self.scale

    def in_file_pixels(self, result: HandResult) -> HandResult:
        """A result on the picture in the file's pixels."""
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
    """An array, or a PIL image, that is a picture.

    Raises:
        InputError: it is no (H, W, 3) uint8.
    """
    module = type(given).__module__
    if module.startswith("PIL."):
        given = np.asarray(given.convert("RGB"))
    elif module.startswith("torch"):
        given = given.detach().cpu().numpy()
    if not isinstance(given, np.ndarray):
        found = type(given).__name__
        raise InputError(f"a picture: expected (H, W, 3) uint8, a PIL image or a path, got {found}")
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
    """Refuses what is neither right nor left nor None.

    Raises:
        InputError: it names the argument.
    """
    if side not in (None, "right", "left"):
        raise InputError(f"{name}: expected right, left or nothing, got {side!r:.40}")


def expect_box(box: Sequence[float]) -> Box:
    """x, y, width, height.

    Raises:
        InputError: these are no four finite numbers with a size.
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
    """A camera matrix in pixels.

    Raises:
        InputError: it is none.
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
