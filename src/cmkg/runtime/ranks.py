"""Which of the processes that train together this one is; needs no torch where none trains."""

from __future__ import annotations

import sys
from typing import Any


def _group() -> Any:
    """torch.distributed, where it is loaded and its group is there; else None."""
    torch = sys.modules.get("torch")
    group = getattr(torch, "distributed", None)
    if group is None or not group.is_available() or not group.is_initialized():
        return None
    return group


def rank() -> int:
    """Number of this process among those that train together; 0 alone."""
    group = _group()
    return int(group.get_rank()) if group else 0


def world_size() -> int:
    """How many processes train together."""
    group = _group()
    return int(group.get_world_size()) if group else 1
