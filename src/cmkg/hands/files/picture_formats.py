"""Picture files: of which kinds, how large they may be, and JPEGs decoded strictly.

Pillow is told the kinds: by itself it opens PostScript, whatever the file is called, and runs it.
What libjpeg would mend with grey and a warning is refused.
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
MOST_PIXELS = 64_000_000  # of a dataset's picture; RGB of so many takes 192 MB
LONGEST_SIDE = 30_000  # OpenCV's warps end at 32,767 pixels a side
MOST_SCANS = 200  # of a JPEG; progressive ones have some ten, and each is a pass over the picture
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
JPEG_START, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
GREY, CMYK = "Gray", ("CMYK", "YCCK")


def open_picture(
    data: bytes, formats: Sequence[str] = FORMATS, most_pixels: int = MOST_PIXELS
) -> Image.Image:
    """The picture of a file's bytes, its header alone read.

    Raises:
        PIL.UnidentifiedImageError: it is of none of these kinds.
        ValueError: it has too many pixels, or too long a side.
    """
    _expect_size(_webp_size(data), most_pixels)  # Pillow takes its memory on opening
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
    """Width and height that a WebP's header states; (0, 0) of other files."""
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
    """Looks at all of a JPEG's body, at an eighth of its sides.

    Raises:
        ValueError: the decoder complained, be it only with a warning.
    """
    _expect_few_scans(data)
    kind = simplejpeg.decode_jpeg_header(data)[2]
    colours = "CMYK" if kind in CMYK else "GRAY" if kind == GREY else "RGB"
    simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8, strict=True)
