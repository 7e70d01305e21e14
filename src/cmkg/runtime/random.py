"""Random streams by key: what one key draws never depends on what another has drawn.

So nothing of them needs saving, and a job that is resumed draws what the unbroken one would have.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import torch
from torch import Tensor

from .distributed import gather_lists, rank


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a torch.Generator for a key of names and numbers."""
    seed = zlib.crc32(repr(key).encode()) * 2654435761 % (1 << 63)
    return torch.Generator(device).manual_seed(seed)


def batch_indices(
    seed: object, step: int, count: int, batch: int, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Returns this process's share of the sample numbers of one step.

    Each epoch is a new permutation of all `count` samples; what does not fill a batch is left out.
    """
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    order = _permutation(seed, epoch, count)
    return order[place * batch : (place + 1) * batch][rank::world_size]


@lru_cache(maxsize=4)
def _permutation(seed: object, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=generator("order", seed, epoch, count))


class TorchRandomState:
    """torch's global random streams as a part of a checkpoint: each process has its own."""

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Returns the streams' states; all processes call it together."""
        return {"states": gather_lists([torch.get_rng_state()])}

    def load_state_dict(self, held: dict[str, list[Tensor]]) -> None:
        """Puts this process's saved state back."""
        torch.set_rng_state(held["states"][rank()])
