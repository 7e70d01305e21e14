"""Poses of the open hand inside human joint limits."""

import numpy as np

from .mesh import LIMITS_DEG, skeleton

THUMB = slice(16, 21)


def sample_angles(rng):
    """Joint angles (23,) in degrees inside human limits: open hands, fists, counting, pointing,
    anything between."""
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
    mcp = -8 + 90 * np.clip(curl + claw * curl * (1 - curl), 0, 1) + rng.normal(0, 8, 4)
    pip = 4 + 98 * np.clip(curl - claw * curl * (1 - curl), 0, 1) + rng.normal(0, 6, 4)
    dip = 0.6 * pip + rng.normal(0, 7, 4)
    spread = rng.uniform(-8, 14) * np.array([1.0, 0.15, -0.55, -1.15]) * (
        1 - 0.8 * curl
    ) + rng.normal(0, 3, 4)
    # 0 = thumb out, 1 = across the palm
    across = np.clip(rng.beta(0.7, 0.7) + 0.25 * (curl[:2].mean() - 0.5), 0, 1)
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
    return _within_limits(mcp, spread, pip, dip, thumb, wrist=rng.normal(0, [22, 10]))


def sample_gesture(rng):
    """Joint angles (23,) in degrees: fingers either stretched or shut into the palm, the thumb
    anywhere within its limits."""
    shut, tight = rng.random(4) < rng.choice([0.5, 0.85]), rng.uniform(0.85, 1.0)
    mcp = np.where(shut, 80 * tight, rng.uniform(-8, 15)) + rng.normal(0, 8, 4)
    pip = np.where(shut, 98 * tight, rng.uniform(4, 20)) + rng.normal(0, 6, 4)
    dip = np.where(shut, rng.uniform(20, 55), 0.6 * pip) + rng.normal(0, 6, 4)
    spread = rng.uniform(-8, 14) * np.array([1.0, 0.15, -0.55, -1.15]) * np.where(
        shut, 0.2, 1.0
    ) + rng.normal(0, 3, 4)
    wrist = rng.normal(0, [22, 10])
    return _within_limits(mcp, spread, pip, dip, rng.uniform(*LIMITS_DEG[THUMB].T), wrist)


def _within_limits(mcp, spread, pip, dip, thumb, wrist):
    """The four fingers' angles, (4,) each, the thumb's (5,) and the wrist's (2,), as the hand
    takes them: (23,)."""
    fingers = np.stack([mcp, spread, pip, dip], 1).ravel()
    return np.clip(np.concatenate([fingers, thumb, wrist]), *LIMITS_DEG.T)


def collides(joints):
    """Whether two fingers run through each other: points along them (joints (21, 3), metres)
    nearer than 9 mm."""
    chains = joints[1:].reshape(5, 4, 3)
    points = np.concatenate([chains[:, 1:], (chains[:, 1:-1] + chains[:, 2:]) / 2], 1)  # (5, 5, 3)
    between = np.linalg.norm(points[:, None, :, None] - points[None, :, None], axis=-1).min((2, 3))
    palm = (joints[[0, 0, 0]] + joints[[5, 9, 17]] * 2) / 3
    to_palm = np.linalg.norm(points.reshape(-1, 1, 3) - palm[None], axis=-1).min()
    return bool((between + np.eye(5)).min() < 0.009 or to_palm < 0.012)


def sample_free_angles(rng, hand, shape, gestures=0.0, tries=8):
    """Angles (23,) of a mesh.Hand whose fingers do not collide; the last draw if `tries` fail.
    gestures: their share."""
    draw = sample_gesture if gestures and rng.random() < gestures else sample_angles
    for _ in range(tries):
        angles = draw(rng)
        if not collides(skeleton(hand, shape, angles)[2]):
            break
    return angles
