"""Estimates the noise of phi from the spread of the steps that learned it.

The record is {"count": steps, "squares/<name>": sum of squared steps, "start/<name>": phi before},
plain tensors for a checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .parameters import Tensors

Record = dict[str, Tensor]


def begin_record(phi: Tensors) -> Record:
    """Returns an empty record for phi, with phi's initial value unless that is 0."""
    record: Record = {"count": torch.zeros((), dtype=torch.float64)}
    record |= {f"squares/{name}": torch.zeros_like(values) for name, values in phi.items()}
    if any(bool(values.any()) for values in phi.values()):
        record |= {f"start/{name}": values.clone() for name, values in phi.items()}
    return record


def record_step_(record: Record, gradients: Tensors, beta: float) -> None:
    """Adds one step phi <- phi - beta gradient to the record."""
    squares = [record[f"squares/{name}"] for name in gradients]
    steps = list(gradients.values())
    record["count"] += 1
    torch._foreach_addcmul_(squares, steps, steps, value=beta**2)


def variance_of(record: Record, phi: Tensors) -> dict[str, Tensor] | None:
    """Returns {name: variance of phi_i} for independent steps; None before the second step."""
    count = float(record["count"])
    if count < 2:
        return None
    variance = {}
    for name, values in phi.items():
        begun, squares = record.get(f"start/{name}", 0.0), record[f"squares/{name}"]
        total = values - begun  # sum of all steps
        around_mean = (squares - total**2 / count).clamp_min(0)
        variance[name] = around_mean * count / (count - 1)
    return variance
