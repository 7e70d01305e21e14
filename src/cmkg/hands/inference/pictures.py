"""Reads arbitrary picture files as (H, W, 3) uint8 RGB, rotated by their EXIF orientation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import InputError
from ...runtime.files import BROKEN, PathLike, first_line, read_file, write_atomically
from ..files.picture_formats import (
    FORMATS,
    JPEG_START,
    MOST_PIXELS,
    expect_whole_jpeg,
    open_picture,
)

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2")
MOST_BYTES = 1 << 30
MOST_JPEG_PIXELS = 170_000_000  # below Pillow's own limit; such files are decoded at reduced size
WORKING_PIXELS = 30_000_000


def read_any_picture(path: PathLike) -> Shaped[np.ndarray, "h w 3"]:
    """Reads a picture of any common format, using the first frame and a white background.

    JPEGs of more than WORKING_PIXELS are decoded at a half, a quarter or an eighth of their sides;
    `read_with_scale` also returns the scale.

    Raises:
        InputError: the file is no picture, is truncated, or has too many pixels.
    """
    return read_with_scale(path)[0]


def read_with_scale(path: PathLike) -> tuple[Shaped[np.ndarray, "h w 3"], float]:
    """Reads a picture, and the number of file pixels per picture pixel along a side.

    Raises:
        InputError: see read_any_picture.
    """
    data = read_file(path, "a picture", "give another file", MOST_BYTES)
    is_jpeg = data.startswith(JPEG_START)
    try:
        with open_picture(data, most_pixels=MOST_JPEG_PIXELS if is_jpeg else MOST_PIXELS) as opened:
            width, height = opened.size
            if is_jpeg:
                expect_whole_jpeg(data)
            part = 1
            while part < 8 and width * height > WORKING_PIXELS * part**2:
                part *= 2
            if part > 1:
                opened.draft("RGB", (-(-width // part), -(-height // part)))
            opened.load()
            scale = width / opened.width
            turned = ImageOps.exif_transpose(opened)
            return np.array(_as_rgb(turned)), scale
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: expected a picture ({', '.join(FORMATS)}), it is none of these"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{path}: has more pixels than can be read; make it smaller first"
        ) from None
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory; make it smaller first") from None
    except BROKEN as error:
        raise InputError(
            f"{path}: expected a whole picture, could not read it: {first_line(error)}"
        ) from None


def _as_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to 8 bits per channel, without transparency."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F":
            top = max(float(np.nanmax(values, initial=0.0)), 1.0)
            grey = (np.nan_to_num(values) * (255 / top)).clip(0, 255)
        else:
            grey = values.clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def list_files(paths: tuple[str, ...], endings: tuple[str, ...]) -> Iterator[Path]:
    """Lists the files of these paths; folders are searched recursively, skipping hidden files.

    Raises:
        InputError: a path does not exist, or a folder contains no such file.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{path}: no such file or folder; expected pictures or videos")
            yield path
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and file.suffix.lower() in endings and not file.name.startswith(".")
        )
        if not inside:
            raise InputError(f"{path}: holds no picture or video ({', '.join(endings)})")
        yield from inside


def write_picture(path: Path, picture: Shaped[np.ndarray, "h w 3"]) -> None:
    """Writes a JPEG or PNG atomically."""
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    options: dict[str, Any] = {"quality": 92} if kind == "JPEG" else {}
    image = Image.fromarray(picture)
    write_atomically(path, lambda partial: image.save(partial, kind, **options))
