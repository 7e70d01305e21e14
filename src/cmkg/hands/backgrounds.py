"""What stands behind the hand: photographs that ship inside libraries, a user's folder,
generated clutter."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from ..errors import InputError

PACKAGED = {
    "skimage": (
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/rocket.jpg",
        "data/brick.png",
        "data/grass.png",
        "data/gravel.png",
        "data/motorcycle_left.png",
        "data/color.png",
        "data/hubble_deep_field.jpg",
        "data/clock_motion.png",
        "data/ihc.png",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@lru_cache(maxsize=4)
def photographs(folder=None):
    """The user's photographs in `folder`, or those that ship inside installed libraries. RGB
    uint8."""
    if folder:
        paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise InputError(
                f"{folder}: expected photographs (*.jpg, *.png, *.webp) for backgrounds, found none"
            )
    else:
        roots = {name: find_spec(name) for name in PACKAGED}
        paths = [
            Path(roots[n].origin).parent / f
            for n, files in PACKAGED.items()
            if roots[n]
            for f in files
        ]
    return [_read(p) for p in paths if folder or p.exists()]


def _read(path, short_side=512):
    """The picture, RGB, no larger than a crop can use."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(
            f"{path}: expected a photograph for backgrounds, could not read it; remove or "
            "replace it"
        )
    scale = min(1.0, short_side / min(image.shape[:2]))
    return cv2.cvtColor(
        cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB
    )


def photograph(rng, pictures, px):
    """A crop (px, px, 3) of a random picture: any size, quarter turn, mirror and tint."""
    picture = pictures[rng.integers(len(pictures))]
    side = int(min(picture.shape[:2]) * rng.uniform(0.2, 1.0))
    y, x = (rng.integers(0, n - side + 1) for n in picture.shape[:2])
    crop = cv2.resize(picture[y : y + side, x : x + side], (px, px), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = np.rot90(crop, rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))
    return _tint(rng, np.ascontiguousarray(crop))


def _tint(rng, image):
    """Random mixing of the colour channels, gain and offset."""
    # most rooms are less colourful than these pictures
    grey, strength = np.full((3, 3), 1 / 3), rng.uniform(0.0, 1.0)
    mix = (grey + strength * (np.eye(3) - grey)) * rng.uniform(0.5, 1.2) + np.diag(
        rng.normal(0, 0.08, 3)
    )
    return np.clip(
        cv2.transform(image.astype(np.float32), mix.astype(np.float32)) + rng.uniform(-30, 30),
        0,
        255,
    )


def _colour(rng):
    return tuple(
        float(c)
        for c in np.clip(
            rng.normal(rng.uniform(10, 245), rng.choice([8, 25, 60], p=[0.5, 0.35, 0.15]), 3),
            0,
            255,
        )
    )


def texture(rng, px):
    """A gradient with noise of several octaves (px, px, 3), 0..255."""
    corners = np.array([[_colour(rng), _colour(rng)], [_colour(rng), _colour(rng)]], np.float32)
    image = cv2.resize(corners, (px, px), interpolation=cv2.INTER_LINEAR)
    for octave in (3, 8, 20):
        strength = rng.exponential(14)
        noise = rng.normal(
            0, strength, (octave, octave, rng.choice([1, 3], p=[0.85, 0.15]))
        ).astype(np.float32)
        image = image + cv2.resize(noise, (px, px), interpolation=cv2.INTER_CUBIC).reshape(
            px, px, -1
        )
    if rng.random() < 0.3:  # shelves, blinds, bricks, tiles
        wave = np.sin(np.arange(px) * 2 * np.pi / rng.uniform(4, px / 2) + rng.uniform(0, 6))
        band = (wave > rng.uniform(-0.8, 0.8)).astype(np.float32) * rng.uniform(-80, 80)
        image += band[:, None, None] if rng.random() < 0.5 else band[None, :, None]
    return image


def clutter(rng, image, count):
    """Draws `count` solid shapes on the picture, some with the colours of skin."""
    px = image.shape[0]
    for _ in range(count):
        colour = _colour(rng)
        if rng.random() < 0.25:
            colour = tuple(float(c) for c in np.array([220, 165, 135]) * rng.uniform(0.25, 1.1))
        at = tuple(int(c) for c in rng.integers(0, px, 2))
        size = [max(int(s), 1) for s in rng.exponential(px / 5, 2)]
        kind = rng.integers(4)
        if kind == 0:
            cv2.ellipse(
                image, at, size, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA
            )
        elif kind == 1:
            box = cv2.boxPoints(
                (at, (2.0 * size[0], 2.0 * size[1]), float(rng.choice([0, rng.uniform(0, 90)])))
            )
            cv2.fillPoly(image, [box.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 2:
            cv2.line(
                image,
                at,
                tuple(int(c) for c in rng.integers(0, px, 2)),
                colour,
                int(rng.integers(1, 1 + max(px // 12, 1))),
                cv2.LINE_AA,
            )
        else:
            for k in range(int(rng.integers(2, 7))):  # a row of like things
                cv2.ellipse(
                    image,
                    (at[0] + k * 2 * size[0] // 2, at[1]),
                    (size[0] // 3 + 1, size[1] // 2 + 1),
                    0,
                    0,
                    360,
                    colour,
                    -1,
                    cv2.LINE_AA,
                )
    return image


def background(rng, pictures, px):
    """A background (px, px, 3) float32, 0..255, RGB."""
    image = photograph(rng, pictures, px) if rng.random() < 0.6 else texture(rng, px)
    image = clutter(
        rng, np.ascontiguousarray(image, np.float32), rng.poisson(rng.choice([0.5, 4, 12]))
    )
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), px / 64 * rng.exponential(0.8) + 0.2)
    return np.clip(image, 0, 255)
