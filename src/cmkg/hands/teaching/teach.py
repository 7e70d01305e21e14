"""The steps that teach a landmark network; whoever calls owns the loop."""

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

WARM_UP = 0.15  # of the steps
FIRST_RATE = 0.04  # of the largest
BESIDE = 0.125  # share of a batch: places beside the hands, where presence stays as it was
SIDES = (0.15, 1.2)  # of these places, in pictures


class TeachingSet(NamedTuple):
    """Frames, and their share of a batch."""

    frames: Frames
    share: float


@dataclass(frozen=True)
class TeachingRecipe:
    """How a landmark network is taught."""

    steps: int = 180
    batch: int = 16
    lr: float = 3e-3
    """Of Adam on weights in units of their own channels (own_units.py)."""
    decay: float = 0.0
    """Pull to the start (L2-SP): decoupled decay of what was learned, times the rate, a step."""
    average: float = 1.0
    """Share of the taught weights in their mean with the start's (WiSE-FT, Wortsman et al., 2022);
    1 takes the taught ones."""
    frozen: int = 0
    """So many of the first layers stay as they are."""

    def __post_init__(self) -> None:
        expect_positive(self, "steps", "batch", "lr")
        expect_from_zero(self, "decay", "frozen")
        expect_between(self, 0, 1, "average")


class Teaching:
    """A landmark network that is being taught.

        teaching = Teaching(network, [TeachingSet(frames, 1.0)], Recipe())
        for step in range(recipe.steps):
            losses = teaching.take_step(step)
        taught = teaching.taught_network()

    Every step's batch follows from the seed and its number alone.

    Args:
        network: to begin from; it stays as it is.
        sources: frames with labels, and how a batch is shared among them.
        recipe: steps and rates.
        looks: how views are varied.
        seed: of what is drawn.
        penalty: is added to the loss, given the network in its own units: a prior's, say.
        with_flags: presence and side are learned from the labels, too; else they are kept.
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
        deltas = [one for one in self.taught.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(deltas, recipe.lr, weight_decay=recipe.decay)

    @property
    def state(self) -> State:
        """What a checkpoint holds."""
        return {"network": self.taught, "optimizer": self.optimizer}

    def take_step(self, step: int) -> Losses:
        """One step of the optimiser, from number 0.

        Raises:
            Diverged: the loss is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * rate_at(step, self.recipe.steps)
        views, beside = self._batch(step)
        count = len(views.pictures)
        pictures = torch.cat([views.pictures, beside])
        said = self.taught(pictures)
        with torch.inference_mode():
            before = self.start(pictures)
        poses = pose_loss(Landmarks(*(one[:count] for one in said)), views)
        loss = poses + flag_loss(said, before, views.is_right if self.with_flags else None)
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
        """A copy with plain weights, averaged with the start's as the recipe says."""
        plain = copy.deepcopy(self.taught)
        in_plain_units(plain)
        return average_with(self.start, plain, self.recipe.average)

    def _batch(self, step: int) -> tuple[Views, Tensor]:
        """Views with labels, and pictures of places beside the hands."""
        batch = self.recipe.batch
        beside = round(batch * BESIDE)
        total = sum(one.share for one in self.sources)
        sizes = [round((batch - beside) * one.share / total) for one in self.sources]
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
    """Numbers of a step's samples: each of `count` once before any comes again."""
    rows = []
    for at in range(step * size, (step + 1) * size):
        epoch, place = divmod(at, count)
        rows.append(int(_order_of(count, (*key, epoch))[place]))
    return rows


@lru_cache(maxsize=8)
def _order_of(count: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(count)


def average_with(start: TfliteNetwork, taught: TfliteNetwork, share: float) -> TfliteNetwork:
    """The mean of two networks' weights, `share` of it the taught one's; changes that one."""
    with torch.no_grad():
        for own, other in zip(taught.parameters(), start.parameters(), strict=True):
            own.lerp_(other, 1 - share)
    return taught.eval().requires_grad_(True)


def _beside(frames: Frames, rng: np.random.Generator) -> Picture:
    """A place of any size in one of the pictures, wherever its hand is."""
    picture = frames.pictures[int(rng.integers(len(frames)))]
    height, width = picture.shape[:2]
    side = float(np.exp(rng.uniform(*np.log(SIDES)))) * max(height, width)
    x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(-np.pi, np.pi)
    return view_of(picture, Region(float(x), float(y), side, float(angle)))
