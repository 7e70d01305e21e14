"""Three calls for any networks, losses and data: distill, learn_prior, train_with_prior.

    learned = learn_prior(student, teacher, source, loss)  # distils, and learns phi meanwhile
    train_with_prior(target_student, target, loss, learned.prior.with_rms(1e-3))  # Algorithm 2

They are loops around Distiller, PriorLearner and Prior.attach, which serve any other loop, too.
Data are iterables of batches that can be iterated anew each epoch (a DataLoader, a list). With
FitConfig(out=folder) a killed call goes on at the epoch where it was when it is given again, with
the same inputs: to the same weights, if the data's order follows from random streams that are kept:
the global ones of torch, NumPy and Python, and a DataLoader's or sampler's own generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .attachment import innermost_optimizer
from .batch import (
    SOURCE_FIELDS,
    TARGET_FIELDS,
    Batch,
    Fields,
    count_samples,
    expect_fields,
    expect_many_passes,
    labelled_numbers,
    length_of,
    map_tensors,
)
from .distiller import Criterion, CriterionName, Distiller, Loss, Pair
from .errors import InputError
from .inputs import (
    as_json,
    describe_data,
    describe_fields,
    describe_function,
    describe_optimizer,
    describe_prior,
    expect_resumable,
    generators_of,
    held_by,
)
from .learner import MetaConfig, PriorLearner
from .losses import expect_loss, loss_of_labelled, regression_loss, to_scalar
from .modules import (
    call_model,
    expect_numbers,
    expect_optimizer,
    groups_by_parameter,
    preserve_modes,
    trained_parameters,
)
from .prior import Prior, fingerprint
from .runtime.checks import expect_positive
from .runtime.distributed import broadcast_module_, in_step, launch, place_model, sum_over_ranks
from .runtime.files import PathLike
from .runtime.progress import Bar
from .runtime.random import GeneratorState, PythonRandomState, TorchRandomState
from .runtime.ranks import world_size
from .runtime.runs import Losses, Run
from .steps import average_gradients, backward, go_backward

Batches = Iterable[Any]
Pairs = Literal["auto"] | Sequence[Pair | tuple[str, str]]
TeacherWeight = Callable[[float], float]
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Precision = Literal["32-true", "bf16-mixed", "64-true", "bf16-true"]
T = TypeVar("T")
TRUE_PRECISIONS = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
DEFAULT_LR = 2.5e-4  # the paper's


@dataclass(frozen=True)
class FitConfig:
    """How a network is trained.

    epochs: how often the data are gone through. optimizer: one over all that is trained, or a
    function of the list of parameters that makes one, such as torch.optim.SGD; None is Adam(lr).
    lr: Adam's rate, without an optimizer. schedule: a function of the optimiser that makes a
    torch.optim.lr_scheduler, which steps once an optimiser step. clip: largest norm of the
    gradients. accumulate: batches an optimiser step, which is on the mean over their samples and,
    for the loss, over those that have a label. precision: of the networks ("true") or of
    their passes ("mixed"). device: "auto" is a GPU where there is one. validate: a function of the
    model to {name: number}, called in eval mode after each epoch. callback: called with the epoch's
    number and its line of the history; returns True to stop. out: a folder to resume from; None
    keeps nothing. quiet: no progress bar.
    """

    epochs: int = 1
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None
    lr: float | None = None
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    clip: float | None = None
    accumulate: int = 1
    precision: Precision = "32-true"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    callback: Callable[[int, dict[str, float]], Any] | None = None
    out: PathLike | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        expect_positive(self, "epochs", "accumulate")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip: expected a positive norm, got {self.clip}")
        if self.optimizer is not None and self.lr is not None:
            raise InputError("lr= beside optimizer=: the optimiser has its own rate; give one")
        if self.precision == "16-mixed":
            raise InputError("precision 16-mixed needs scaled gradients: give bf16-mixed")
        if self.precision not in ("32-true", "bf16-mixed", *TRUE_PRECISIONS):
            raise InputError(
                "precision: expected 32-true, bf16-mixed, 64-true or bf16-true, got "
                f"{self.precision!r}"
            )


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
    trainer = _Trainer(model, [_owner_of(loss)], how)
    trainer.keep_streams([data])
    _warn_of_hidden(loss, trainer.parameters.values())

    frozen = {} if R is None else _frozen_state(R, trainer)
    weights = trained_parameters(trainer.model)

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        prediction = call_model(trainer.model, batch.student_input)
        losses = {"regression": loss_of_labelled(loss, prediction, batch)}
        if R is not None:
            losses["regulariser"] = to_scalar(functional_call(R, frozen, (weights,)), "R", False)
        return losses

    def parts_of(raw: Any) -> Batch:
        return trainer.to_precision(fields(raw, trainer.device))

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
    """One for each source, on the device and in the precision of the training.

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
    dtype = TRUE_PRECISIONS.get(fit.precision)
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
        example = _cast(fields(first, fabric.device), dtype)
        if dtype is not None:
            student.to(dtype)
            if one is not None:
                one.to(dtype)
        distiller = Distiller(student, one, example, pairs, loss, *kind, fields)
        if dtype is not None and isinstance(distiller.criterion, nn.Module):
            distiller.criterion.to(dtype)
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
    trainer = _Trainer(first.student, trained, fit)
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
            batch = trainer.to_precision(distiller.fields(raw, trainer.device))
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
class _Trainer:
    """The optimiser, and epochs of steps.

    trained: losses and criteria whose parameters are trained beside the model's.
    """

    def __init__(self, model: nn.Module, trained: Sequence[object], fit: FitConfig) -> None:
        if not isinstance(fit, FitConfig):
            raise InputError(f"fit: expected FitConfig(epochs=..., ...), got {fit!r:.60}")
        is_mixed = fit.precision == "bf16-mixed"
        self.fabric = launch("bf16-mixed" if is_mixed else "32-true", fit.device)
        self.device = self.fabric.device
        self.how = fit
        self.dtype = TRUE_PRECISIONS.get(fit.precision)
        self.model = broadcast_module_(place_model(model, self.fabric))
        for part in (self.model, *trained):
            if isinstance(part, nn.Module):
                part.to(self.device)
                if self.dtype is not None:
                    part.to(self.dtype)
        self.parameters = trained_parameters(self.model, *trained)
        if not self.parameters:
            raise InputError("nothing is trained: every parameter has requires_grad=False")
        self.optimizer = _optimizer_of(fit, self.parameters)
        self.schedule = fit.schedule(self.optimizer) if fit.schedule else None
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise InputError(
                "schedule: ReduceLROnPlateau needs a number after each epoch; step it in callback="
            )
        self.state: dict[str, Any] = {"student": self.model, "optimizer": self.optimizer}
        for number, part in enumerate(dict.fromkeys(p for p in trained if _has_state(p))):
            self.state[f"trained_{number}"] = part
        if self.schedule is not None:
            self.state["schedule"] = self.schedule

    def keep_streams(self, data: Sequence[Batches]) -> None:
        """Keeps the data's own random streams in checkpoints.

        Raises:
            InputError: with a folder, data whose streams cannot be kept.
        """
        generators = {id(one): one for batches in data for one in generators_of(batches)}
        for number, one in enumerate(generators.values()):
            self.state[f"generator_{number}"] = GeneratorState(one)
        if self.how.out is not None:
            for batches in data:
                expect_resumable(batches)

    def to_precision(self, batch: Batch) -> Batch:
        """The batch with its floats in the networks' precision."""
        return _cast(batch, self.dtype)

    def fit(
        self,
        settings: dict[str, Any],
        items: Callable[[int], Iterable[tuple[Any, PriorLearner | None, Batch]]],
        total: int | None,
    ) -> list[Losses]:
        """All epochs; resumes at the one where it was killed.

        Args:
            settings: all that a resumed call must share with the first.
            items: (function of a batch to losses, what learns phi, batch) of an
                epoch, by its number.
            total: how many there are, where that is known.
        """
        settings = settings | {
            "precision": self.how.precision,
            "optimizer": describe_optimizer(self.optimizer),
            "schedule": describe_function(self.how.schedule),
            "clip": self.how.clip,
            "accumulate": self.how.accumulate,
        }
        run = Run(self.how.out, settings, settings["call"], own=("data",))
        state = {**self.state, "random": TorchRandomState(), "python_random": PythonRandomState()}
        history: list[Losses] = []
        with run.claim(), preserve_modes(self.model):
            set_training_modes(self.model)
            for epoch, log in run.steps(self.how.epochs, state, whole_epochs=True):
                if not history:
                    history = [_without_step(line) for line in run.logged()]
                title = f"{run.title} {epoch + 1}/{self.how.epochs}"
                line = self._fit_epoch(title, items(epoch), total)
                validated = self._validate()
                if taken := [name for name in validated if name in line]:
                    raise InputError(f"validate: {taken[0]!r} is a loss's name already")
                line |= validated
                history.append(line)
                log(line)
                if self.how.callback and self.how.callback(epoch, dict(line)):
                    break
            return history or [_without_step(line) for line in run.logged()]

    def _fit_epoch(
        self, title: str, items: Iterable[tuple[Any, PriorLearner | None, Batch]], total: int | None
    ) -> Losses:
        """Means of the losses over the samples of one epoch."""
        sums: Losses = {}
        weights: Losses = {}
        batches = 0
        self._forget_gradients()
        with Bar(title, total, things="batches", shown=not self.how.quiet) as advance:
            for items_of_step in _in_groups(in_step(items, "batches"), self.how.accumulate):
                counts = [_count(batch) for _, _, batch in items_of_step]
                for (losses_of, learner, batch), count in zip(items_of_step, counts, strict=True):
                    share = count.share_of(counts)
                    found = self._backward(losses_of, learner, batch, share)
                    for name, value in found.items():
                        weight = count.of(name, batch)
                        sums[name] = sums.get(name, 0.0) + weight * value
                        weights[name] = weights.get(name, 0.0) + weight
                    batches += 1
                    advance()
                self._step()
        if not batches:
            raise InputError("the data have no batch: expected at least one in every epoch")
        sums, weights = sum_over_ranks(sums), sum_over_ranks(weights)
        return {name: value / weights[name] for name, value in sums.items() if weights[name]}

    def _backward(
        self,
        losses_of: Callable[[Batch], dict[str, Tensor]],
        learner: Any,
        batch: Batch,
        share: _Counts,
    ) -> Losses:
        """Adds the gradients of a batch to .grad, by its share of the step."""
        is_whole = share.samples == share.labels == 1

        def weighted(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: (share.labels if name == "regression" else share.samples) * value
                for name, value in losses.items()
            }

        def learn(losses: Mapping[str, Tensor]) -> Losses:
            if learner is None or batch.target is None:
                go_backward(weighted(losses))
                return {}
            if is_whole:
                return dict(learner.backward(batch, losses, self.optimizer))
            found = dict(learner.update(batch, losses, self.optimizer))
            go_backward(weighted(losses))
            return found

        return backward(self.model, lambda: losses_of(batch), self.fabric.autocast, learn)

    def _forget_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def _step(self) -> None:
        """One step on the mean over the samples since the last one."""
        average_gradients(self.parameters)
        if self.how.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.how.clip)
        self.optimizer.step()
        self._forget_gradients()
        if self.schedule is not None:
            self.schedule.step()

    def _validate(self) -> Losses:
        if self.how.validate is None:
            return {}
        with preserve_modes(self.model), torch.no_grad():
            found = self.how.validate(self.model.eval())
        if not isinstance(found, Mapping):
            raise InputError(
                f"validate: expected a function to {{name: number}}, it gave {type(found).__name__}"
            )
        return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True)
class _Counts:
    """Of a batch, or its shares of a step: samples, and samples that have a label."""

    samples: float
    labels: float

    def of(self, name: str, batch: Batch) -> float:
        """What a term is a mean over, so that sums over batches and processes are right.

        On several processes the regression term is weighted for the mean over the processes.
        """
        if name != "regression":
            return self.samples
        if batch.labelled is None or world_size() == 1:
            return self.labels
        return sum_over_ranks({"labels": self.labels})["labels"] / world_size()

    def share_of(self, whole: Sequence[_Counts]) -> _Counts:
        """This batch's shares of a step's samples and labels."""
        if len(whole) == 1:
            return _Counts(1, 1)
        labels = sum(sum_over_ranks({"labels": one.labels})["labels"] for one in whole)
        own = sum_over_ranks({"labels": self.labels})["labels"]
        samples = sum(one.samples for one in whole)
        return _Counts(self.samples / samples, own / labels if labels else 0.0)


def _count(batch: Batch) -> _Counts:
    count = count_samples(batch.student_input)
    if not count:
        raise InputError("a batch has no sample: leave empty batches out")
    if batch.target is None:
        return _Counts(count, 0)
    numbers = labelled_numbers(batch)
    return _Counts(count, count if numbers is None else len(numbers))


def _in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in turn, the last of what is left."""
    each = iter(items)
    while group := list(islice(each, size)):
        yield group


def set_training_modes(model: nn.Module) -> None:
    """Training mode, unless the model is in it already: parts left in eval mode stay so.

    BatchNorm whose weights are frozen stays in eval mode in any case.
    """
    if model.training:
        return
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def _optimizer_of(fit: FitConfig, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser; all that is trained is in it, or it is refused.

    Raises:
        InputError: no optimiser, one of another model, one that lacks a loss's or a projection's
            parameters.
    """
    every = list(parameters.values())
    given = fit.optimizer
    if given is None:
        return torch.optim.Adam(every, DEFAULT_LR if fit.lr is None else fit.lr)
    if not isinstance(given, torch.optim.Optimizer) and callable(given):
        given = given(every)
    optimizer = expect_optimizer(given)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError(
            "L-BFGS calls the loss itself, several times a step: write the loop yourself, with "
            "Distiller and Prior.attach, and give its step() a closure"
        )
    held = groups_by_parameter(innermost_optimizer(optimizer))
    missing = [name for name, parameter in parameters.items() if id(parameter) not in held]
    if len(missing) == len(parameters):
        raise InputError(
            f"this {type(optimizer).__name__} holds none of the model's parameters: is it another "
            "model's? Give a function of the parameters: optimizer=lambda p: torch.optim.Adam(p)"
        )
    beside = [name for name in missing if name.split("/")[0].isdigit()]
    if beside:
        raise InputError(
            f"{len(beside)} parameter tensors of the loss or of the layers' projection are in no "
            f"optimiser (the first is {beside[0].split('/', 1)[1]!r}) and would never be trained: "
            "give a function of the parameters: optimizer=lambda p: torch.optim.Adam(p, lr=1e-3)"
        )
    return optimizer


def _frozen_state(R: nn.Module, trainer: _Trainer) -> dict[str, Tensor]:
    """Its parameters and buffers where the model is, without gradients."""
    state = {**dict(R.named_parameters()), **dict(R.named_buffers())}
    return {
        name: one.detach().to(
            trainer.device, trainer.dtype if one.is_floating_point() else one.dtype
        )
        for name, one in state.items()
    }


def _has_state(part: object) -> bool:
    return isinstance(part, nn.Module) and bool(part.state_dict())


def _cast(batch: Batch, dtype: torch.dtype | None) -> Batch:
    if dtype is None:
        return batch
    cast: Batch = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, batch)
    return cast


def _without_step(line: dict[str, Any]) -> Losses:
    return {name: value for name, value in line.items() if name != "step"}


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
