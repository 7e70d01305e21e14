"""Picture files: how large they may be, and JPEGs decoded strictly.

What libjpeg would mend with grey and a warning is refused.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Shaped

MOST_PICTURE_BYTES = 256 << 20
MOST_PIXELS = 64_000_000  # of a dataset's picture; RGB of so many takes 192 MB
JPEG_START = b"\xff\xd8"
GREY, CMYK = "Gray", ("CMYK", "YCCK")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG's header states; (0, 0) where it has none."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return 0, 0
    return width, height


def decode_jpeg(data: bytes) -> Shaped[np.ndarray, "h w *c"]:
    """RGB (H, W, 3) uint8, of a grey one (H, W); EXIF's turn is not applied.

    Raises:
        ValueError: the decoder complained, be it only with a warning.
    """
    kind = simplejpeg.decode_jpeg_header(data)[2]
    if kind == GREY:
        return simplejpeg.decode_jpeg(data, "GRAY", strict=True)[..., 0]
    if kind not in CMYK:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    expect_whole_jpeg(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("could not convert its inks to colours")
    return np.asarray(image[..., ::-1])


def expect_whole_jpeg(data: bytes) -> None:
    """Looks at all of a JPEG's body, at an eighth of its sides.

    Raises:
        ValueError: the decoder complained, be it only with a warning.
    """
    kind = simplejpeg.decode_jpeg_header(data)[2]
    colours = "CMYK" if kind in CMYK else "GRAY" if kind == GREY else "RGB"
    simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8, strict=True)
