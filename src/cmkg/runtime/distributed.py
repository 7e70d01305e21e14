"""Devices, precision and the processes that train together.

One process alone is the usual case and costs nothing. Several are those that `torchrun` started:
they count as several only once their process group is initialised, by `launch` or by the user.
Environment variables alone change nothing.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

Precision = Literal["auto", "32-true", "bf16-mixed"]
T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


@runtime_checkable
class Processes(Protocol):
    """What the code uses of a lightning_fabric.Fabric: this process among those that train."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    @property
    def global_rank(self) -> int:
        """The number of this one."""

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""


def launch(precision: Precision = "auto", accelerator: str = "auto") -> Processes:
    """Returns a lightning_fabric.Fabric for this process, alone or started by `torchrun`.

    Args:
        precision: "auto" is bfloat16 autocast where the machine computes it natively, else float32.
        accelerator: "auto", "cpu" or "cuda".
    """
    from lightning_fabric import Fabric  # half a second of the program's start

    if precision == "auto":
        precision = "bf16-mixed" if _computes_bf16() else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    total = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator=accelerator, devices=local, num_nodes=total // local, precision=precision
    )
    fabric.launch()
    if world_size() > 1:
        atexit.register(_leave_group)
    return fabric


def join_launched_processes() -> None:
    """Joins the other processes if `torchrun` started this one; for the command line alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        launch("32-true")


def _computes_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def _leave_group() -> None:
    """Ends the process group before Python ends: its threads would abort the process."""
    if world_size() > 1:
        with suppress(RuntimeError):  # the others may have gone
            torch.distributed.destroy_process_group()


def _is_initialised() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Number of this process among those that train together; 0 alone."""
    return torch.distributed.get_rank() if _is_initialised() else 0


def world_size() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if _is_initialised() else 1


def average_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of each tensor over all processes of the initialised group, in one flat bucket."""
    if world_size() == 1 or not tensors:
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    parts = (flat / world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def sum_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """Adds up {name: number} over all processes, by name: not all need have all."""
    total: dict[str, float] = {}
    for name, value in gather_lists(list(values.items())):
        total[name] = total.get(name, 0.0) + value
    return total


def gather_lists(items: list[T]) -> list[T]:
    """Returns the lists of all processes as one list, in every process."""
    if world_size() == 1:
        return items
    lists: list[list[T]] = [[]] * world_size()
    torch.distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


@torch.no_grad()
def broadcast_module_(model: Model) -> Model:
    """Gives every process the first one's parameters and buffers; returns the model."""
    if world_size() > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            torch.distributed.broadcast(tensor.data, 0)
    return model


@torch.no_grad()
def average_buffers_(models: Iterable[object]) -> None:
    """Averages BatchNorm's running statistics, which each process takes from its own share."""
    if world_size() == 1:
        return
    for model in models:
        if not isinstance(model, nn.Module):
            continue
        for buffer in model.buffers():
            if buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer /= world_size()


def place_model(model: nn.Module, fabric: Processes) -> nn.Module:
    """Moves the model to this process's device.

    On several GPUs its BatchNorm layers see the whole batch.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(fabric.device)


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if world_size() > 1:
        torch.distributed.barrier()


def on_first_rank(function: Callable[[], T]) -> T | None:
    """Calls `function` in the first process alone while the others wait; None in the others."""
    result = function() if rank() == 0 else None
    wait_for_all()
    return result


def is_lost_contact(error: RuntimeError) -> bool:
    """Whether this is what a collective raises when another process has ended."""
    words = ("Connection", "connection", "gloo", "NCCL", "peer")
    return world_size() > 1 and any(word in str(error) for word in words)
