"""The training steps of a landmark network; the caller runs the loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import Diverged
from ...own_units import in_own_units, in_plain_units
from ...runtime.checks import expect_between, expect_from_zero, expect_positive
from ...runtime.run import Losses, State
from ..mediapipe.networks import Landmarks, TfliteNetwork, as_input
from ..mediapipe.regions import Picture, Region, view_of
from .frames import Frames
from .views import Looks, Views, flag_loss, pose_loss, views_of

WARM_UP = 0.15  # share of the steps
FIRST_RATE = 0.04  # share of the largest rate
BESIDE = 0.125  # share of a batch: places next to the hands, where presence is preserved
SIDES = (0.15, 1.2)  # size range of these places, relative to the picture


class TeachingSet(NamedTuple):
    """Frames, and their share of a batch."""

    frames: Frames
    share: float


@dataclass(frozen=True)
class TeachingRecipe:
    """How to fine-tune a landmark network."""

    steps: int = 180
    batch: int = 16
    lr: float = 3e-3
    """Adam's learning rate, for weights in units of their own channels (own_units.py)."""
    decay: float = 0.0
    """Pull towards the initial weights (L2-SP): decoupled decay of the change, multiplied by the
    learning rate, at each step."""
    average: float = 1.0
    """Share of the trained weights in their average with the initial ones (WiSE-FT, Wortsman et
    al., 2022); 1 uses the trained weights only."""
    frozen: int = 0
    """Number of layers, counted from the input, that stay unchanged."""

    def __post_init__(self) -> None:
        expect_positive(self, "steps", "batch", "lr")
        expect_from_zero(self, "decay", "frozen")
        expect_between(self, 0, 1, "average")


class Teaching:
    """The training of a landmark network.

        teaching = Teaching(network, [TeachingSet(frames, 1.0)], Recipe())
        for step in range(recipe.steps):
            losses = teaching.take_step(step)
        taught = teaching.taught_network()

    Every step's batch is determined by the seed and the step number alone.

    Args:
        network: the initial network; it stays unchanged.
        sources: frames with labels, and their shares of a batch.
        recipe: steps and rates.
        looks: how views are varied.
        seed: of the random numbers.
        penalty: added to the loss, given the network in its own units; for example a prior.
        with_flags: also learn presence and side from the labels; otherwise they are preserved.
    """

    def __init__(
        self,
        network: TfliteNetwork,
        sources: Sequence[TeachingSet],
        recipe: TeachingRecipe,
        looks: Looks | None = None,
        seed: int = 0,
        penalty: Callable[[TfliteNetwork], Tensor] | None = None,
        with_flags: bool = False,
    ) -> None:
        self.with_flags = with_flags
        self.sources, self.recipe, self.seed = sources, recipe, seed
        self.looks, self.penalty = looks or Looks(), penalty
        self.start = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.taught = copy.deepcopy(network)
        for number, layer in enumerate(self.taught.children()):
            layer.requires_grad_(number >= recipe.frozen)
        in_own_units(self.taught)
        deltas = [weight for weight in self.taught.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(deltas, recipe.lr, weight_decay=recipe.decay)

    @property
    def state(self) -> State:
        """The contents of a checkpoint."""
        return {"network": self.taught, "optimizer": self.optimizer}

    def take_step(self, step: int) -> Losses:
        """Takes one step of the optimizer; steps count from 0.

        Raises:
            Diverged: the loss is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * rate_at(step, self.recipe.steps)
        views, beside = self._batch(step)
        count = len(views.pictures)
        pictures = torch.cat([views.pictures, beside])
        answer = self.taught(pictures)
        with torch.inference_mode():
            before = self.start(pictures)
        poses = pose_loss(Landmarks(*(output[:count] for output in answer)), views)
        loss = poses + flag_loss(answer, before, views.is_right if self.with_flags else None)
        if self.penalty is not None:
            loss = loss + self.penalty(self.taught)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value} at step {step + 1}: give a smaller --lr")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": value, "poses": float(poses.detach())}

    def taught_network(self) -> TfliteNetwork:
        """A copy with plain weights, averaged with the initial ones as the recipe says."""
        plain = copy.deepcopy(self.taught)
        in_plain_units(plain)
        return average_with(self.start, plain, self.recipe.average)

    def _batch(self, step: int) -> tuple[Views, Tensor]:
        """Views with labels, and pictures of places next to the hands."""
        batch = self.recipe.batch
        beside = round(batch * BESIDE)
        total = sum(source.share for source in self.sources)
        sizes = [round((batch - beside) * source.share / total) for source in self.sources]
        sizes[0] += batch - beside - sum(sizes)
        rng = np.random.default_rng([self.seed, step])
        joined: Views | None = None
        for number, (source, size) in enumerate(zip(self.sources, sizes, strict=True)):
            if size:
                rows = rows_at(len(source.frames), size, step, [self.seed, number])
                views = views_of(source.frames, rows, self.looks, rng)
                joined = views if joined is None else joined.join(views)
        assert joined is not None
        places = [_beside(self.sources[-1].frames, rng) for _ in range(beside)]
        shape = (0, *joined.pictures.shape[1:])
        return joined, as_input(np.stack(places)) if beside else joined.pictures.new_zeros(shape)


def rate_at(step: int, steps: int) -> float:
    """The share of the largest rate at a step: a linear warm-up, then half a cosine."""
    warm = max(WARM_UP * steps, 1.0)
    if step < warm:
        return FIRST_RATE + (1 - FIRST_RATE) * step / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(steps - warm, 1))


def rows_at(count: int, size: int, step: int, key: Sequence[int]) -> list[int]:
    """Numbers of a step's samples: each of `count` is used once before any repeats."""
    rows = []
    for at in range(step * size, (step + 1) * size):
        epoch, place = divmod(at, count)
        rows.append(int(_order_of(count, (*key, epoch))[place]))
    return rows


@lru_cache(maxsize=8)
def _order_of(count: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(count)


def average_with(start: TfliteNetwork, taught: TfliteNetwork, share: float) -> TfliteNetwork:
    """Averages two networks' weights, with `share` for the taught one, which is modified."""
    with torch.no_grad():
        for weight, other in zip(taught.parameters(), start.parameters(), strict=True):
            weight.lerp_(other, 1 - share)
    return taught.eval().requires_grad_(True)


def _beside(frames: Frames, rng: np.random.Generator) -> Picture:
    """A region of random size from one of the pictures, independent of the hand."""
    picture = frames.pictures[int(rng.integers(len(frames)))]
    height, width = picture.shape[:2]
    side = float(np.exp(rng.uniform(*np.log(SIDES)))) * max(height, width)
    x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(-np.pi, np.pi)
    return view_of(picture, Region(float(x), float(y), side, float(angle)))
