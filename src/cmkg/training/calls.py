"""Three calls for any networks, losses and data: distill, learn_prior, train_with_prior.

    learned = learn_prior(student, teacher, source, loss)  # distils, and learns phi meanwhile
    train_with_prior(target_student, target, loss, learned.prior.with_rms(1e-3))  # Algorithm 2

They are loops around Distiller, PriorLearner and Prior.attach, which serve any other loop, too.
Data are iterables of batches that can be iterated anew each epoch (a DataLoader, a list). With
FitConfig(out=folder) a killed call goes on at the epoch where it was when it is given again, with
the same inputs: to the same weights, if the data's order follows from random streams that are kept:
the global ones of torch, NumPy and Python, and a DataLoader's or sampler's own generator.

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
    """What distilling leaves: the losses of each epoch, the distillers (one a source), the priors.

    history: [{"regression", "activation", "attention"}], or the criterion's names in place of the
    last two: means over samples, as they enter G; "regression" over those that have a label.
    """

    history: list[Losses]
    distillers: list[Distiller]
    priors: list[Prior] = field(default_factory=list)

    @property
    def prior(self) -> Prior:
        """The prior, where one was learned.

        Raises:
            InputError: none or several were.
        """
        if len(self.priors) != 1:
            raise InputError(f"{len(self.priors)} priors were learned: take from .priors")
        return self.priors[0]

    @property
    def distiller(self) -> Distiller:
        """The first source's."""
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
        student, teacher: the networks; several teachers for several sources; None is the control
            without one.
        data: the source's batches, or one iterable a source; sources alternate.
        loss: (prediction, target) to a scalar, of any task; if it has parameters, they are trained.
        pairs: see Distiller.
        fields: which part of a batch is which.
        criterion: L_DIST of all sources, see Distiller; a module's parameters are trained.
        attention_weight: lambda of Eq. 4, see Distiller.
        teacher_weight: of L_DIST after a share of the training from 0 to 1, as
            `lambda done: 1 - done`, which lets the teacher fade; None is 1 throughout. Of data
            without a length it changes from epoch to epoch.
        fit: how it is trained.

    Raises:
        InputError: what Distiller refuses; data that can be iterated only once; an optimiser that
            does not hold what is trained; a folder of other inputs.
        Diverged: a loss or a gradient is not finite.
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
    """Distils as `distill` does, and meanwhile learns a prior for each exponent (Algorithm 3).

    theta's path does not depend on phi. The parameters are those of `distill` and two more.

    Args:
        student, teacher, data, loss, pairs, fields: see `distill`.
        criterion, attention_weight, teacher_weight, fit: see `distill`.
        meta: how phi is learned; the defaults are the paper's.
        theta_0: the network as it began, whose fingerprint the prior carries; None is the student
            as it is now.

    Raises:
        InputError, Diverged: see `distill`.
    """
    if meta is not None and not isinstance(meta, MetaConfig):
        raise InputError(f"meta: expected MetaConfig(alpha=..., ...), got {meta!r:.60}")
    how, config = fit or FitConfig(), meta or MetaConfig()
    kind = criterion, attention_weight
    distillers = _distillers(student, teacher, data, loss, pairs, fields, kind, how)
    first = PriorLearner(distillers[0], config, theta_0=theta_0)
    learners = [first]
    learners += [PriorLearner(one, config, first.priors) for one in distillers[1:]]
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
    """Trains `model` on the target on F = loss + R(theta; phi) (Eq. 9, Algorithm 2).

    The paper starts from the theta_0 that phi was learned from: give it, or expect a warning.
    prior.with_rms(sigma) sets its strength; choose sigma on a validation block.

    Args:
        model: the network.
        data: the target's batches.
        loss: (prediction, target) to a scalar; if it has parameters, they are trained.
        prior: phi; or a module that is R, as PriorLearner(regulariser=...) learns it: it is frozen,
            and its value reported as "regulariser"; None trains on the loss alone.
        fields: which part of a batch is which.
        coupled: see Prior.attach.
        fit: how it is trained.

    Returns:
        [{"regression"}], the means over samples of each epoch; "regulariser" beside a module R.

    Raises:
        InputError, Diverged: see `distill`; a prior of another network.
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
        if prior.centre is None:  # around given weights one starts there, not at theta_0
            prior.check_start(model)
    held = None if prior is None else {"p": prior.p, "coupled": coupled, **describe_prior(prior)}
    settings: dict[str, Any] = {
        "call": "train with prior",
        "prior": held if R is None else describe_function(R),
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
            losses["regulariser"] = to_scalar(functional_call(R, frozen, (weights,)), "R", False)
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
    """Teachers and data, one each source."""
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
    """One for each source, on the device of the training.

    kind: the criterion, and lambda where it is Eq. 4.
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
    found = []
    for one, batches in zip(teachers, sources, strict=True):
        expect_many_passes(batches, "the source's data")
        with torch.random.fork_rng():  # a look at the data draws nothing from the training's stream
            first = next(iter(batches), None)
        if first is None:
            raise InputError("the source has no batch: expected at least one")
        if one is not None:
            one.to(fabric.device)
        example = fields(first, fabric.device)
        distiller = Distiller(student, one, example, pairs, loss, *kind, fields)
        if isinstance(distiller.criterion, nn.Module):
            broadcast_module_(distiller.criterion.to(fabric.device))
        found.append(distiller)
    return found


def _learn(
    distillers: list[Distiller],
    data: list[Batches],
    learners: list[PriorLearner],
    teacher_weight: TeacherWeight | None,
    fit: FitConfig,
    facts: dict[str, Any],
) -> Learned:
    """The loop of distilling, with and without priors."""
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
    """(distiller, batch) of all sources in turn; a shorter one ends earlier."""
    still_open = [(one, iter(batches)) for one, batches in zip(distillers, data, strict=True)]
    while still_open:
        for item in list(still_open):
            distiller, batches = item
            try:
                yield distiller, next(batches)
            except StopIteration:
                still_open.remove(item)


# ---- the loop ------------------------------------------------------------------------------------


def _warn_of_hidden(loss: Any, trained: Iterable[nn.Parameter]) -> None:
    """Says that a function holds a network whose parameters nobody trains."""
    known = {id(parameter) for parameter in trained}
    held = held_by(loss)
    if isinstance(loss, partial):
        held += [loss.func, *loss.args, *loss.keywords.values()]
    for module in (one for one in held if isinstance(one, nn.Module)):
        hidden = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in known]
        if hidden:
            warnings.warn(
                f"the loss holds a {type(module).__name__} whose {hidden[0]!r} nobody trains: give "
                "the module itself as the loss, or freeze it with requires_grad_(False)",
                stacklevel=4,
            )


def _owner_of(loss: Any) -> Any:
    """The module whose method a loss is, or the loss."""
    owner = getattr(loss, "__self__", None)
    return owner if isinstance(owner, nn.Module) else loss
