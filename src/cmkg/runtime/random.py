"""Random streams by key, each independent of what other keys have drawn.

They need no saved state, and a resumed job draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import random
import zlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .distributed import gather_lists
from .ranks import rank


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a torch.Generator for a key of names and numbers."""
    seed = zlib.crc32(repr(key).encode()) * 2654435761 % (1 << 63)
    return torch.Generator(device).manual_seed(seed)


def batch_indices(
    seed: object, step: int, count: int, batch: int, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Returns this process's share of the sample numbers of one step.

    Each epoch is a new permutation of all `count` samples; an incomplete last batch is dropped.
    """
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    order = _permutation(seed, epoch, count)
    return order[place * batch : (place + 1) * batch][rank::world_size]


@lru_cache(maxsize=4)
def _permutation(seed: object, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=generator("order", seed, epoch, count))


class TorchRandomState:
    """torch's global random streams as part of a checkpoint, separate for each process."""

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Returns the streams' states; all processes call it together."""
        states = {"states": gather_lists([torch.get_rng_state()])}
        if torch.cuda.is_available():
            states["cuda"] = gather_lists([torch.cuda.get_rng_state()])
        return states

    def load_state_dict(self, held: dict[str, list[Tensor]]) -> None:
        """Puts this process's saved state back."""
        torch.set_rng_state(held["states"][rank()])
        if "cuda" in held and torch.cuda.is_available():
            torch.cuda.set_rng_state(held["cuda"][rank()])


class PythonRandomState:
    """The global streams of Python's random and of NumPy, which users' datasets may draw from."""

    def state_dict(self) -> dict[str, list[dict[str, Tensor]]]:
        """Returns the streams' states; all processes call it together."""
        version, words, spare = random.getstate()
        _, keys, place, has_spare, other = np.random.get_state(legacy=True)  # noqa: NPY002
        numbers = [version, *words], [float("nan") if spare is None else spare]
        state = {
            "random": torch.tensor(numbers[0], dtype=torch.int64),
            "random_spare": torch.tensor(numbers[1], dtype=torch.float64),
            "numpy": torch.tensor([*map(int, keys), place, has_spare], dtype=torch.int64),
            "numpy_spare": torch.tensor([other], dtype=torch.float64),
        }
        return {"states": gather_lists([state])}

    def load_state_dict(self, held: dict[str, list[dict[str, Tensor]]]) -> None:
        """Puts this process's saved state back."""
        saved = held["states"][rank()]
        version, *words = saved["random"].tolist()
        spare = float(saved["random_spare"])
        random.setstate((version, tuple(words), None if spare != spare else spare))
        *keys, place, has_spare = saved["numpy"].tolist()
        state = ("MT19937", np.array(keys, dtype=np.uint32), place, has_spare)
        np.random.set_state((*state, float(saved["numpy_spare"])))  # noqa: NPY002


class GeneratorState:
    """A user's torch.Generator, such as that of a DataLoader or a sampler."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Returns its state; all processes call it together."""
        return {"states": gather_lists([self.generator.get_state()])}

    def load_state_dict(self, held: dict[str, list[Tensor]]) -> None:
        """Puts this process's saved state back."""
        self.generator.set_state(held["states"][rank()])
