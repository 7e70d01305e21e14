"""Backgrounds: photographs and generated clutter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ...runtime.files import BROKEN, read_file
from ..files.picture_formats import JPEG_START, MOST_PICTURE_BYTES, expect_whole_jpeg, open_picture

OWN = Path(__file__).with_name("photographs")  # SOURCES.txt there names their authors
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SKIN = np.array([220, 165, 135])
SHORT_SIDE_PX = 512  # larger pictures would not improve crops
KEPT_PICTURES = 32  # cache size, about a megabyte each; more than the bundled ones
DIGEST_DECODES, DIGEST_BYTES = 8, 4096

Picture = Shaped[np.ndarray, "_ _ 3"]  # RGB, 0..255
Colour = tuple[float, ...]


class Photographs:
    """Pictures of any number of files, read on demand; the most recent ones are cached."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        """Reads RGB with a short side of at most SHORT_SIDE_PX; raises InputError if it fails."""
        path = self.paths[index]
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def photographs(folders: tuple[str, ...] = ()) -> Photographs:
    """Lists the photographs in these folders, recursively, or the bundled ones.

    Raises:
        InputError: a folder contains no photographs.
    """
    paths: list[Path] = []
    for root in [Path(folder) for folder in folders] or [OWN]:
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise InputError(
                f"{root}: expected photographs (*.jpg, *.png, *.webp) for backgrounds, found none"
            )
        paths += files
    return Photographs(paths)


def digest_of_photographs(folders: tuple[str, ...] = ()) -> str:
    """A fingerprint of the photographs, which identifies rendered sets that use them.

    It covers the first pictures as decoded, and every other file's size, beginning and end, so that
    a hundred thousand files take seconds.

    Raises:
        InputError: a file is not a picture.
    """
    pictures = photographs(folders)
    digest = hashlib.sha256()
    for path in pictures.paths[:DIGEST_DECODES]:
        picture = _decode(path)  # the current file, not a cached one
        digest.update(repr(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    for path in pictures.paths[DIGEST_DECODES:]:
        if not cv2.haveImageReader(str(path)):
            raise _unreadable(path)
        with open(path, "rb") as file:
            digest.update(file.read(DIGEST_BYTES))
            size = file.seek(0, 2)
            file.seek(max(size - DIGEST_BYTES, 0))
            digest.update(file.read(DIGEST_BYTES))
        digest.update(str(size).encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=KEPT_PICTURES)
def _read(path: Path, _size: int, _time: int) -> Picture:
    return _decode(path)  # cached while the file is unchanged


def _decode(path: Path) -> Picture:
    data = read_file(path, "a photograph", "remove or replace it", MOST_PICTURE_BYTES)
    try:
        with open_picture(data, ("JPEG", "PNG", "WEBP")):
            pass  # only checks the header and the size
        if data.startswith(JPEG_START):
            expect_whole_jpeg(data)
    except BROKEN:
        raise _unreadable(path) from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise _unreadable(path)
    scale = min(1.0, SHORT_SIDE_PX / min(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)


def _unreadable(path: Path) -> InputError:
    return InputError(
        f"{path}: expected a photograph for backgrounds, could not read it; remove or replace it"
    )


def crop_photograph(rng: np.random.Generator, pictures: Photographs, px: int) -> Picture:
    """A px x px view of a random square of a random picture."""
    picture = pictures[int(rng.integers(len(pictures)))]
    side = max(int(min(picture.shape[:2]) * rng.uniform(0.2, 1.0)), 1)
    y, x = (rng.integers(0, length - side + 1) for length in picture.shape[:2])
    crop = picture[y : y + side, x : x + side]
    return cv2.resize(crop, (px, px), interpolation=cv2.INTER_AREA)


def photograph(rng: np.random.Generator, pictures: Photographs, px: int) -> Picture:
    """A crop with a random quarter turn, mirroring and tint."""
    crop = crop_photograph(rng, pictures, px)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = np.rot90(crop, rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))
    return _tint(rng, np.ascontiguousarray(crop))


def _tint(rng: np.random.Generator, image: Picture) -> Picture:
    """Applies random mixing of the color channels, gain and offset."""
    grey = np.full((3, 3), 1 / 3)
    strength = rng.uniform(0.0, 1.0)  # most rooms are less colorful than these pictures
    gain = rng.uniform(0.5, 1.2)
    mix = (grey + strength * (np.eye(3) - grey)) * gain + np.diag(rng.normal(0, 0.08, 3))
    mixed = cv2.transform(image.astype(np.float32), mix.astype(np.float32))
    return np.clip(mixed + rng.uniform(-30, 30), 0, 255)


def _sample_colour(rng: np.random.Generator) -> Colour:
    level = rng.uniform(10, 245)
    saturation = rng.choice([8, 25, 60], p=[0.5, 0.35, 0.15])
    return tuple(float(c) for c in np.clip(rng.normal(level, saturation, 3), 0, 255))


def texture(rng: np.random.Generator, px: int) -> Float[np.ndarray, "px px 3"]:
    """A gradient with noise in several octaves, about 0..255."""
    corners = [[_sample_colour(rng), _sample_colour(rng)] for _ in range(2)]
    image: Any = cv2.resize(np.array(corners, np.float32), (px, px), interpolation=cv2.INTER_LINEAR)
    for octave in (3, 8, 20):
        strength = rng.exponential(14)
        channels = rng.choice([1, 3], p=[0.85, 0.15])
        noise = rng.normal(0, strength, (octave, octave, channels)).astype(np.float32)
        fine = cv2.resize(noise, (px, px), interpolation=cv2.INTER_CUBIC)
        image = image + fine.reshape(px, px, -1)
    if rng.random() < 0.3:  # shelves, blinds, bricks, tiles
        wave = np.sin(np.arange(px) * 2 * np.pi / rng.uniform(4, px / 2) + rng.uniform(0, 6))
        band = (wave > rng.uniform(-0.8, 0.8)).astype(np.float32) * rng.uniform(-80, 80)
        image += band[:, None, None] if rng.random() < 0.5 else band[None, :, None]
    return image


def clutter(
    rng: np.random.Generator, image: Float[np.ndarray, "px px 3"], count: int
) -> Float[np.ndarray, "px px 3"]:
    """Draws `count` solid shapes on the picture, some in skin colors."""
    px = image.shape[0]
    for _ in range(count):
        colour = _sample_colour(rng)
        if rng.random() < 0.25:
            colour = tuple(float(c) for c in SKIN * rng.uniform(0.25, 1.1))
        x, y = (int(c) for c in rng.integers(0, px, 2))
        width, height = (max(int(s), 1) for s in rng.exponential(px / 5, 2))
        kind = rng.integers(4)
        if kind == 0:
            turn = float(rng.uniform(0, 180))
            _fill_ellipse(image, (x, y), (width, height), turn, colour)
        elif kind == 1:
            turn = float(rng.choice([0, rng.uniform(0, 90)]))
            box = cv2.boxPoints(((x, y), (2.0 * width, 2.0 * height), turn))
            cv2.fillPoly(image, [box.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 2:
            end = tuple(int(c) for c in rng.integers(0, px, 2))
            thickness = int(rng.integers(1, 1 + max(px // 12, 1)))
            cv2.line(image, (x, y), end, colour, thickness, cv2.LINE_AA)
        else:
            for k in range(int(rng.integers(2, 7))):  # a row of similar shapes
                at = (x + k * 2 * width // 2, y)
                _fill_ellipse(image, at, (width // 3 + 1, height // 2 + 1), 0, colour)
    return image


def _fill_ellipse(
    image: np.ndarray, at: tuple[int, int], axes: tuple[int, int], turn: float, colour: Colour
) -> None:
    cv2.ellipse(image, at, axes, turn, 0, 360, colour, -1, cv2.LINE_AA)


def background(
    rng: np.random.Generator, pictures: Photographs, px: int, mixed: bool = True
) -> Float[np.ndarray, "px px 3"]:
    """A background, RGB, 0..255.

    Args:
        rng: the random generator.
        pictures: the photographs.
        px: side of the background in pixels.
        mixed: whether to use photographs and generated textures with clutter, tints and blur;
            otherwise an unchanged crop of a photograph.
    """
    if not mixed:
        return crop_photograph(rng, pictures, px).astype(np.float32)
    image: Any = photograph(rng, pictures, px) if rng.random() < 0.6 else texture(rng, px)
    amount = rng.poisson(rng.choice([0.5, 4, 12]))
    image = clutter(rng, np.ascontiguousarray(image, np.float32), amount)
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), px / 64 * rng.exponential(0.8) + 0.2)
    return np.clip(image, 0, 255)
