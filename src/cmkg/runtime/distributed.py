"""Devices, precision and the processes that train together.

A single process is the usual case and costs nothing. Several processes are those that `torchrun`
started, once `launch` or the user has initialized their process group; environment variables alone
change nothing.

Settings, folder and code must be equal on all processes and are compared at the start; an error in
one is raised in all. If a process stops or diverges from the others, the job ends after
CMKG_TIMEOUT_MINUTES (default 30).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import InputError
from .ranks import rank, world_size
from .signals import signals_end_at_once

LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
Precision = Literal["auto", "32-true", "bf16-mixed"]
T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


@runtime_checkable
class Processes(Protocol):
    """The part of lightning_fabric.Fabric in use: this process among those that train together."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""

    @property
    def world_size(self) -> int:
        """The number of processes."""

    @property
    def global_rank(self) -> int:
        """The rank of this process."""

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context that sets the precision of forward passes."""


def launch(precision: Precision = "auto", accelerator: str = "auto") -> Processes:
    """Returns a lightning_fabric.Fabric for this process, alone or started by `torchrun`.

    Args:
        precision: "auto" is bfloat16 autocast if the machine supports it natively, otherwise
            float32.
        accelerator: "auto", "cpu" or "cuda".
    """
    try:
        from lightning_fabric import Fabric  # imported late: it takes half a second
    except ModuleNotFoundError:
        raise InputError(
            "training needs lightning-fabric, which is not installed: install cmkg with its extra "
            "'train' (in a checkout: pip install '.[train]')"
        ) from None
    if precision == "auto":
        precision = "bf16-mixed" if _computes_bf16() else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    total, local = launched_processes()
    strategy: Any = "auto"
    if total > 1:
        from lightning_fabric.strategies import DDPStrategy

        strategy = DDPStrategy(timeout=timedelta(minutes=timeout_minutes()))
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=total // local,
        precision=precision,
        strategy=strategy,
    )
    with signals_end_at_once(unless=total == 1):  # waiting for the others blocks outside of Python
        fabric.launch()
    if world_size() > 1:
        atexit.register(_leave_group)
    return fabric


def launched_processes() -> tuple[int, int]:
    """Returns the number of processes in all and on this machine; 1 and 1 without `torchrun`.

    Raises:
        InputError: If WORLD_SIZE or LOCAL_WORLD_SIZE is not a number of processes, or torchrun's
            other variables are missing, so that the process would wait forever.
    """
    counts = {}
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        text = os.environ.get(name, "1")
        if not text.isdecimal() or not 0 < int(text[:9]) < 1_000_000:
            raise InputError(
                f"{name}: expected the number of processes, as torchrun sets it, got {text!r:.40}; "
                "unset it to work alone"
            )
        counts[name] = int(text)
    total, local = counts["WORLD_SIZE"], counts["LOCAL_WORLD_SIZE"]
    missing = [name for name in LAUNCHED if name not in os.environ]
    if total > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {total}, and {missing[0]} is not set: start several processes with "
            "torchrun, or unset WORLD_SIZE to work alone"
        )
    if total % local:
        raise InputError(f"WORLD_SIZE {total} is no multiple of LOCAL_WORLD_SIZE {local}")
    return total, local


def join_launched_processes() -> None:
    """Joins the other processes if `torchrun` started this one; only for the command line."""
    if launched_processes()[0] > 1:
        launch("32-true")


def timeout_minutes() -> float:
    """Returns how long a process waits for another before it ends: CMKG_TIMEOUT_MINUTES.

    Raises:
        InputError: If it is not a positive number.
    """
    text = os.environ.get("CMKG_TIMEOUT_MINUTES", "30")
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e5:
        raise InputError(f"CMKG_TIMEOUT_MINUTES: expected a positive number, got {text!r:.40}")
    return minutes


def _computes_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def _leave_group() -> None:
    """Ends the process group before Python exits; otherwise its threads would abort the process."""
    if world_size() > 1:
        with suppress(RuntimeError):  # the others may have ended
            torch.distributed.destroy_process_group()


def _is_initialised() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def average_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """Returns each tensor's mean over all processes of the group, in one flat bucket."""
    if world_size() == 1 or not tensors:
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    parts = (flat / world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def sum_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """Sums {name: number} over all processes, by name; names may differ between processes."""
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
    """Broadcasts the first process's parameters and buffers to all; returns the model."""
    if world_size() > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            torch.distributed.broadcast(tensor.data, 0)
    return model


@torch.no_grad()
def average_buffers_(models: Iterable[object]) -> None:
    """Averages BatchNorm's running statistics, which each process computes on its own data."""
    if world_size() == 1:
        return
    buffers = [
        buffer
        for model in models
        if isinstance(model, nn.Module)
        for buffer in model.buffers()
        if buffer.is_floating_point()
    ]
    for dtype in dict.fromkeys(buffer.dtype for buffer in buffers):
        alike = [buffer for buffer in buffers if buffer.dtype == dtype]
        for buffer, mean in zip(alike, average_over_ranks(alike), strict=True):
            buffer.copy_(mean)


def place_model(model: nn.Module, fabric: Processes) -> nn.Module:
    """Moves the model to this process's device.

    On several GPUs its BatchNorm layers see the whole batch.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(fabric.device)


# ---- agreement -----------------------------------------------------------------------------------
def max_over_ranks(*values: float) -> list[float]:
    """Returns the maximum of each number over all processes."""
    if world_size() == 1:
        return list(values)
    is_nccl = "nccl" in torch.distributed.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if is_nccl else torch.device("cpu")
    numbers = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
    largest: list[float] = numbers.tolist()
    return largest


def on_every_rank(function: Callable[[], T]) -> T:
    """Calls `function` in every process; an InputError in one is raised in all.

    Raises:
        InputError: This process's own error, or another's, prefixed with "process 1: ".
    """
    if world_size() == 1:
        return function()
    results: list[T] = []
    refused: InputError | None = None
    try:
        results.append(function())
    except InputError as error:
        refused = error
    refusals = gather_lists([None if refused is None else str(refused)])
    if refused is not None:
        raise refused
    for number, sentence in enumerate(refusals):
        if sentence is not None:
            raise InputError(f"process {number}: {sentence}")
    return results[0]


def expect_same_on_ranks(facts: Mapping[str, Any]) -> None:
    """Refuses processes that were started with different settings.

    Args:
        facts: The values that must be equal, by name, as plain JSON.

    Raises:
        InputError: In every process, with the first difference.
    """
    if world_size() == 1:
        return
    every = gather_lists([json.loads(json.dumps(dict(facts), default=str))])
    for number, other in enumerate(every):
        for name in [*every[0], *other]:
            here, there = every[0].get(name), other.get(name)
            if here != there:
                raise InputError(
                    f"process {number} was started with {name} = {there!r:.120}, process 0 with "
                    f"{here!r:.120}; start all with the same command, folder and code"
                )


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Returns a checksum of this package's modules; processes of one job must run the same code."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def expect_divided(batch: int, what: str) -> None:
    """Refuses a batch that the processes cannot share evenly, since their means would be wrong.

    Raises:
        InputError: If it is smaller than the number of processes, or not divisible by it.
    """
    count = world_size()
    if batch % count:
        smaller = " is smaller than there are processes" if batch < count else " leaves a rest"
        raise InputError(
            f"{what}: a batch of {batch} samples on {count} processes{smaller}; give a multiple of "
            f"{count}, or start fewer processes"
        )


def in_step(items: Iterable[T], what: str) -> Iterator[T]:
    """Yields the items, as long as every process has one.

    Raises:
        InputError: If one process has fewer than another, so that the others would wait for it.
    """
    if world_size() == 1:
        yield from items
        return
    end: Any = object()
    for count, item in enumerate(chain(items, [end])):
        has_one = item is not end
        some_have, some_have_not = max_over_ranks(float(has_one), float(not has_one))
        if some_have and some_have_not:
            found = f"more than {count}" if has_one else f"{count}"
            raise InputError(
                f"process {rank()} has {found} {what} in this epoch, others have not as many; give "
                "every process the same number (a DistributedSampler with drop_last=True)"
            )
        if not has_one:
            return
        yield item


def wait_for_all() -> None:
    """Blocks until every process has reached this call."""
    if world_size() > 1:
        torch.distributed.barrier()


def on_first_rank(function: Callable[[], T]) -> T | None:
    """Calls `function` only in the first process while the others wait; returns None in those."""
    result = function() if rank() == 0 else None
    wait_for_all()
    return result


def describe_lost_contact(error: RuntimeError) -> str:
    """Describes in words how the processes lost contact."""
    reason = str(error).splitlines()[0]
    if "imed out" in reason:
        return (
            f"process {rank()} waited {timeout_minutes():g} minutes for another "
            "(CMKG_TIMEOUT_MINUTES), which stands still or does other work"
        )
    return f"process {rank()} lost contact with another, which has ended ({reason[-120:]})"


def is_lost_contact(error: RuntimeError) -> bool:
    """Returns whether a collective raised this because another process has ended or timed out."""
    words = ("Connection", "connection", "gloo", "NCCL", "peer", "Timed out", "timed out")
    return world_size() > 1 and any(word in str(error) for word in words)
