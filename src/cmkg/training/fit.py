"""The resumable training loop of the three calls, on one or several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ..batch import Batch, labelled_numbers
from ..containers import count_samples
from ..errors import InputError
from ..gradients import average_gradients, go_backward
from ..modules import expect_optimizer, groups_by_parameter, preserve_modes, trained_parameters
from ..prior.attach import innermost_optimizer
from ..prior.learner import PriorLearner
from ..runtime.checks import expect_positive
from ..runtime.distributed import broadcast_module_, in_step, launch, place_model, sum_over_ranks
from ..runtime.files import PathLike
from ..runtime.progress import Bar
from ..runtime.random import GeneratorState, PythonRandomState, TorchRandomState
from ..runtime.ranks import world_size
from ..runtime.run import Losses, Run
from .run_key import describe_function, describe_optimizer, expect_resumable, generators_of
from .step import backward

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


Batches = Iterable[Any]
Precision = Literal["32-true", "bf16-mixed"]


T = TypeVar("T")


DEFAULT_LR = 2.5e-4  # from the paper


@dataclass(frozen=True)
class FitConfig:
    """Settings for training a network."""

    epochs: int = 1
    """Number of passes over the data."""
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None
    """An optimizer of all trained parameters, or a function that makes one from their list, such as
    torch.optim.SGD; None is Adam(lr)."""
    lr: float | None = None
    """Adam's learning rate, if no optimizer is given."""
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    """A function that makes a torch.optim.lr_scheduler from the optimizer; it steps once per
    optimizer step."""
    clip: float | None = None
    """Maximum gradient norm."""
    accumulate: int = 1
    """Batches per optimizer step, which uses the mean over their samples and, for the loss, over
    their labeled samples."""
    precision: Precision = "32-true"
    """bf16-mixed runs forward passes in bfloat16; otherwise networks compute in their own dtype."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto selects a GPU if there is one."""
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    """Maps the model to {name: number}; called in eval mode after each epoch."""
    callback: Callable[[int, dict[str, float]], Any] | None = None
    """Called with the epoch's number and its line of the history; returns True to stop."""
    out: PathLike | None = None
    """A folder to resume from; None keeps nothing."""
    run_key: str = ""
    """With `out`: change it when the code of your loss or fields changes, so that a run started
    with the old code is refused, not resumed. Values that functions hold are compared anyway."""
    quiet: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        expect_positive(self, "epochs", "accumulate")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip: expected a positive norm, got {self.clip}")
        if self.optimizer is not None and self.lr is not None:
            raise InputError("lr= beside optimizer=: the optimiser has its own rate; give one")
        if self.precision not in get_args(Precision):
            hint = ""
            if self.precision == "16-mixed":
                hint = ", since float16 needs scaled gradients"
            elif str(self.precision).endswith("-true"):
                hint = "; for other dtypes give networks and data in them"
            raise InputError(
                f"precision: expected {' or '.join(get_args(Precision))}{hint}, got "
                f"{self.precision!r}"
            )


class Trainer:
    """Holds the optimizer and runs epochs of steps.

    trained: losses and criteria whose parameters are trained along with the model's.
    """

    def __init__(self, model: nn.Module, trained: Sequence[object], fit: FitConfig) -> None:
        if not isinstance(fit, FitConfig):
            raise InputError(f"fit: expected FitConfig(epochs=..., ...), got {fit!r:.60}")
        is_mixed = fit.precision == "bf16-mixed"
        self.fabric = launch("bf16-mixed" if is_mixed else "32-true", fit.device)
        self.device = self.fabric.device
        self.how = fit
        self.model = broadcast_module_(place_model(model, self.fabric))
        for part in (self.model, *trained):
            if isinstance(part, nn.Module):
                part.to(self.device)
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
        """Saves the data's own random streams in checkpoints.

        Raises:
            InputError: If a folder is set and the data's streams cannot be saved.
        """
        generators = {
            id(generator): generator for batches in data for generator in generators_of(batches)
        }
        for number, generator in enumerate(generators.values()):
            self.state[f"generator_{number}"] = GeneratorState(generator)
        if self.how.out is not None:
            for batches in data:
                expect_resumable(batches)

    def fit(
        self,
        settings: dict[str, Any],
        items: Callable[[int], Iterable[tuple[Any, PriorLearner | None, Batch]]],
        total: int | None,
    ) -> list[Losses]:
        """Runs all epochs; resumes at the epoch where it was killed.

        Args:
            settings: Everything that a resumed call must share with the first.
            items: Maps an epoch's number to its (function of a batch to losses, learner of phi,
                batch).
            total: The number of items, if known.
        """
        settings = settings | {
            "precision": self.how.precision,
            "optimizer": describe_optimizer(self.optimizer),
            "schedule": describe_function(self.how.schedule),
            "clip": self.how.clip,
            "accumulate": self.how.accumulate,
            "run_key": self.how.run_key,
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
        """Returns the losses' means over the samples of one epoch."""
        sums: Losses = {}
        weights: Losses = {}
        batches = 0
        self._forget_gradients()
        with Bar(title, total, things="batches", shown=not self.how.quiet) as advance:
            for items_of_step in _in_groups(in_step(items, "batches"), self.how.accumulate):
                counts = [_count(batch) for _, _, batch in items_of_step]
                for (losses_of, learner, batch), count in zip(items_of_step, counts, strict=True):
                    share = count.share_of(counts)
                    losses = self._backward(losses_of, learner, batch, share)
                    for name, value in losses.items():
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
        """Adds the gradients of a batch to .grad, weighted by its share of the step."""
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
            outer_losses = dict(learner.update(batch, losses, self.optimizer))
            go_backward(weighted(losses))
            return outer_losses

        return backward(self.model, lambda: losses_of(batch), self.fabric.autocast, learn)

    def _forget_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def _step(self) -> None:
        """Takes one step on the mean over the samples since the last step."""
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
            score = self.how.validate(self.model.eval())
        if not isinstance(score, Mapping):
            raise InputError(
                f"validate: expected a function to {{name: number}}, it gave {type(score).__name__}"
            )
        return {name: float(value) for name, value in score.items()}


@dataclass(frozen=True)
class _Counts:
    """The samples and labeled samples of a batch, as counts or as shares of a step."""

    samples: float
    labels: float

    def of(self, name: str, batch: Batch) -> float:
        """Returns a term's number of samples, for correct means over batches and processes.

        On several processes the regression term is already weighted for the mean over processes.
        """
        if name != "regression":
            return self.samples
        if batch.labelled is None or world_size() == 1:
            return self.labels
        return sum_over_ranks({"labels": self.labels})["labels"] / world_size()

    def share_of(self, whole: Sequence[_Counts]) -> _Counts:
        """Returns this batch's shares of a step's samples and labels."""
        if len(whole) == 1:
            return _Counts(1, 1)
        labels = sum(sum_over_ranks({"labels": counts.labels})["labels"] for counts in whole)
        own_labels = sum_over_ranks({"labels": self.labels})["labels"]
        samples = sum(counts.samples for counts in whole)
        return _Counts(self.samples / samples, own_labels / labels if labels else 0.0)


def _count(batch: Batch) -> _Counts:
    count = count_samples(batch.student_input)
    if not count:
        raise InputError("a batch has no sample: leave empty batches out")
    if batch.target is None:
        return _Counts(count, 0)
    numbers = labelled_numbers(batch)
    return _Counts(count, count if numbers is None else len(numbers))


def _in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of `size` consecutive items; the last one may be shorter."""
    each = iter(items)
    while group := list(islice(each, size)):
        yield group


def set_training_modes(model: nn.Module) -> None:
    """Sets training mode, unless the model already has it; then parts in eval mode stay so.

    BatchNorm with frozen weights stays in eval mode in any case.
    """
    if model.training:
        return
    model.train()
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _optimizer_of(fit: FitConfig, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Returns the optimizer, after checking that it holds all trained parameters.

    Raises:
        InputError: If it is not an optimizer, belongs to another model, or lacks a loss's or a
            projection's parameters.
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
    groups = groups_by_parameter(innermost_optimizer(optimizer))
    missing = [name for name, parameter in parameters.items() if id(parameter) not in groups]
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


def frozen_state(R: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Returns R's parameters and buffers on the model's device, without gradients."""
    state = {**dict(R.named_parameters()), **dict(R.named_buffers())}
    return {name: tensor.detach().to(device) for name, tensor in state.items()}


def _has_state(part: object) -> bool:
    return isinstance(part, nn.Module) and bool(part.state_dict())


def _without_step(line: dict[str, Any]) -> Losses:
    return {name: value for name, value in line.items() if name != "step"}
