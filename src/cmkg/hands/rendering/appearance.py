"""Imitates FreiHAND's four appearances by new backgrounds and colors for a rendered frame.

gs: in front of a green screen. hom: in front of a photograph, with the hand's colors shifted
towards it. sample: in front of a photograph, with the hand in another color. auto: the whole
picture desaturated and recolored.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Shaped
from numpy.random import Generator

Appearance = Literal["lit", "gs", "hom", "sample", "auto"]
Lab = Float[np.ndarray, "px px 3"]  # lightness 0 to 100, then green to red and blue to yellow
Picture = Shaped[np.ndarray, "px px 3"]  # uint8


def recolour(
    rgb: Picture,
    mask: Shaped[np.ndarray, "px px"],
    behind: Float[np.ndarray, "px px 3"],
    appearance: Appearance,
    rng: Generator,
) -> Picture:
    """Returns the picture in another appearance, uint8.

    Args:
        rgb: the rendered picture.
        mask: 1 on the hand.
        behind: a background, RGB, 0 to 255.
        appearance: "lit" leaves the picture unchanged.
        rng: the random generator.
    """
    if appearance == "lit":
        return rgb
    px = len(rgb)
    hand = _to_lab(rgb.astype(np.float32) / 255)
    edge = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(px / 120, 0.5))[..., None]
    wall = _to_lab(behind.astype(np.float32) / 255)
    if appearance == "gs":
        wall = _green_screen(px, rng)
    elif appearance == "hom":
        hand = _drawn_towards(hand, wall, mask > 0)
    elif appearance == "sample":
        hand = hand + rng.normal(0, [10, 14, 14]).astype(np.float32)
    mixed = edge * hand + (1 - edge) * wall
    if appearance == "auto":
        coarse = rng.normal(0, 18, (3, 3, 2)).astype(np.float32)
        tint = cv2.resize(coarse, (px, px), interpolation=cv2.INTER_CUBIC)
        mixed[..., 1:] = 0.25 * mixed[..., 1:] + tint
    return _to_rgb(mixed)


def _green_screen(px: int, rng: Generator) -> Lab:
    """A green cloth, lit from one side."""
    side = np.linspace(-1, 1, px, dtype=np.float32) * rng.normal(0, 6)
    wall = np.empty((px, px, 3), np.float32)
    wall[...] = np.array([60, -50, 40]) + rng.normal(0, [5, 4, 4])
    wall[..., 0] += side
    return wall


def _drawn_towards(hand: Lab, wall: Lab, inside: Shaped[np.ndarray, "px px"]) -> Lab:
    """Moves each channel halfway to the wall's mean and spread (Reinhard et al., 2001)."""
    if not inside.any():
        return hand
    inner, theirs = hand[inside], wall.reshape(-1, 3)
    ratio = (theirs.std(0) + 1) / (inner.std(0) + 1)
    moved = (hand - inner.mean(0)) * np.clip(ratio, 0.7, 1.4) + theirs.mean(0)
    halfway: Lab = (hand + moved) / 2
    return halfway


def _to_lab(rgb: Float[np.ndarray, "px px 3"]) -> Lab:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB))


def _to_rgb(lab: Lab) -> Picture:
    rgb = np.asarray(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB))
    return np.clip(255 * rgb + 0.5, 0, 255).astype(np.uint8)
