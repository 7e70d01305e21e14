"""Picture formats: allowed kinds, size limits, and strict JPEG decoding.

Pillow is restricted to these formats, because by default it opens PostScript under any file name
and executes it. Damaged JPEGs that libjpeg would fill with gray are rejected.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Shaped
from PIL import Image

MOST_PICTURE_BYTES = 256 << 20
MOST_PIXELS = 64_000_000  # of a dataset's picture; 192 MB as RGB
LONGEST_SIDE = 30_000  # OpenCV's warps end at 32,767 pixels a side
MOST_SCANS = 200  # of a JPEG; progressive ones have about ten, each a pass over the picture
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
JPEG_START, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
GREY, CMYK = "Gray", ("CMYK", "YCCK")


def open_picture(
    data: bytes, formats: Sequence[str] = FORMATS, most_pixels: int = MOST_PIXELS
) -> Image.Image:
    """Opens a picture from a file's bytes, reading only its header.

    Raises:
        PIL.UnidentifiedImageError: the format is not allowed.
        ValueError: the picture has too many pixels, or too long a side.
    """
    _expect_size(_webp_size(data), most_pixels)  # Pillow allocates a WebP's memory on opening
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(io.BytesIO(data), formats=list(formats))
    _expect_size(opened.size, most_pixels)
    return opened


def _expect_size(size: tuple[int, int], most_pixels: int) -> None:
    width, height = size
    if width * height > most_pixels or max(size) > LONGEST_SIDE:
        raise ValueError(
            f"it has {width} x {height} pixels, expected {most_pixels:,} at most and sides up to "
            f"{LONGEST_SIDE:,}; make it smaller first"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height stated in a WebP's header; (0, 0) for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0, 0
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width, height


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height stated in a JPEG's header; (0, 0) if there is none."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return 0, 0
    return width, height


def decode_jpeg(data: bytes) -> Shaped[np.ndarray, "h w *c"]:
    """Decodes to uint8 RGB (H, W, 3), or (H, W) if gray, without applying EXIF orientation.

    Raises:
        ValueError: the decoder reported an error or a warning.
    """
    _expect_few_scans(data)
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


def _expect_few_scans(data: bytes) -> None:
    count = data.count(JPEG_SCAN)
    if count > MOST_SCANS:
        raise ValueError(f"it is written in {count:,} scans, expected {MOST_SCANS} at most")


def expect_whole_jpeg(data: bytes) -> None:
    """Checks a JPEG by decoding it at an eighth of its sides.

    Raises:
        ValueError: the decoder reported an error or a warning.
    """
    _expect_few_scans(data)
    kind = simplejpeg.decode_jpeg_header(data)[2]
    colours = "CMYK" if kind in CMYK else "GRAY" if kind == GREY else "RGB"
    simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8, strict=True)
