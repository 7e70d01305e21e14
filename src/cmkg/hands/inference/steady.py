"""Temporal smoothing of joints: the one-euro filter (Casiez, Roussel, Vogel, CHI 2012)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .hand_result import HandResult

HAND_MM = 100.0  # about a palm: the unit of speed for positions in millimeters


class OneEuro:
    """A low-pass filter whose cutoff frequency rises with speed.

    It removes jitter from still hands and avoids lag for fast ones.

    Args:
        slowest_hz: cutoff at rest.
        per_speed: increase of the cutoff with speed, in Hz per (size / s).
        speed_hz: cutoff for the speed estimate.
    """

    def __init__(
        self, slowest_hz: float = 1.5, per_speed: float = 3.0, speed_hz: float = 1.0
    ) -> None:
        self.slowest_hz, self.per_speed, self.speed_hz = slowest_hz, per_speed, speed_hz
        self.value: np.ndarray | None = None
        self.speed: np.ndarray | None = None

    def __call__(self, value: np.ndarray, seconds: float, size: float = 1.0) -> np.ndarray:
        """Filters a value `seconds` after the last one; speed is measured in sizes per second."""
        if self.value is None or self.speed is None or seconds <= 0:
            self.value, self.speed = value.copy(), np.zeros_like(value)
            return value
        raw = (value - self.value) / seconds
        share = _share(self.speed_hz, seconds)
        self.speed = share * raw + (1 - share) * self.speed
        fast = np.linalg.norm(self.speed, axis=-1, keepdims=True) / size
        share = _share(self.slowest_hz + self.per_speed * fast, seconds)
        self.value = share * value + (1 - share) * self.value
        return self.value


def _share(hz: float | np.ndarray, seconds: float) -> np.ndarray:
    """The weight of the new value in an exponential filter with this cutoff."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * np.asarray(hz) * seconds)))


@dataclass
class SteadyHand:
    """One hand's filters for its joints in pixels and millimeters, and its wrist's position."""

    pixels: OneEuro
    millimetres: OneEuro
    wrist: OneEuro

    @classmethod
    def new(cls) -> SteadyHand:
        """Creates filters in their initial state."""
        return cls(OneEuro(), OneEuro(), OneEuro())

    def __call__(self, result: HandResult, seconds: float) -> HandResult:
        """Smooths a result, `seconds` after the last one."""
        wrist = result.wrist_mm
        return replace(
            result,
            joints_px=self.pixels(result.joints_px, seconds, max(result.box[2], 1.0)),
            joints_mm=self.millimetres(result.joints_mm, seconds, HAND_MM),
            wrist_mm=None if wrist is None else self.wrist(wrist[None], seconds, HAND_MM)[0],
        )
