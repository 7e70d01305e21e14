"""Three calls for any networks, losses and data: distill, learn_prior, train_with_prior.

    layers = pair_layers(student, teacher, x, x_superior)
    (prior,) = learn_prior(student, teacher, source, loss)  # distils, and learns phi meanwhile
    train_with_prior(target_student, target, loss, prior.with_rms(1e-3))  # Algorithm 2

Data are iterables of batches that can be iterated anew each epoch (a DataLoader, a list). With
`out`, a folder, a killed call goes on at the epoch where it was when it is given again: to the same
weights, if the data's order follows from torch's global random stream, which is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .batch import SOURCE_FIELDS, TARGET_FIELDS, Batch, Fields, halve
from .errors import InputError
from .features import FeatureTap
from .losses import ATTENTION_WEIGHT, DistillationLoss, regression_loss
from .meta import preserve_weights
from .modules import preserve_modes, trained_parameters
from .pairing import Pairs, pair_layers
from .prior import Prior, fingerprint
from .runtime.distributed import (
    Precision,
    Processes,
    broadcast_module_,
    gradient_average,
    launch,
    place_model,
)
from .runtime.files import PathLike
from .runtime.progress import Bar
from .runtime.random import TorchRandomState
from .runtime.runs import Losses, Run, State
from .steps import Loss, distil_step, meta_step, supervised_step, teacher_maps

Batches = Iterable[Any]


@dataclass(frozen=True)
class _Source:
    """One source: a teacher, its data, and how its layers are compared with the student's."""

    teacher: nn.Module
    batches: Batches
    tap: FeatureTap
    teacher_tap: FeatureTap
    distillation: DistillationLoss


# ---- the three calls -----------------------------------------------------------------------------
def distill(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module],
    batches: Batches | Sequence[Batches],
    loss: Loss = regression_loss,
    *,
    fields: Fields = SOURCE_FIELDS,
    layers: Pairs | None = None,
    epochs: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 2.5e-4,
    attention_weight: float = ATTENTION_WEIGHT,
    precision: Precision = "32-true",
    out: PathLike | None = None,
) -> list[Losses]:
    """Trains `student` on G = loss + L_DIST (Eqs. 4 and 8) with a frozen `teacher`.

    Twelve parameters: eight are keywords with defaults.

    Args:
        student, teacher: the networks; several teachers for several sources.
        batches: the source's, or one iterable a source.
        loss: (prediction, target) to a scalar, of any task.
        fields: which part of a batch is which.
        layers: [(student layer, teacher layer)] of names, deepest last; None proposes them.
        epochs: how often the data are gone through.
        optimizer: over the student's parameters; None is Adam(lr).
        lr: its rate.
        attention_weight: lambda of Eq. 4.
        precision: of forward passes.
        out: a folder to resume from; None keeps nothing.

    Returns:
        [{"regression", "activation", "attention"}], the means of each epoch, as they enter G.
    """
    _, history = _learn(
        student,
        teacher,
        batches,
        loss,
        priors=[],
        fields=fields,
        layers=layers,
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        attention_weight=attention_weight,
        precision=precision,
        out=out,
        facts={},
    )
    return history


def learn_prior(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module],
    batches: Batches | Sequence[Batches],
    loss: Loss = regression_loss,
    *,
    p: Sequence[int] = (2,),
    which: str = "weights",
    granularity: str = "weight",
    alpha: float = 2.5e-4,
    beta: float = 1e-3,
    unit_free: bool = False,
    split: bool = False,
    inner_optimizer: str = "sgd",
    theta_0: nn.Module | None = None,
    fields: Fields = SOURCE_FIELDS,
    layers: Pairs | None = None,
    epochs: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 2.5e-4,
    attention_weight: float = ATTENTION_WEIGHT,
    precision: Precision = "32-true",
    out: PathLike | None = None,
) -> list[Prior]:
    """Distils as `distill` does, and meanwhile learns a prior for each exponent (Algorithm 3).

    theta's path does not depend on phi. Several sources: lists of teachers (one each) and of
    batches, which alternate. Twenty-one parameters: seventeen are keywords with the paper's values
    as defaults.

    Args:
        student, teacher, batches, loss, fields, layers, epochs, optimizer, lr, attention_weight,
            precision, out: see `distill`.
        p: exponents, of 1 and 2.
        which, granularity: see Prior.constant.
        alpha: rate of the inner step.
        beta: phi's rate.
        unit_free: see Prior.learn_.
        split: the first half of each batch is the inner step's, the other G's.
        inner_optimizer: "sgd", the paper's, or "adam": the inner step is alpha of the step that
            `optimizer`, an Adam, takes (meta.adam_scales).
        theta_0: the network as it began, whose fingerprint the prior carries; None is the student
            as it is now.

    Returns:
        A prior for each of `p`.
    """
    facts: dict[str, Any] = {
        "granularity": granularity,
        "alpha": alpha,
        "beta": beta,
        "unit_free": unit_free,
        "inner_optimizer": inner_optimizer,
        "fingerprint": fingerprint(theta_0 or student),
    }
    fabric = launch(precision)
    broadcast_module_(place_model(student, fabric))
    priors = [Prior.constant(student, 0.0, q, which, **facts).track_noise() for q in p]
    learned, _ = _learn(
        student,
        teacher,
        batches,
        loss,
        priors=priors,
        fields=fields,
        layers=layers,
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        attention_weight=attention_weight,
        precision=precision,
        out=out,
        facts=facts | {"which": which, "split": split},
    )
    return learned


def _learn(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module],
    batches: Batches | Sequence[Batches],
    loss: Loss,
    *,
    priors: list[Prior],
    fields: Fields,
    layers: Pairs | None,
    epochs: int,
    optimizer: torch.optim.Optimizer | None,
    lr: float,
    attention_weight: float,
    precision: Precision,
    out: PathLike | None,
    facts: dict[str, Any],
) -> tuple[list[Prior], list[Losses]]:
    """What distilling with and without priors share; its fourteen parameters are theirs."""
    fabric = launch(precision)
    sources = _open_sources(student, teacher, batches, fields, layers, attention_weight, fabric)
    adapters = [source.distillation for source in sources]
    optimizer = _optimizer_of(optimizer, student, adapters, lr)
    average = gradient_average(fabric)

    def step(item: tuple[_Source, Any]) -> Losses:
        source, raw = item
        batch = fields(raw, fabric.device)
        networks = (student, source.tap, source.teacher, source.teacher_tap, optimizer)
        if not priors:
            return distil_step(
                *networks,
                *batch,
                loss=loss,
                distillation=source.distillation,
                context=fabric.autocast,
                average=average,
            )
        inner: Batch = batch
        outer: Batch | None = None
        if facts["split"]:
            inner, outer = halve(batch)
        return meta_step(
            *networks,
            priors,
            *inner,
            alpha=facts["alpha"],
            beta=facts["beta"],
            loss=loss,
            distillation=source.distillation,
            outer=outer,
            unit_free=facts["unit_free"],
            inner_optimizer=facts["inner_optimizer"],
            context=fabric.autocast,
            average=average,
        )

    student.train()
    state: dict[str, Any] = {"student": student, "optimizer": optimizer}
    state |= {f"adapter_{number}": adapter for number, adapter in enumerate(adapters)}
    for prior in priors:
        state |= {f"phi_{prior.p}": prior.phi, f"noise_{prior.p}": prior.noise}
    title = "learn prior" if priors else "distill"
    settings = {
        "call": title,
        "p": [prior.p for prior in priors],
        "lr": lr,
        "attention_weight": attention_weight,
    }
    try:
        run = Run(out, settings | facts, title)
        history = fit_epochs(run, epochs, lambda: _alternate(sources), step, state)
    finally:
        for source in sources:
            source.tap.close()
            source.teacher_tap.close()
    return priors, history


def train_with_prior(
    model: nn.Module,
    batches: Batches,
    loss: Loss = regression_loss,
    prior: Prior | None = None,
    *,
    fields: Fields = TARGET_FIELDS,
    coupled: bool = True,
    epochs: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 2.5e-4,
    precision: Precision = "32-true",
    out: PathLike | None = None,
) -> list[Losses]:
    """Trains `model` on the target on F = loss + R(theta; phi) (Eq. 9, Algorithm 2).

    The paper starts from the theta_0 that phi was learned from: give it, or expect a warning.
    prior.with_rms(sigma) sets its strength; choose sigma on a validation block. Eleven parameters:
    seven are keywords with defaults.

    Args:
        model: the network.
        batches: the target's.
        loss: (prediction, target) to a scalar.
        prior: phi; None trains on the loss alone.
        fields, epochs, optimizer, lr, precision, out: see `distill`.
        coupled: see steps.supervised_step.

    Returns:
        [{"regression"}], the means of each epoch.
    """
    fabric = launch(precision)
    broadcast_module_(place_model(model, fabric)).train()
    trainer = _optimizer_of(optimizer, model, [], lr)
    if prior is not None:
        prior.bind(model)
        if prior.centre is None:  # around given weights one starts there, not at theta_0
            prior.check_start(model)
        prior.to(fabric.device)
    average = gradient_average(fabric)

    def step(raw: Any) -> Losses:
        x, _, y = fields(raw, fabric.device)
        return supervised_step(model, trainer, x, y, loss, prior, coupled, fabric.autocast, average)

    held = None
    if prior is not None:
        held = {"p": prior.p, "rms": prior.rms(), "centred": prior.centre is not None}
    settings = {"call": "train with prior", "lr": lr, "coupled": coupled, "prior": held}
    run = Run(out, settings, "train with prior")
    return fit_epochs(run, epochs, lambda: batches, step, {"student": model, "optimizer": trainer})


# ---- what they share -----------------------------------------------------------------------------
def fit_epochs(
    run: Run,
    epochs: int,
    batches: Callable[[], Iterable[Any]],
    step: Callable[[Any], Losses],
    state: State,
) -> list[Losses]:
    """Goes through the data `epochs` times; resumes at the epoch where `run` was killed.

    Returns:
        The means of the losses of each epoch.
    """
    state = {**state, "random": TorchRandomState()}
    history: list[Losses] = []
    with run.claim():
        for epoch, log in run.steps(epochs, state, whole_epochs=True):
            if not history:
                history = [_without_step(line) for line in run.logged()]
            means = _fit_epoch(f"{run.title} {epoch + 1}/{epochs}", batches(), step)
            history.append(means)
            log(means)
        return history or [_without_step(line) for line in run.logged()]


def _without_step(line: dict[str, Any]) -> Losses:
    return {name: value for name, value in line.items() if name != "step"}


def _fit_epoch(title: str, batches: Iterable[Any], step: Callable[[Any], Losses]) -> Losses:
    sums: Losses = {}
    count = 0
    total = len(batches) if isinstance(batches, Sized) else None
    with Bar(title, total, things="batches") as advance:
        for batch in batches:
            for name, value in step(batch).items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            advance()
    return {name: value / count for name, value in sums.items()}


def _alternate(sources: Sequence[_Source]) -> Iterator[tuple[_Source, Any]]:
    """(source, batch) of all sources in turn; a shorter one ends earlier."""
    still_open = [(source, iter(source.batches)) for source in sources]
    while still_open:
        for item in list(still_open):
            source, batches = item
            try:
                yield source, next(batches)
            except StopIteration:
                still_open.remove(item)


def _open_sources(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module],
    batches: Any,
    fields: Fields,
    layers: Pairs | None,
    attention_weight: float,
    fabric: Processes,
) -> list[_Source]:
    """The sources with their taps; the student is placed and the same in every process."""
    if isinstance(teacher, nn.Module):
        teachers, data = [teacher], [batches]
    else:
        teachers, data = list(teacher), list(batches)
    if len(teachers) != len(data):
        raise InputError(
            f"expected as many teachers as sources, got {len(teachers)} and {len(data)}"
        )
    broadcast_module_(place_model(student, fabric))
    return [
        _open_source(student, one, its_batches, fields, layers, attention_weight, fabric)
        for one, its_batches in zip(teachers, data, strict=True)
    ]


def _open_source(
    student: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    fields: Fields,
    layers: Pairs | None,
    attention_weight: float,
    fabric: Processes,
) -> _Source:
    teacher.to(fabric.device).requires_grad_(False).eval()
    first = next(iter(batches), None)
    if first is None:
        raise InputError(
            "the source has no batch: expected an iterable of batches that can be iterated anew "
            "each epoch"
        )
    x, x_superior, _ = fields(first, fabric.device)
    pairs = layers or pair_layers(student, teacher, x, x_superior)
    tap = FeatureTap(student, [mine for mine, _ in pairs])
    teacher_tap = FeatureTap(teacher, [theirs for _, theirs in pairs])
    with preserve_weights(student, []), preserve_modes(student):
        student_shapes = _shapes(teacher_maps(student, tap, x))
    teacher_shapes = _shapes(teacher_maps(teacher, teacher_tap, x_superior))
    distillation = DistillationLoss(student_shapes, teacher_shapes, attention_weight)
    distillation = broadcast_module_(distillation.to(fabric.device))
    return _Source(teacher, batches, tap, teacher_tap, distillation)


def _shapes(maps: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """Shapes without the batch."""
    return [tuple(features.shape[1:]) for features in maps]


def _optimizer_of(
    optimizer: torch.optim.Optimizer | None,
    student: nn.Module,
    adapters: Sequence[nn.Module],
    lr: float,
) -> torch.optim.Optimizer:
    """The given optimiser, or Adam, over the student's and the adapters' parameters."""
    extra = list(trained_parameters(*adapters).values())
    if optimizer is None:
        return torch.optim.Adam([*trained_parameters(student).values(), *extra], lr)
    if extra:
        optimizer.add_param_group({"params": extra})
    return optimizer
