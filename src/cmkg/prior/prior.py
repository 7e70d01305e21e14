"""The prior phi: one number per weight, the strength of its regularization on the target.

Eq. 10: R(theta; phi) = sum_i phi_i |theta_i - theta*_i|^p with p = 1 or 2; the paper's center
theta* is zero.

One file: the class is a single value; its parts are in penalty, noise, store and attach.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..modules import as_weights, unwrap, without_prefix
from ..runtime.files import PathLike
from ..runtime.random import generator
from .attach import Attachment
from .checkpoints import telescoped_phi
from .noise import begin_record, record_step_, variance_of
from .parameters import Select, Tensors, fingerprint, select_parameters, tied_shape
from .penalty import bind, slope_of, weighted_norm
from .store import PriorFile, read_prior, write_prior


class Prior:
    """phi with its exponent and center, bound by name to the parameters of one architecture.

    Args:
        phi: {parameter name: float tensor of the parameter's shape, or of `tied_shape`}.
        p: The exponent, 1 or 2.
        centre: The center theta*: None (zero), a network, or {name: tensor of the parameter's
            shape} with at least phi's names.
        manifest: How the prior was made: alpha, beta, units of the loss, source, fingerprint of
            theta_0, granularity, and "weights", the number of weights per name.
        variance: None, or {name: tensor like phi}; see the property.

    Raises:
        InputError: If the exponent is not 1 or 2, phi is not a tensor, or the centre lacks one of
            phi's names.

    >>> prior = Prior({"w": torch.ones(2, 1)})
    >>> prior
    Prior(p=2, 1 tensor, 2 numbers, rms 1, centred at zero)
    >>> prior == prior.scaled(2.0)
    False
    """

    def __init__(
        self,
        phi: Tensors,
        p: int = 2,
        centre: nn.Module | Tensors | None = None,
        manifest: Mapping[str, Any] | None = None,
        variance: Tensors | None = None,
    ) -> None:
        if isinstance(p, bool) or p not in (1, 2):
            raise InputError(f"a prior's exponent p is 1 or 2, got {p!r}")
        for name, tensor in _expect_mapping("phi", phi).items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise InputError(
                    f"phi of {name!r}: expected a tensor of floats, got {tensor!r:.60}"
                )
        self.phi = {name: tensor.detach().clone() for name, tensor in phi.items()}
        self.p = int(p)
        self.manifest = dict(_expect_mapping("manifest", manifest or {}))
        self.centre = None if centre is None else _centre_for(self.phi, centre)
        self.noise: dict[str, Tensor] | None = None
        self._variance = dict(variance) if variance else None

    def __repr__(self) -> str:
        numbers = sum(phi.numel() for phi in self.phi.values())
        tensors = f"{len(self.phi)} tensor{'' if len(self.phi) == 1 else 's'}"
        centre = "zero" if self.centre is None else "given weights"
        size = f"rms {self.rms():.3g}, centred at {centre}"
        return f"Prior(p={self.p}, {tensors}, {numbers} numbers, {size})"

    def __eq__(self, other: object) -> bool:
        """Returns whether exponent, phi and center are equal; the manifest is ignored."""
        if not isinstance(other, Prior):
            return NotImplemented
        return (
            self.p == other.p
            and _equal_tensors(self.phi, other.phi)
            and _equal_tensors(self.centre, other.centre)
        )

    __hash__ = None  # type: ignore[assignment]

    # ---- making one ------------------------------------------------------------------------------
    @classmethod
    def constant(
        cls,
        model: nn.Module,
        value: float = 0.0,
        p: int = 2,
        select: Select = "weights",
        centre: nn.Module | Tensors | None = None,
        granularity: str = "weight",
        facts: Mapping[str, Any] | None = None,
    ) -> Prior:
        """Returns a constant phi: 0 to start learning, sigma for l1 or l2, L2-SP with a centre.

        Args:
            model: The network whose parameters carry phi.
            value: The finite value of every phi_i.
            p: The exponent, 1 or 2.
            select: Which trained parameters carry phi: "weights" (see is_weight: no biases,
                normalization, tokens or positions), "all", or a function of name and tensor.
            centre: The center theta*, a network or {name: tensor}; None means zero.
            granularity: One number per "weight", output "filter" or "layer".
            facts: Additional entries for the manifest.

        Raises:
            InputError: If `select`, `granularity`, `p` or `centre` is invalid, or no parameter is
                selected.
        """
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"phi's value: expected a finite number, got {value!r:.60}")
        selected = select_parameters(model, select)
        if not selected:
            raise InputError(
                f"{type(unwrap(model)).__name__} has no trained parameter with "
                f"select={select!r}: phi has none to belong to"
            )
        phi = {}
        for name, parameter in selected.items():
            shape = tied_shape(parameter.shape, granularity)
            phi[name] = torch.full(shape, float(value), device=parameter.device)
        known = {
            "architecture": type(unwrap(model)).__name__,
            "select": select if isinstance(select, str) else "a function",
            "granularity": granularity,
            "weights": {name: parameter.numel() for name, parameter in selected.items()},
            "fingerprint": fingerprint(model),
        }
        prior = cls(phi, p, centre, known | dict(_expect_mapping("facts", facts or {})))
        prior.bind(model)
        return prior

    @classmethod
    def from_checkpoints(
        cls,
        theta_0: nn.Module | Tensors,
        theta_k: nn.Module | Tensors,
        beta: float,
        facts: Mapping[str, Any] | None = None,
    ) -> Prior:
        """Returns phi = -beta (theta_K^2 - theta_0^2) from the weights of two checkpoints.

        To first order, this equals the prior meta-learned under SGD, whose sum over steps
        telescopes, as long as the squared steps sum to less than the change (docs/prior.md).

        Only weights count (see is_weight): the parameters, if either is a network; otherwise the
        tensors that changed between two state_dicts, without running statistics.

        Args:
            theta_0, theta_k: The earlier and the later weights: networks or {name: tensor}.
            beta: The equivalent learning rate of phi.
            facts: Additional entries for the manifest.

        Raises:
            InputError: If names or shapes differ.
        """
        known = {
            "family": "two checkpoints",
            "select": "weights",
            "granularity": "weight",
            "beta": beta,
        }
        phi = telescoped_phi(theta_0, theta_k, beta)
        return cls(phi, 2, None, known | dict(_expect_mapping("facts", facts or {})))

    def _changed(self, phi: Tensors, variance: Tensors | None = None, **facts: Any) -> Prior:
        """Returns this prior with another phi; the variance is dropped unless given."""
        return Prior(phi, self.p, self.centre, self.manifest | facts, variance)

    def _mapped(self, change: Callable[[str, Tensor], Tensor], **facts: Any) -> Prior:
        return self._changed({name: change(name, phi) for name, phi in self.phi.items()}, **facts)

    def permuted(self, seed: int) -> Prior:
        """Returns a control with phi shuffled within each layer, by seed and layer name.

        It keeps each layer's statistics but not the assignment to weights.
        """
        if all(phi.numel() == 1 for phi in self.phi.values()):
            raise InputError(
                "this prior has one number a layer: shuffled within layers it is itself, no control"
            )

        def shuffle(name: str, phi: Tensor) -> Tensor:
            order = torch.randperm(phi.numel(), generator=generator("permuted", seed, name))
            return phi.flatten()[order.to(phi.device)].view_as(phi)

        return self._mapped(shuffle, permuted=seed)

    def layer_mean(self) -> Prior:
        """Returns a control with each layer's phi replaced by its mean.

        It keeps only the strength of each layer.
        """
        return self._mapped(lambda _, phi: phi.mean().expand_as(phi).clone(), layer_mean=True)

    def scaled(self, strength: float) -> Prior:
        """Returns phi times a factor; the manifest's "strength" is the product of all factors.

        Raises:
            InputError: If the factor is not finite.
        """
        if not math.isfinite(strength):
            raise InputError(f"a prior's strength: expected a finite number, got {strength}")
        whole = strength * float(self.manifest.get("strength", 1.0))
        phi = {name: strength * value for name, value in self.phi.items()}
        spread = self.variance
        variance = spread and {name: strength**2 * value for name, value in spread.items()}
        return self._changed(phi, variance, strength=whole)

    def rms(self) -> float:
        """Root mean square of phi over all weights: a tied phi counts for each of its weights."""
        stands_for = self.manifest.get("weights", {})
        total, count = 0.0, 0
        for name, phi in self.phi.items():
            weights = int(stands_for.get(name, phi.numel()))
            total += float(phi.double().square().mean()) * weights
            count += weights
        return (total / count) ** 0.5 if count else 0.0

    def with_rms(self, rms: float, per_layer: bool = False) -> Prior:
        """Returns phi scaled to the root mean square `rms`, a strength independent of phi's units.

        Args:
            rms: The root mean square over all weights.
            per_layer: Scales every layer to the same value. Otherwise one layer dominates the norm
                (as one of 25 layers in a slim ResNet-18). A layer of zeros stays zero, and the
                others share its part.

        Raises:
            InputError: If phi is zero everywhere.
        """
        if not isinstance(rms, (int, float)) or not 0 <= rms < math.inf:
            raise InputError(f"with_rms: expected a number from 0, got {rms!r}")
        if self.rms() == 0:
            raise InputError(
                "this prior is zero everywhere: expected one that was learned; distil for longer"
            )
        if per_layer:
            even = self._mapped(
                lambda _, phi: phi / _rms(phi) if _rms(phi) else phi, per_layer=True
            )
            return even.with_rms(rms)
        return self.scaled(rms / self.rms())

    def to(self, device: torch.device | str) -> Prior:
        """Moves phi, its center, its noise and its variance to the device; returns self."""
        self.phi = _to_device(self.phi, device)
        self.centre = None if self.centre is None else _to_device(self.centre, device)
        self.noise = self.noise and _to_device(self.noise, device)
        self._variance = self._variance and _to_device(self._variance, device)
        return self

    def floored(self, lowest: float = 0.0) -> Prior:
        """Returns phi clamped to at least `lowest`; at 0 no weight grows on the target."""
        return self._mapped(lambda _, phi: phi.clamp_min(lowest), floor=lowest)

    def centred(self, centre: nn.Module | Tensors) -> Prior:
        """Returns the same phi around other weights theta*, a network or {name: tensor}.

        Raises:
            InputError: If one of phi's names is missing.
        """
        facts = self.manifest | {"centre": "given"}
        return Prior(self.phi, self.p, centre, facts, self.variance)

    # ---- using one -------------------------------------------------------------------------------
    def bind(self, model: nn.Module | Tensors, prefix: str = "") -> list[Tensor]:
        """Returns the model's parameters in phi's order.

        Args:
            model: A network, wrapped or not, or {name: tensor}.
            prefix: A prefix that the model's names have and phi's lack, such as "backbone.".

        Raises:
            InputError: If the architecture differs; the message names the parameter.
        """
        return list(bind(self, model, prefix).values())

    def check_start(self, model: nn.Module) -> None:
        """Warns if `model` does not hold the theta_0 that phi was learned from."""
        expected = self.manifest.get("fingerprint")
        if expected and expected != fingerprint(model):
            warnings.warn(
                "this prior was learned from another initialisation: hidden units can be permuted "
                "between two, so phi is only noise with the right layer statistics here; start "
                "from the same theta_0",
                stacklevel=2,
            )

    def penalty(self, model: nn.Module | Tensors) -> Tensor:
        """Returns R(theta; phi) of Eq. 10, a scalar differentiable in theta.

        Args:
            model: A network, or {name: tensor}.

        Raises:
            InputError: If the architecture differs.
        """
        return self.penalty_of(bind(self, model))

    def penalty_of(self, weights: Tensors) -> Tensor:
        """Returns R over {name: weight} for a subset of phi's names."""
        return weighted_norm(weights, self.phi, self.p, self.centre)

    @torch.no_grad()
    def slope(self, weights: Tensors) -> dict[str, Tensor]:
        """Returns dR/dtheta without phi for {name: weight}, for some or all of phi's names.

        It is 2 (theta - theta*) for p = 2, and sign(theta - theta*) for p = 1.
        """
        return slope_of(self, weights)

    def attach(
        self,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        model: nn.Module,
        coupled: bool = True,
        prefix: str = "",
    ) -> Attachment:
        """Applies this prior to `model` at every following step of the optimizer.

        It works in any training loop; see attach.Attachment for what a step does and what is
        refused.

        Args:
            optimizer: The optimizer, or several, each for the weights that it trains.
            model: The network that phi belongs to, wrapped or not.
            coupled: If True, R's gradient is added to the loss's (the paper's F); otherwise the
                weights shrink directly (Eq. 16), each with its group's learning rate.
            prefix: See `bind`.

        Returns:
            A handle with `.remove()`, `.steps` and `.active`; a `with` block removes it at its end.

        Raises:
            InputError: If the prior would not act, or would act twice.
        """
        return Attachment(self, optimizer, model, coupled, prefix)

    def growth(self, lr: float) -> dict[str, float]:
        """Returns {name: largest factor of a weight's distance from the center per decoupled step}.

        It exceeds 1 where phi is negative.

        Args:
            lr: The step's learning rate.

        Raises:
            InputError: If p is 1, whose step is no factor, or lr is not positive.
        """
        if self.p != 2:
            raise InputError(
                "growth: a step with p=1 adds to a weight and has no factor; expected p=2"
            )
        if not 0 < lr < math.inf:
            raise InputError(f"growth: expected a positive learning rate, got {lr!r}")
        return {name: 1 - 2 * lr * float(phi.min()) for name, phi in self.phi.items()}

    def limited(self, lr: float, steps: int, factor: float = 2.0) -> Prior:
        """Returns phi raised so that no weight grows by more than `factor` in `steps` steps.

        Args:
            lr: The learning rate of the decoupled steps.
            steps: Their number, from 1.
            factor: Of a weight's distance from the center, from 1.

        Raises:
            InputError: If p is 1, or a number is out of range.
        """
        if self.p != 2 or not 0 < lr < math.inf or steps < 1 or not 1 <= factor < math.inf:
            raise InputError(
                "limited: expected a prior with p=2, a positive learning rate, steps and a factor "
                f"from 1; got p={self.p}, {lr!r}, {steps!r}, {factor!r}"
            )
        return self.floored(-(factor ** (1 / steps) - 1) / (2 * lr))

    # ---- learning one ----------------------------------------------------------------------------
    @torch.no_grad()
    def learn_(self, gradients: Tensors, beta: float, unit_free: bool = False) -> None:
        """Updates phi <- phi - beta dG/dphi by plain SGD, as in the paper.

        The gradient of a tied phi is the sum over the weights that share it.

        Args:
            gradients: {name: dG/dphi of every weight}; phi of other names stays unchanged.
            beta: The learning rate of phi.
            unit_free: Divides each layer's gradient by its root mean square, so that phi does not
                depend on the loss's unit; beta is then a decay per step.
        """
        tied = {}
        for name, gradient in gradients.items():
            shape = self.phi[name].shape
            step = gradient if gradient.shape == shape else gradient.sum_to_size(shape)
            if unit_free:
                step = step / step.square().mean().sqrt().clamp_min(1e-30)
            tied[name] = step.to(self.phi[name])
        if not tied:
            return
        torch._foreach_add_([self.phi[name] for name in tied], list(tied.values()), alpha=-beta)
        if self.noise is not None:
            record_step_(self.noise, tied, beta)

    def track_noise(self) -> Prior:
        """Records the spread of single steps while phi is learned; returns self.

        The record in `noise` adds one tensor like phi to a checkpoint, or two if phi does not
        start at 0. See `variance` and `signal_to_noise`.
        """
        self.noise = begin_record(self.phi)
        return self

    @property
    def variance(self) -> dict[str, Tensor] | None:
        """The variance of phi_i due to batch noise, as {name: tensor like phi}.

        It assumes independent steps, and is None if it was not recorded.
        """
        recorded = None if self.noise is None else variance_of(self.noise, self.phi)
        return self._variance if recorded is None else recorded

    def signal_to_noise(self) -> dict[str, float]:
        """Returns {name: rms of phi over the rms of its noise}; about 1 if phi is a random walk.

        Raises:
            InputError: If the noise was not recorded; see `track_noise`.
        """
        variance = self.variance
        if variance is None:
            raise InputError(
                "this prior has no record of its noise: expected one learned after track_noise()"
            )
        return {
            name: _rms(phi) / max(_rms(variance[name].sqrt()), 1e-30)
            for name, phi in self.phi.items()
        }

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Returns {name: {min, q10, median, q90, max}} of phi, for the log."""
        levels = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
        q = torch.tensor(list(levels.values()), dtype=torch.float64)
        quantiles = {}
        for name, phi in self.phi.items():
            every = max(1, phi.numel() // 100_000)  # torch.quantile takes 16 million at most
            values = torch.quantile(phi.flatten()[::every].double().cpu(), q).tolist()
            quantiles[name] = dict(zip(levels, values, strict=True))
            quantiles[name] |= {"min": float(phi.min()), "max": float(phi.max())}
        return quantiles

    # ---- keeping one -----------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Returns the full state for a checkpoint; see `load_state_dict`."""
        return {
            "p": self.p,
            "phi": dict(self.phi),
            "centre": None if self.centre is None else dict(self.centre),
            "noise": self.noise and dict(self.noise),
            "variance": self._variance and dict(self._variance),
            "manifest": dict(self.manifest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the output of `state_dict` into this prior, with the same names and shapes.

        phi's tensors are updated in place, so an attached prior keeps working.

        Raises:
            InputError: If the state belongs to another network or exponent.
        """
        missing = [key for key in ("p", "phi", "centre", "noise") if key not in state]
        if missing:
            raise InputError(f"a prior's state: expected {missing[0]!r}, it has {list(state)}")
        shapes = {name: tuple(phi.shape) for name, phi in self.phi.items()}
        other = {name: tuple(phi.shape) for name, phi in state["phi"].items()}
        if state["p"] != self.p or shapes != other:
            raise InputError("a prior's state: it belongs to a prior of another network or p")
        with torch.no_grad():
            for name, phi in self.phi.items():
                phi.copy_(state["phi"][name])
        device = next(iter(self.phi.values())).device if self.phi else torch.device("cpu")

        def copied(part: str) -> dict[str, Tensor] | None:
            tensors = state.get(part)
            return tensors and {
                n: tensor.detach().clone().to(device) for n, tensor in tensors.items()
            }

        self.centre, self.noise = copied("centre"), copied("noise")
        self._variance = copied("variance")
        self.manifest = dict(state.get("manifest", {}))

    def save(self, path: PathLike, facts: Mapping[str, Any] | None = None) -> None:
        """Writes phi, its center, its variance and the manifest as safetensors, atomically.

        Args:
            path: The file.
            facts: Additional entries for the manifest; format, p, versions and shapes are set
                automatically.

        Raises:
            InputError: If phi is empty, a number is not finite, or a fact is not JSON.
        """
        manifest = self.manifest | dict(_expect_mapping("facts", facts or {}))
        write_prior(path, PriorFile(self.phi, self.p, self.centre, self.variance, manifest))

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Prior:
        """Reads a file that `save` wrote.

        Raises:
            InputError: If the file is not a prior; the message names the file and the field.
        """
        file = read_prior(path, device)
        return cls(file.phi, file.p, file.centre, file.manifest, file.variance)


def _to_device(tensors: Tensors, device: torch.device | str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


def _expect_mapping(what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"a prior's {what}: expected a dict, got {type(value).__name__}")
    return value


def _centre_for(phi: Tensors, centre: nn.Module | Tensors) -> dict[str, Tensor]:
    """Returns copies of the tensors with phi's names."""
    given = as_weights(centre)
    if not all(name in given for name in phi):
        given = without_prefix(given)
    missing = [name for name in phi if name not in given]
    if missing:
        raise InputError(f"a prior's centre: expected a tensor for {missing[0]!r}, it has none")
    return {name: given[name].detach().clone() for name in phi}


def _equal_tensors(a: Tensors | None, b: Tensors | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name].to(a[name])) for name in a)
