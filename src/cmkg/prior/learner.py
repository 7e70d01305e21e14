"""Learns phi alongside any distillation loop (Algorithm 3).

    learner = PriorLearner(distiller, MetaConfig(alpha=2.5e-4, beta=1e-3))
    for batch in source:
        losses = distiller(batch)
        learner.update(batch, losses)  # updates only phi, before the losses' backward
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    prior = learner.prior

One file: it follows Algorithm 3 as printed in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..batch import Batch, halve, labelled_numbers
from ..distillation.distiller import Distiller
from ..errors import InputError
from ..gradients import go_backward, gradients_of, sum_of, to_finite_floats
from ..modules import preserve_weights, trained_parameters, unwrap
from ..runtime.checks import expect_between, expect_positive
from ..runtime.distributed import sum_over_ranks
from ..runtime.ranks import world_size
from .attach import innermost_optimizer
from .learnable import Learnable, LearnableModule, LearnablePrior
from .meta_gradient import adam_scales, differentiable_max_norm, look_ahead_gradient, scaled, unroll
from .parameters import Granularity, Select, fingerprint
from .prior import Prior


@dataclass(frozen=True)
class MetaConfig:
    """Settings for learning phi; the defaults are the paper's."""

    exponents: tuple[int, ...] = (2,)
    """The exponent p (1 or 2) of each prior. theta's path does not depend on phi, so several priors
    can be learned at once; an empty tuple learns none."""
    alpha: float = 2.5e-4
    """Rate of the inner step; with inner_optimizer adam, as a fraction of Adam's own rate."""
    beta: float = 1e-3
    """Learning rate of phi."""
    unit_free: bool = False
    """Divide each layer's gradient by its root mean square, so that phi does not depend on the
    loss's unit."""
    split: bool = False
    """Use the first half of each batch for the inner step and the second for G; otherwise both use
    the same batch, as in the paper."""
    inner_steps: int = 1
    """Number of inner steps, l of Algorithm 1."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd is the paper's inner step. adam takes alpha times the step of the student's Adam
    optimizer, weight by weight (meta_gradient.adam_scales)."""
    select: Select = "weights"
    """Which parameters carry phi: weights, all, or (in Python) a function of name and tensor."""
    granularity: Granularity = "weight"
    """One phi per weight, per output filter or per layer."""
    exact: bool = False
    """Unroll the inner steps with second-order graphs (Algorithm 1). This is exact for several
    inner steps and equals the closed form for one. Single process only."""

    def __post_init__(self) -> None:
        exponents: Any = self.exponents
        if not isinstance(exponents, (tuple, list)) or not set(exponents) <= {1, 2}:
            raise InputError(f"exponents: expected some of (1, 2), got {exponents!r}")
        if len(set(exponents)) < len(exponents):
            raise InputError(f"exponents: expected different ones, got {exponents!r}")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{name}: expected a number, got {value!r}")
        expect_positive(self, "inner_steps")
        expect_between(self, 1e-30, 1e6, "alpha", "beta")
        if self.inner_optimizer not in ("sgd", "adam"):
            raise InputError(f"inner_optimizer {self.inner_optimizer!r}: expected sgd or adam")


class PriorLearner:
    """Updates phi, never theta; see the module's docstring.

    Args:
        distiller: Gives the losses; it may be wrapped in DistributedDataParallel.
        config: The settings.
        priors: Priors to continue from, one per exponent; None starts from zero.
        theta_0: The student at initialization, whose fingerprint the priors record; None takes the
            student's current weights.
        facts: Additional entries for the priors' manifest.
        regulariser: Any other R(theta; phi) in place of the weighted norms: a module whose forward
            maps the student's {name: weight} to a scalar and whose parameters are phi. SGD with
            rate beta trains them through the unrolled inner steps; the config's exponents, select
            and granularity are ignored.

    Raises:
        InputError: If the priors belong to another network or other exponents, or if the
            regulariser has no parameters or is given together with priors.
    """

    def __init__(
        self,
        distiller: nn.Module,
        config: MetaConfig | None = None,
        priors: Sequence[Prior] | None = None,
        theta_0: nn.Module | None = None,
        facts: Mapping[str, Any] | None = None,
        regulariser: nn.Module | None = None,
    ) -> None:
        inner = unwrap(distiller)
        if not isinstance(inner, Distiller):
            raise InputError(f"PriorLearner: expected a Distiller, got {type(inner).__name__}")
        self.distiller = inner
        self.config = config or MetaConfig()
        self.regulariser = regulariser
        self.priors: list[Prior] = []
        self._own: LearnableModule | None = None
        _refuse_what_is_not_exact(inner.student, self.config, regulariser)
        if world_size() > 1 and (regulariser is not None or self.config.exact):
            what = "exact=True" if regulariser is None else "regulariser="
            raise InputError(f"{what}: the unrolled gradient is for one process alone")
        if regulariser is not None:
            if any(other is not None for other in (priors, theta_0, facts)):
                raise InputError(
                    "regulariser= beside priors=, theta_0= or facts=: these are a prior's"
                )
            self._own = LearnableModule(regulariser, trained_parameters(inner.student))
            return
        if priors is None:
            self.priors = self._new_priors(theta_0 or inner.student, facts or {})
            return
        self.priors = [priors] if isinstance(priors, Prior) else list(priors)
        if [prior.p for prior in self.priors] != list(self.config.exponents):
            raise InputError(
                f"priors: expected one for each of the exponents {self.config.exponents}, got "
                f"p = {[prior.p for prior in self.priors]}"
            )
        for prior in self.priors:
            prior.bind(inner.student)

    def _new_priors(self, theta_0: nn.Module, facts: Mapping[str, Any]) -> list[Prior]:
        """Returns priors of phi = 0, one per exponent, with the settings in their manifests."""
        settings = asdict(self.config)
        kept_elsewhere = ("exponents", "select", "granularity")
        known = {name: value for name, value in settings.items() if name not in kept_elsewhere}
        known |= {"fingerprint": fingerprint(theta_0), **facts}
        select, granularity = self.config.select, self.config.granularity
        return [
            Prior.constant(
                self.distiller.student, 0.0, p, select, None, granularity, known
            ).track_noise()
            for p in self.config.exponents
        ]

    @property
    def prior(self) -> Prior:
        """The learned prior, if there is exactly one.

        Raises:
            InputError: If several priors are learned.
        """
        if self.regulariser is not None:
            raise InputError("no prior is learned, but an R of your own: take .regulariser")
        if len(self.priors) != 1:
            raise InputError(f"{len(self.priors)} priors are learned: take one of .priors")
        return self.priors[0]

    def update(
        self,
        batch: Any,
        losses: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> dict[str, float]:
        """Runs one iteration of Algorithm 3; weights, buffers and gradients are left unchanged.

        A batch without any labeled sample (`labelled`) leaves phi unchanged, because it has no
        inner step.

        Call it after losses = distiller(batch) and before their backward, inside the same autocast.

        Args:
            batch: The batch that the losses were computed on.
            losses: The distiller's losses, before their backward pass.
            optimizer: The student's optimizer; needed only for Adam's inner step.

        Returns:
            {"outer_0": G at theta'' of the first prior, ...}.

        Raises:
            InputError: If the losses have no "regression", or their backward has already run.
            Diverged: If a loss at theta'' is not finite.
        """
        return self._update(batch, losses, optimizer, goes_backward=False)

    def backward(
        self,
        batch: Any,
        losses: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> dict[str, float]:
        """Combines `update` and `sum(losses.values()).backward()`.

        It gives the same numbers with less memory: the losses' graph is freed before the pass at
        theta''.

        Args, Returns, Raises: As for `update`; if it raises Diverged, .grad already holds this
        batch's gradients.
        """
        return self._update(batch, losses, optimizer, goes_backward=True)

    def _expect_fresh(self, losses: Mapping[str, Tensor]) -> None:
        if "regression" not in losses:
            raise InputError(
                "PriorLearner.update: the inner step needs labelled samples, the losses have no "
                "'regression'"
            )
        if not losses["regression"].requires_grad:
            raise InputError(
                "PriorLearner.update: the losses carry no gradient; were they computed under "
                "no_grad?"
            )
        _refuse_half_precision(losses["regression"])

    def _update(
        self, batch: Any, losses: Mapping[str, Tensor], optimizer: Any, goes_backward: bool
    ) -> dict[str, float]:
        self._expect_fresh(losses)
        adam = self.config.inner_optimizer == "adam"
        if adam and optimizer is None:
            raise InputError("update(batch, losses, optimizer): the inner step of Adam's needs it")
        distiller, config = self.distiller, self.config
        if not self._has_labels(batch, losses["regression"]):
            if goes_backward:
                go_backward(losses)
            return {}
        weights = trained_parameters(distiller.student, distiller.criterion)
        unrolls = self.regulariser is not None or config.exact
        inner: dict[str, Tensor] = {}
        total: dict[str, Tensor] = {}
        try:
            with preserve_weights(distiller, []):  # checkpointing runs BatchNorm again
                if not (unrolls or config.split):
                    inner = gradients_of(losses["regression"], weights, retain_graph=True)
                if adam:
                    total = gradients_of(sum_of(losses), weights, retain_graph=True)
            if goes_backward:
                go_backward(losses)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise InputError(
                "PriorLearner.update comes before the losses' backward(), which frees their graph"
            ) from None
        with _apart(losses["regression"]):
            scales = adam_scales(innermost_optimizer(optimizer), weights, total) if adam else None
            first = second = (batch, getattr(losses, "teacher_maps", None))
            if config.split:
                first_half, second_half = halve(distiller.fields(batch))
                first, second = (first_half, None), (second_half, None)
                if not unrolls:
                    with preserve_weights(distiller, []):
                        inner = gradients_of(distiller(first_half)["regression"], weights)
            if unrolls:
                values = [
                    self._unroll(learned, weights, scales, first, second)
                    for learned in self._learnables()
                ]
            else:
                values = self._look_ahead_for_each(weights, inner, scales, first, second)
            return {f"outer_{number}": value for number, value in enumerate(values)}

    def _learnables(self) -> list[Learnable]:
        if self._own is not None:
            return [self._own]
        return [LearnablePrior(prior) for prior in self.priors]

    def _look_ahead_for_each(
        self,
        weights: dict[str, nn.Parameter],
        inner: dict[str, Tensor],
        scales: dict[str, Tensor] | None,
        first: tuple[Any, Any],
        second: tuple[Any, Any],
    ) -> list[float]:
        """Updates every phi by the closed form; returns G at theta'' for each."""
        values = []
        for prior in self.priors:
            own_inner = scaled(inner, scales)
            if prior is self.priors[-1]:
                inner.clear()  # frees the gradients while G at theta'' is computed
            values.append(self._learn(prior, weights, own_inner, scales, first, second))
        return values

    def _has_labels(self, batch: Any, loss: Tensor) -> bool:
        """Returns whether the inner step has a labeled sample in any process."""
        if self.distiller.fields.labelled is None and not isinstance(batch, Batch):
            return True
        with _apart(loss):  # a field may be a function that draws random numbers
            parts = self.distiller.fields(batch)
        if parts.labelled is None:
            return True
        numbers = labelled_numbers(halve(parts)[0] if self.config.split else parts)
        count = 1.0 if numbers is None else float(len(numbers))
        return sum_over_ranks({"labelled": count})["labelled"] > 0

    def _unroll(
        self,
        learned: Learnable,
        weights: dict[str, nn.Parameter],
        scales: dict[str, Tensor] | None,
        first: tuple[Any, Any],
        second: tuple[Any, Any],
    ) -> float:
        """Does what `_learn` does, exactly and for any R."""
        distiller, config = self.distiller, self.config
        paths = {
            id(weight): path for path, weight in distiller.named_parameters(remove_duplicate=False)
        }
        full = {name: paths[id(weight)] for name, weight in weights.items()}
        values: dict[str, float] = {}

        def losses_at(theta: Mapping[str, Tensor], part: tuple[Any, Any]) -> dict[str, Tensor]:
            state = {name: buffer.clone() for name, buffer in distiller.named_buffers()}
            state |= {full[name]: weight for name, weight in theta.items()}
            losses: dict[str, Tensor] = functional_call(distiller, state, part)
            return losses

        def outer(theta: Mapping[str, Tensor]) -> Tensor:
            there = losses_at(theta, second)
            values.update(to_finite_floats(there, "after the inner step"))
            return sum_of(there)

        phi = learned.leaves(weights)

        def inner(theta: Mapping[str, Tensor]) -> Tensor:
            return losses_at(theta, first)["regression"]

        with differentiable_max_norm(distiller):
            gradients = unroll(
                weights,
                partial(learned.penalty, phi),
                phi,
                (inner, outer),
                config.alpha,
                config.inner_steps,
                scales,
            )
        learned.step_(gradients, config.beta, config.unit_free)
        return sum(values.values())

    def _learn(
        self,
        prior: Prior,
        weights: dict[str, nn.Parameter],
        inner: dict[str, Tensor],
        scales: dict[str, Tensor] | None,
        first: tuple[Any, Any],
        second: tuple[Any, Any],
    ) -> float:
        """Updates one phi by the look-ahead gradient; returns G at theta''.

        inner: grad L_REG times its scale; it is emptied.
        first, second: the batches of the inner step and of G, each with the teacher's maps if
        they are known.
        """
        distiller, config = self.distiller, self.config
        values: dict[str, float] = {}

        def outer() -> dict[str, Tensor]:
            ahead = distiller(*second)
            values.update(to_finite_floats(ahead, "after the inner step"))
            return gradients_of(sum_of(ahead), weights)

        def again() -> dict[str, Tensor]:
            value = distiller(*first)["regression"]
            return scaled(gradients_of(value, weights), scales)

        gradients = look_ahead_gradient(
            prior,
            distiller,
            weights,
            inner,
            config.alpha,
            outer,
            again,
            config.inner_steps,
            scales,
        )
        prior.learn_(gradients, config.beta, config.unit_free)
        return sum(values.values())

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that `load_state_dict` needs to resume."""
        if self.regulariser is not None:
            return {"regulariser": self.regulariser.state_dict()}
        return {f"prior_{number}": prior.state_dict() for number, prior in enumerate(self.priors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a saved state.

        Raises:
            InputError: If the state belongs to another learner.
        """
        expected = [f"prior_{number}" for number in range(len(self.priors))]
        expected = expected if self.regulariser is None else ["regulariser"]
        if sorted(state) != sorted(expected):
            raise InputError(f"a learner's state: expected {expected}, it has {list(state)}")
        if self.regulariser is not None:
            self.regulariser.load_state_dict(state["regulariser"])
        for number, prior in enumerate(self.priors):
            prior.load_state_dict(state[f"prior_{number}"])


@contextmanager
def _apart(loss: Tensor) -> Iterator[None]:
    """Isolates passes at other weights, so that theta's path is unaffected.

    It restores the random stream that dropout uses, and disables autocast's cache of
    half-precision weights, which would miss in-place changes.
    """
    kind = loss.device.type
    devices = [loss.device] if kind == "cuda" else []
    cast = torch.autocast(
        kind,
        torch.get_autocast_dtype(kind),
        torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
    with torch.enable_grad(), torch.random.fork_rng(devices), cast:
        yield


def _refuse_what_is_not_exact(student: nn.Module, config: MetaConfig, regulariser: Any) -> None:
    """Refuses weights for which phi would be computed incorrectly."""
    for name, weight in trained_parameters(student).items():
        if weight.is_complex():
            raise InputError(f"{name!r} is complex: phi is learned of real weights; freeze it")
    unrolls = (config.exact or regulariser is not None) and config.inner_steps > 1
    names = [name for name, _ in unwrap(student).named_parameters()]
    if unrolls and any(name.endswith(("weight_g", "weight.original0")) for name in names):
        raise InputError(
            "weight norm beside several unrolled inner steps: torch's second derivative of it is "
            "wrong; give inner_steps=1, exact=False, or remove weight norm"
        )


def _refuse_half_precision(loss: Tensor) -> None:
    device = loss.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        raise InputError(
            "phi is not learned under float16: its small gradients underflow; use bfloat16 or "
            "float32"
        )
