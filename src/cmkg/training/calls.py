"""Three calls for any networks, losses and data: distill, learn_prior, train_with_prior.

    learned = learn_prior(student, teacher, source, loss)  # distills, and learns phi
    train_with_prior(target_student, target, loss, learned.prior.with_rms(1e-3))  # Algorithm 2

They are loops around Distiller, PriorLearner and Prior.attach, which also work in any other loop.
Data are iterables of batches that can be iterated again each epoch (a DataLoader, a list). With
FitConfig(out=folder), repeating a killed call with the same inputs resumes at its last epoch. It
reaches the same weights if the data's order depends only on saved random streams: the global ones
of torch, NumPy and Python, and a DataLoader's or sampler's own generator.

One file: the three calls share their checks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..batch import SOURCE_FIELDS, TARGET_FIELDS, Batch, Fields, expect_fields
from ..containers import expect_many_passes, length_of
from ..distillation.distiller import Distiller
from ..distillation.losses import (
    Criterion,
    CriterionName,
    Loss,
    expect_loss,
    loss_of_labelled,
    regression_loss,
    to_scalar,
)
from ..distillation.pairing import Pair
from ..errors import InputError
from ..modules import call_model, expect_numbers, trained_parameters
from ..prior.learner import MetaConfig, PriorLearner
from ..prior.parameters import fingerprint
from ..prior.prior import Prior
from ..runtime.distributed import broadcast_module_, launch, place_model
from ..runtime.run import Losses
from .fit import Batches, FitConfig, Trainer, frozen_state
from .run_key import (
    as_json,
    describe_data,
    describe_fields,
    describe_function,
    describe_prior,
    held_by,
)

Pairs = Literal["auto"] | Sequence[Pair | tuple[str, str]]
TeacherWeight = Callable[[float], float]


@dataclass(frozen=True)
class Learned:
    """The result of distillation: each epoch's losses, one distiller per source, and the priors.

    history: [{"regression", "activation", "attention"}], or the criterion's names instead of the
    last two: means over samples, as they enter G; "regression" over labeled samples.
    """

    history: list[Losses]
    distillers: list[Distiller]
    priors: list[Prior] = field(default_factory=list)

    @property
    def prior(self) -> Prior:
        """The learned prior, if there is exactly one.

        Raises:
            InputError: If none or several were learned.
        """
        if len(self.priors) != 1:
            raise InputError(f"{len(self.priors)} priors were learned: take from .priors")
        return self.priors[0]

    @property
    def distiller(self) -> Distiller:
        """The first source's distiller."""
        return self.distillers[0]


# ---- the three calls -----------------------------------------------------------------------------
def distill(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module] | None,
    data: Batches | Sequence[Batches],
    loss: Loss = regression_loss,
    *,
    pairs: Pairs = "auto",
    fields: Fields = SOURCE_FIELDS,
    criterion: Criterion | CriterionName = "paper",
    attention_weight: float | None = None,
    teacher_weight: TeacherWeight | None = None,
    fit: FitConfig | None = None,
) -> Learned:
    """Trains `student` on G = loss + L_DIST (Eqs. 4 and 8) with a frozen `teacher`.

    Args:
        student, teacher: The networks; a list of teachers for several sources. A teacher of None
            is the control without a teacher.
        data: The source's batches, or one iterable per source; sources alternate.
        loss: Maps (prediction, target) to a scalar, for any task; its parameters are trained.
        pairs: See Distiller.
        fields: Which part of a batch is which.
        criterion: L_DIST of all sources, see Distiller; a module's parameters are trained.
        attention_weight: lambda of Eq. 4, see Distiller.
        teacher_weight: Maps training progress (0 to 1) to the weight of L_DIST, such as
            `lambda done: 1 - done` to fade the teacher out; None means 1 throughout. For data
            without a length it changes once per epoch.
        fit: Training settings.

    Raises:
        InputError: If Distiller refuses the arguments, data can be iterated only once, the
            optimizer lacks trained parameters, or the folder belongs to other inputs.
        Diverged: If a loss or a gradient is not finite.
    """
    how = fit or FitConfig()
    kind = criterion, attention_weight
    distillers = _distillers(student, teacher, data, loss, pairs, fields, kind, how)
    facts = {"call": "distill", "criterion": describe_function(criterion)}
    return _learn(distillers, _sources(teacher, data)[1], [], teacher_weight, how, facts)


def learn_prior(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module] | None,
    data: Batches | Sequence[Batches],
    loss: Loss = regression_loss,
    *,
    meta: MetaConfig | None = None,
    pairs: Pairs = "auto",
    fields: Fields = SOURCE_FIELDS,
    criterion: Criterion | CriterionName = "paper",
    attention_weight: float | None = None,
    teacher_weight: TeacherWeight | None = None,
    theta_0: nn.Module | None = None,
    fit: FitConfig | None = None,
) -> Learned:
    """Distills like `distill` and also learns a prior for each exponent (Algorithm 3).

    theta's path does not depend on phi. It takes the parameters of `distill` and two more.

    Args:
        student, teacher, data, loss, pairs, fields: See `distill`.
        criterion, attention_weight, teacher_weight, fit: See `distill`.
        meta: Settings for learning phi; the defaults are the paper's.
        theta_0: The network at initialization, whose fingerprint the prior records; None takes
            the student's current weights.

    Raises:
        InputError, Diverged: See `distill`.
    """
    if meta is not None and not isinstance(meta, MetaConfig):
        raise InputError(f"meta: expected MetaConfig(alpha=..., ...), got {meta!r:.60}")
    how, config = fit or FitConfig(), meta or MetaConfig()
    kind = criterion, attention_weight
    distillers = _distillers(student, teacher, data, loss, pairs, fields, kind, how)
    first = PriorLearner(distillers[0], config, theta_0=theta_0)
    learners = [first]
    learners += [PriorLearner(distiller, config, first.priors) for distiller in distillers[1:]]
    facts: dict[str, Any] = {"call": "learn prior", "meta": as_json(asdict(config))}
    facts["criterion"] = describe_function(criterion)
    facts["theta_0"] = first.priors[0].manifest["fingerprint"]
    return _learn(distillers, _sources(teacher, data)[1], learners, teacher_weight, how, facts)


def train_with_prior(
    model: nn.Module,
    data: Batches,
    loss: Loss = regression_loss,
    prior: Prior | nn.Module | None = None,
    *,
    fields: Fields = TARGET_FIELDS,
    coupled: bool = True,
    fit: FitConfig | None = None,
) -> list[Losses]:
    """Trains `model` on the target with F = loss + R(theta; phi) (Eq. 9, Algorithm 2).

    The paper starts from the theta_0 that phi was learned from; other weights cause a warning.
    prior.with_rms(sigma) sets the strength; choose sigma on validation data.

    Args:
        model: The network.
        data: The target's batches.
        loss: Maps (prediction, target) to a scalar; its parameters are trained.
        prior: A Prior, or a module R as learned by PriorLearner(regulariser=...), which is frozen
            and whose value is reported as "regulariser"; None trains on the loss alone.
        fields: Which part of a batch is which.
        coupled: See Prior.attach.
        fit: Training settings.

    Returns:
        [{"regression"}], each epoch's means over samples; also "regulariser" for a module R.

    Raises:
        InputError, Diverged: See `distill`; also if the prior belongs to another network.
    """
    how = fit or FitConfig()
    if prior is not None and not isinstance(prior, (Prior, nn.Module)):
        raise InputError(
            f"prior: expected a Prior, got {type(prior).__name__}; learn_prior(...).prior, or "
            "Prior.load(file); or a module that is R"
        )
    R = prior if isinstance(prior, nn.Module) else None
    prior = None if isinstance(prior, nn.Module) else prior
    if R is not None and not coupled:
        raise InputError("coupled=False is for a Prior: a module R is added to the loss")
    expect_loss(loss)
    if not isinstance(model, nn.Module):
        raise InputError(f"the model: expected a network, got {type(model).__name__}")
    expect_fields(fields)
    expect_many_passes(data, "the target's data")
    if prior is not None:
        prior.bind(model)
        if prior.centre is None:  # with a centre, training starts there, not at theta_0
            prior.check_start(model)
    facts = None if prior is None else {"p": prior.p, "coupled": coupled, **describe_prior(prior)}
    settings: dict[str, Any] = {
        "call": "train with prior",
        "prior": facts if R is None else describe_function(R),
        "model": fingerprint(model),
        "loss": describe_function(loss),
        "fields": describe_fields(fields),
        "data": [describe_data(data)],
    }
    trainer = Trainer(model, [_owner_of(loss)], how)
    trainer.keep_streams([data])
    _warn_of_hidden(loss, trainer.parameters.values())

    frozen = {} if R is None else frozen_state(R, trainer.device)
    weights = trained_parameters(trainer.model)

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        prediction = call_model(trainer.model, batch.student_input)
        losses = {"regression": loss_of_labelled(loss, prediction, batch)}
        if R is not None:
            losses["regulariser"] = to_scalar(
                functional_call(R, frozen, (weights,)), "R", needs_graph=False
            )
        return losses

    def parts_of(raw: Any) -> Batch:
        return fields(raw, trainer.device)

    pull: AbstractContextManager[Any] = nullcontext()
    if prior is not None:
        pull = prior.attach(trainer.optimizer, trainer.model, coupled)
    with pull:
        return trainer.fit(
            settings,
            lambda _epoch: ((losses_of, None, parts_of(raw)) for raw in data),
            length_of(data),
        )


# ---- distilling ----------------------------------------------------------------------------------
def _sources(teacher: Any, data: Any) -> tuple[list[nn.Module | None], list[Batches]]:
    """Returns teachers and data, one of each per source."""
    if teacher is None or isinstance(teacher, nn.Module):
        return [teacher], [data]
    if not isinstance(teacher, (list, tuple)) or not isinstance(data, (list, tuple)):
        raise InputError(
            "the teacher: expected a network (torch.nn.Module), None, or a list of networks with a "
            f"list of as many data, got {type(teacher).__name__}"
        )
    if len(teacher) != len(data):
        raise InputError(
            f"expected as many teachers as sources, got {len(teacher)} and {len(data)}"
        )
    return list(teacher), list(data)


def _distillers(
    student: nn.Module,
    teacher: Any,
    data: Any,
    loss: Loss,
    pairs: Pairs,
    fields: Fields,
    kind: tuple[Criterion | CriterionName, float | None],
    fit: FitConfig,
) -> list[Distiller]:
    """Returns one distiller per source, on the training's device.

    kind: the criterion, and lambda for Eq. 4.
    """
    if not isinstance(fit, FitConfig):
        raise InputError(f"fit: expected FitConfig(epochs=..., ...), got {fit!r:.60}")
    expect_fields(fields)
    teachers, sources = _sources(teacher, data)
    if not isinstance(student, nn.Module):
        raise InputError(f"the student: expected a network, got {type(student).__name__}")
    for network in (student, *filter(None, teachers)):
        expect_numbers(network)
    fabric = launch("32-true", fit.device)
    broadcast_module_(place_model(student, fabric))
    distillers = []
    for teacher_network, batches in zip(teachers, sources, strict=True):
        expect_many_passes(batches, "the source's data")
        with torch.random.fork_rng():  # leaves the training's random stream unchanged
            first = next(iter(batches), None)
        if first is None:
            raise InputError("the source has no batch: expected at least one")
        if teacher_network is not None:
            teacher_network.to(fabric.device)
        example = fields(first, fabric.device)
        distiller = Distiller(student, teacher_network, example, pairs, loss, *kind, fields)
        if isinstance(distiller.criterion, nn.Module):
            broadcast_module_(distiller.criterion.to(fabric.device))
        distillers.append(distiller)
    return distillers


def _learn(
    distillers: list[Distiller],
    data: list[Batches],
    learners: list[PriorLearner],
    teacher_weight: TeacherWeight | None,
    fit: FitConfig,
    facts: dict[str, Any],
) -> Learned:
    """Runs the distillation loop, with or without priors."""
    first = distillers[0]
    lengths = [length_of(batches) for batches in data]
    total = None if None in lengths else sum(length or 0 for length in lengths)
    settings = facts | {
        "student": fingerprint(first.student),
        "teachers": [None if d.teacher is None else fingerprint(d.teacher) for d in distillers],
        "pairs": [[as_json(asdict(pair)) for pair in d.pairs] for d in distillers],
        "loss": describe_function(first.loss),
        "fields": describe_fields(first.fields),
        "attention_weight": getattr(first.criterion, "attention_weight", None),
        "teacher_weight": describe_function(teacher_weight),
        "data": [describe_data(batches) for batches in data],
    }
    if teacher_weight is not None and total is None and fit.epochs == 1:
        raise InputError(
            "teacher_weight: the data have no length and there is one epoch: how much of the "
            "training is done is not known; give batches with a length, or more epochs"
        )
    trained = [part for d in distillers for part in (d.criterion, _owner_of(d.loss))]
    trainer = Trainer(first.student, trained, fit)
    trainer.keep_streams(data)
    _warn_of_hidden(first.loss, trainer.parameters.values())
    if learners:
        trainer.state |= {"learner": learners[0]}
    by_distiller: dict[int, PriorLearner] = {id(learner.distiller): learner for learner in learners}

    def items(epoch: int) -> Iterator[tuple[Any, Any, Batch]]:
        for number, (distiller, raw) in enumerate(_alternate(distillers, data)):
            if teacher_weight is not None:
                done = (epoch + (number / total if total else 0)) / fit.epochs
                distiller.teacher_weight = _weight_at(teacher_weight, done)
            batch = distiller.fields(raw, trainer.device)
            yield distiller, by_distiller.get(id(distiller)), batch

    try:
        history = trainer.fit(settings, items, total)
    finally:
        for distiller in distillers:
            distiller.close()
    return Learned(history, distillers, learners[0].priors if learners else [])


def _weight_at(teacher_weight: TeacherWeight, done: float) -> float:
    value = teacher_weight(done)
    if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InputError(
            f"teacher_weight: expected a number from 0, got {value!r} at {done:.3f} of the training"
        )
    return float(value)


def _alternate(
    distillers: Sequence[Distiller], data: Sequence[Batches]
) -> Iterator[tuple[Distiller, Any]]:
    """Yields (distiller, batch) of all sources in turn; shorter sources end earlier."""
    still_open = [
        (source_distiller, iter(batches))
        for source_distiller, batches in zip(distillers, data, strict=True)
    ]
    while still_open:
        for item in list(still_open):
            distiller, batches = item
            try:
                yield distiller, next(batches)
            except StopIteration:
                still_open.remove(item)


# ---- the loop ------------------------------------------------------------------------------------


def _warn_of_hidden(loss: Any, trained: Iterable[nn.Parameter]) -> None:
    """Warns if a function holds a network whose parameters are not trained."""
    known = {id(parameter) for parameter in trained}
    values = held_by(loss)
    if isinstance(loss, partial):
        values += [loss.func, *loss.args, *loss.keywords.values()]
    for module in (value for value in values if isinstance(value, nn.Module)):
        hidden = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in known]
        if hidden:
            warnings.warn(
                f"the loss holds a {type(module).__name__} whose {hidden[0]!r} nobody trains: give "
                "the module itself as the loss, or freeze it with requires_grad_(False)",
                stacklevel=4,
            )


def _owner_of(loss: Any) -> Any:
    """Returns the module whose method the loss is, otherwise the loss itself."""
    owner = getattr(loss, "__self__", None)
    return owner if isinstance(owner, nn.Module) else loss
