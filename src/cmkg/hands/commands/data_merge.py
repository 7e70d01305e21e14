"""`cmkg data merge`: makes one packed set of its shards."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.text import printable
from ..datasets.packed.merge import merge_shards


@dataclass(frozen=True)
class MergeShards:
    """One packed set of its shards."""

    folders: tuple[str, ...]
    """The packed shards of one set."""
    out: str


def run(config: MergeShards) -> None:
    """Writes one set of its shards."""
    whole = merge_shards(config.folders, config.out)
    print(printable(f"{config.out}: {len(whole)} samples of {len(config.folders)} shards"))


SETTINGS = MergeShards
