"""Samples poses of the open hand within human joint limits."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .mesh import LIMITS_DEG, OpenHand, pose_bones

THUMB = slice(16, 21)
NEAREST_FINGERS_M = 0.009  # points of two fingers that are closer collide
NEAREST_PALM_M = 0.012

Angles = Float[np.ndarray, "23"]  # degrees, see mesh.ANGLES


def sample_angles(rng: np.random.Generator) -> Angles:
    """Samples open hands, fists, counting, pointing, and anything in between."""
    style = rng.random()
    if style < 0.25:
        curl = np.full(4, rng.choice([0.05, 0.95, rng.random()], p=[0.45, 0.25, 0.3]))
    elif style < 0.8:
        curl = rng.choice([0.05, 0.95, -1.0], size=4, p=[0.42, 0.38, 0.2])
        curl = np.where(curl < 0, rng.random(4), curl)
    else:
        curl = rng.random(4)
    curl = np.clip(curl + rng.normal(0, 0.08, 4), 0, 1)
    claw = rng.uniform(-0.5, 0.5)  # whether the base or the middle joint bends first
    bend = claw * curl * (1 - curl)
    mcp = -8 + 90 * np.clip(curl + bend, 0, 1) + rng.normal(0, 8, 4)
    pip = 4 + 98 * np.clip(curl - bend, 0, 1) + rng.normal(0, 6, 4)
    dip = 0.6 * pip + rng.normal(0, 7, 4)
    spread = _sample_spread(rng, 1 - 0.8 * curl)
    towards_palm = 0.25 * (curl[:2].mean() - 0.5)
    across = np.clip(rng.beta(0.7, 0.7) + towards_palm, 0, 1)  # 0 = thumb out, 1 = across the palm
    thumb = np.array(
        [
            -15 + 40 * across,
            -15 + 25 * across,
            -10 + 55 * across,
            55 * across * rng.random(),
            80 * rng.beta(1, 1.6) * across,
        ]
    )
    thumb += rng.normal(0, [8, 10, 10, 6, 8])
    return _within_limits(mcp, spread, pip, dip, thumb, wrist=_sample_wrist(rng))


def sample_gesture(rng: np.random.Generator) -> Angles:
    """Samples fingers either extended or closed, with the thumb anywhere within its limits."""
    shut = rng.random(4) < rng.choice([0.5, 0.85])
    tight = rng.uniform(0.85, 1.0)
    mcp = np.where(shut, 80 * tight, rng.uniform(-8, 15)) + rng.normal(0, 8, 4)
    pip = np.where(shut, 98 * tight, rng.uniform(4, 20)) + rng.normal(0, 6, 4)
    dip = np.where(shut, rng.uniform(20, 55), 0.6 * pip) + rng.normal(0, 6, 4)
    spread = _sample_spread(rng, np.where(shut, 0.2, 1.0))
    wrist = _sample_wrist(rng)
    thumb = rng.uniform(*LIMITS_DEG[THUMB].T)
    return _within_limits(mcp, spread, pip, dip, thumb, wrist)


def _sample_spread(rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
    """Abduction of the four fingers, smaller for bent ones."""
    fan = np.array([1.0, 0.15, -0.55, -1.15])
    return rng.uniform(-8, 14) * fan * share + rng.normal(0, 3, 4)


def _sample_wrist(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, [22, 10])


def _within_limits(
    mcp: np.ndarray,
    spread: np.ndarray,
    pip: np.ndarray,
    dip: np.ndarray,
    thumb: np.ndarray,
    wrist: np.ndarray,
) -> Angles:
    """Joins and clips the fingers' angles (4,) each, the thumb's (5,) and the wrist's (2,)."""
    fingers = np.stack([mcp, spread, pip, dip], 1).ravel()
    return np.clip(np.concatenate([fingers, thumb, wrist]), *LIMITS_DEG.T)


def collides(joints: Float[np.ndarray, "21 3"]) -> bool:
    """Whether two fingers, or a finger and the palm, intersect, for joints in meters."""
    chains = joints[1:].reshape(5, 4, 3)
    halfway = (chains[:, 1:-1] + chains[:, 2:]) / 2
    points = np.concatenate([chains[:, 1:], halfway], 1)  # (5, 5, 3)
    apart = np.linalg.norm(points[:, None, :, None] - points[None, :, None], axis=-1).min((2, 3))
    palm = (joints[[0, 0, 0]] + joints[[5, 9, 17]] * 2) / 3
    to_palm = np.linalg.norm(points.reshape(-1, 1, 3) - palm[None], axis=-1).min()
    return bool((apart + np.eye(5)).min() < NEAREST_FINGERS_M or to_palm < NEAREST_PALM_M)


def sample_free_angles(
    rng: np.random.Generator,
    hand: OpenHand,
    shape: Float[np.ndarray, " s"],
    gestures: float = 0.0,
    tries: int = 8,
) -> Angles:
    """Samples angles without finger collisions; returns the last sample if all tries fail.

    gestures is the share of samples from `sample_gesture`.
    """
    draw = sample_gesture if gestures and rng.random() < gestures else sample_angles
    for _ in range(tries):
        angles = draw(rng)
        if not collides(pose_bones(hand, shape, angles).joints):
            break
    return angles
