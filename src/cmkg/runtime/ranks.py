"""The rank of this process and the number of processes, without importing torch."""

from __future__ import annotations

import sys
from typing import Any


def _group() -> Any:
    """Returns torch.distributed if it is loaded and its group is initialized, otherwise None."""
    torch = sys.modules.get("torch")
    group = getattr(torch, "distributed", None)
    if group is None or not group.is_available() or not group.is_initialized():
        return None
    return group


def rank() -> int:
    """Returns this process's number among those that train together; 0 if alone."""
    group = _group()
    return int(group.get_rank()) if group else 0


def world_size() -> int:
    """Returns the number of processes that train together."""
    group = _group()
    return int(group.get_world_size()) if group else 1
