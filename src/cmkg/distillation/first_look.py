"""Checks and warnings of a Distiller on its example batch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import InputError
from ..modules import expect_numbers, preserve_weights
from .losses import (
    ATTENTION_WEIGHT,
    Criterion,
    CriterionName,
    DistillationLoss,
    Loss,
    attention_map,
    loss_of_labelled,
)
from .pairing import Pair


def expect_takes_mask(criterion: Criterion) -> None:
    """Refuses a criterion that cannot take a mask and would count padding."""
    function = criterion.forward if isinstance(criterion, nn.Module) else criterion
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "mask" not in parameters and not takes_any:
        raise InputError(
            "the batch has a mask, which this criterion does not take: give it a third argument "
            "`mask`, (B, *places) of bool, and leave out the places where it is False"
        )


EVEN = 1e-4  # spread of an attention map relative to its mean that rounding alone can cause


def warn_of_even_attention(
    criterion: DistillationLoss,
    pairs: Sequence[Pair],
    student_maps: list[Tensor],
    teacher_maps: list[Tensor],
    mask: Tensor | None,
) -> None:
    """Warns that a map's attention is uniform, so that Eq. 3 compares nothing."""
    if not criterion.attention_weight or mask is not None:
        return
    both = criterion.compared(student_maps, teacher_maps)
    for pair, *maps in zip(pairs, *both, strict=True):
        for what, features in zip(("student", "teacher"), maps, strict=True):
            if features[0, 0].numel() == 1:
                continue
            attention = attention_map(features)
            if bool((attention.std(1) < EVEN * attention.mean(1)).all()):
                name = pair.student if what == "student" else pair.teacher
                warnings.warn(
                    f"the {what}'s map at {name!r} has the same attention everywhere (Eq. 3), as a "
                    "LayerNorm's output has: L_ATT teaches nothing there; pair the layer before "
                    'the norm, or give criterion="features"',
                    stacklevel=4,
                )
                return


def fitting_attention_weight(
    criterion: DistillationLoss,
    student_maps: list[Tensor],
    teacher_maps: list[Tensor],
    batch: Batch,
    loss: Loss,
    prediction: Any,
) -> float:
    """Returns lambda for a loss other than Eq. 1, with L_ATT at most the loss on the example.

    It is the paper's 1e3 if the loss cannot be evaluated, or the example has no labeled sample.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        attention = float(criterion(student_maps, teacher_maps, batch.mask)["attention"])
        try:
            guard = preserve_weights(loss, []) if isinstance(loss, nn.Module) else nullcontext()
            with guard:
                value = float(loss_of_labelled(loss, prediction, batch))
        except (
            Exception
        ):  # user code: the loss needs training mode, or fails later with its own message
            return ATTENTION_WEIGHT
    if not (0 < value < attention < float("inf")):
        return ATTENTION_WEIGHT
    weight = float(f"{ATTENTION_WEIGHT * value / attention:.2g}")
    warnings.warn(
        f"attention_weight is {weight:g}: with the paper's {ATTENTION_WEIGHT:g}, L_ATT would be "
        f"{attention:.3g} beside a loss of {value:.3g}; give attention_weight= to choose it",
        stacklevel=4,
    )
    return weight


def expect_criterion(criterion: object, attention_weight: float | None) -> None:
    """Refuses settings that the given criterion would ignore."""
    if criterion == "paper":
        return
    names = get_args(CriterionName)
    if criterion not in names and (isinstance(criterion, type) or not callable(criterion)):
        raise InputError(
            f"criterion: expected one of {', '.join(names)}, or a function of the student's and "
            f"the teacher's maps, as OutputLoss(...), got {criterion!r:.60}"
        )
    if attention_weight is not None:
        raise InputError(
            "attention_weight= beside criterion=: it is Eq. 4's; give the criterion its own weight"
        )


def expect_networks(student: object, teacher: object) -> None:
    """Refuses a student or a teacher that is not a network.

    Raises:
        InputError: names which one.
    """
    for what, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network, nn.Module) and (what == "student" or network is not None):
            raise InputError(
                f"the {what}: expected a network (torch.nn.Module), got {type(network).__name__}"
            )
        if isinstance(network, nn.Module):
            expect_numbers(network)
    if teacher is student:
        raise InputError(
            "the teacher is the student itself: there would be nothing to distil; give a copy "
            "(copy.deepcopy) or another network"
        )
