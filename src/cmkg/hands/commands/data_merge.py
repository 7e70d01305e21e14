"""`cmkg data merge`: merges the shards of a packed set."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.text import printable
from ..datasets.packed.merge import merge_shards


@dataclass(frozen=True)
class MergeShards:
    """Merge the shards of a packed set into one set."""

    folders: tuple[str, ...]
    """Folders of all shards of the set."""
    out: str


def run(config: MergeShards) -> None:
    """Writes one set from its shards."""
    whole = merge_shards(config.folders, config.out)
    print(printable(f"{config.out}: {len(whole)} samples of {len(config.folders)} shards"))


SETTINGS = MergeShards
