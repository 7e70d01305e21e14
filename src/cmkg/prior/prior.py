"""The prior phi: one number per weight that says how strongly the target's training holds it.

Eq. 10: R(theta; phi) = sum_i phi_i |theta_i - theta*_i|^p with p = 1 or 2; the paper's centre
theta* is zero.

One file: a prior is one value; its parts live beside it (penalty, noise, store, attach).
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
    """phi with its exponent and centre, bound by name to the parameters of one architecture.

    Args:
        phi: {parameter name: float tensor of the parameter's shape, or of `tied_shape`}.
        p: 1 or 2.
        centre: None (zero), or {name: tensor of the parameter's shape} of the same names or more;
            a network's own weights are taken from it.
        manifest: what is known of its making: alpha, beta, units of the loss, source, fingerprint
            of theta_0, granularity, and "weights", how many weights each name stands for.
        variance: None, or {name: tensor like phi}; see the property.

    Raises:
        InputError: another exponent, phi that is no tensor, a centre without one of phi's names.

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
        for name, one in _expect_mapping("phi", phi).items():
            if not isinstance(one, Tensor) or not one.is_floating_point():
                raise InputError(f"phi of {name!r}: expected a tensor of floats, got {one!r:.60}")
        self.phi = {name: one.detach().clone() for name, one in phi.items()}
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
        """Whether exponent, phi and centre are equal; where a number was learned does not count."""
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
        """phi_i = value: 0 to be learned, sigma for plain l1 and l2, with a centre L2-SP.

        Args:
            model: whose parameters carry phi.
            value: of every phi_i, finite.
            p: the exponent, 1 or 2.
            select: which of its trained parameters: "weights" (see is_weight: no biases, no
                normalisation, no tokens or positions), "all", or a function of name and tensor.
            centre: theta*, a network or {name: tensor}; None is zero.
            granularity: one number a "weight", an output "filter" or a "layer".
            facts: more for the manifest.

        Raises:
            InputError: another `select`, `granularity`, `p` or centre; no parameter is selected.
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
        """phi = -beta (theta_K^2 - theta_0^2), of the weights of two checkpoints.

        This is what the meta-learned prior is to first order under SGD, where the sum over its
        steps telescopes; while the squared steps sum up to less than the change (docs/prior.md).

        Of weights alone (see is_weight): with a network among the two its parameters, no buffers;
        of two state_dicts what has moved between them, and no running statistics.

        Args:
            theta_0, theta_k: the earlier and the later weights: networks or {name: tensor}.
            beta: the step of phi that it stands for.
            facts: more for the manifest.

        Raises:
            InputError: names or shapes of the two differ.
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
        """This prior with other numbers; the variance is lost where it is not given."""
        return Prior(phi, self.p, self.centre, self.manifest | facts, variance)

    def _mapped(self, change: Callable[[str, Tensor], Tensor], **facts: Any) -> Prior:
        return self._changed({name: change(name, phi) for name, phi in self.phi.items()}, **facts)

    def permuted(self, seed: int) -> Prior:
        """The control: phi shuffled within each layer, by seed and the layer's name alone.

        Keeps every layer's statistics and loses which weight is which.
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
        """The control: each layer's phi replaced by its mean.

        Keeps how strongly each layer is held and loses all else.
        """
        return self._mapped(lambda _, phi: phi.mean().expand_as(phi).clone(), layer_mean=True)

    def scaled(self, strength: float) -> Prior:
        """phi times one number; the manifest's "strength" is the product of all such.

        Raises:
            InputError: it is not finite.
        """
        if not math.isfinite(strength):
            raise InputError(f"a prior's strength: expected a finite number, got {strength}")
        whole = strength * float(self.manifest.get("strength", 1.0))
        phi = {name: strength * one for name, one in self.phi.items()}
        spread = self.variance
        variance = spread and {name: strength**2 * one for name, one in spread.items()}
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
        """phi scaled to the root mean square `rms`: the strength, free of phi's units.

        Args:
            rms: over all weights.
            per_layer: the same for every layer: else a layer of large phi has nearly all of the
                strength (of a slim ResNet-18's 25 layers one). A layer of zeros stays so, and the
                others share its part.

        Raises:
            InputError: phi is zero everywhere.
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
        """Moves phi, its centre, its noise and its variance to the device; returns self."""
        self.phi = _to_device(self.phi, device)
        self.centre = None if self.centre is None else _to_device(self.centre, device)
        self.noise = self.noise and _to_device(self.noise, device)
        self._variance = self._variance and _to_device(self._variance, device)
        return self

    def floored(self, lowest: float = 0.0) -> Prior:
        """phi with values below `lowest` raised to it: at 0 no weight grows on the target."""
        return self._mapped(lambda _, phi: phi.clamp_min(lowest), floor=lowest)

    def centred(self, centre: nn.Module | Tensors) -> Prior:
        """The same phi around other weights theta*: a network or {name: tensor}.

        Raises:
            InputError: one of phi's names is missing.
        """
        facts = self.manifest | {"centre": "given"}
        return Prior(self.phi, self.p, centre, facts, self.variance)

    # ---- using one -------------------------------------------------------------------------------
    def bind(self, model: nn.Module | Tensors, prefix: str = "") -> list[Tensor]:
        """The model's parameters in phi's order.

        Args:
            model: a network, wrapped or not, or {name: tensor}.
            prefix: what its names begin with where phi's do not, as "backbone.".

        Raises:
            InputError: the architecture differs; the sentence names the parameter.
        """
        return list(bind(self, model, prefix).values())

    def check_start(self, model: nn.Module) -> None:
        """Warns when `model` does not hold the theta_0 that phi was learned from."""
        expected = self.manifest.get("fingerprint")
        if expected and expected != fingerprint(model):
            warnings.warn(
                "this prior was learned from another initialisation: hidden units can be permuted "
                "between two, so phi is only noise with the right layer statistics here; start "
                "from the same theta_0",
                stacklevel=2,
            )

    def penalty(self, model: nn.Module | Tensors) -> Tensor:
        """R(theta; phi) of Eq. 10, a scalar with a graph to theta.

        Args:
            model: a network, or {name: tensor}.

        Raises:
            InputError: the architecture differs.
        """
        return self.penalty_of(bind(self, model))

    def penalty_of(self, weights: Tensors) -> Tensor:
        """R over {name: weight} of some of phi's names alone."""
        return weighted_norm(weights, self.phi, self.p, self.centre)

    @torch.no_grad()
    def slope(self, weights: Tensors) -> dict[str, Tensor]:
        """dR/dtheta without phi of {name: weight}, of all of phi's names or of some.

        2 (theta - theta*) for p = 2, sign(theta - theta*) for p = 1.
        """
        return slope_of(self, weights)

    def attach(
        self,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        model: nn.Module,
        coupled: bool = True,
        prefix: str = "",
    ) -> Attachment:
        """From now on each real step of the optimiser applies this prior to `model`.

        In any training loop: see attach.Attachment, which says what a step does and what is
        refused.

        Args:
            optimizer: whose steps apply it; several share the work, each on what it trains.
            model: whose parameters phi belongs to, wrapped or not.
            coupled: R's gradient is added to the loss's (the paper's F); else the weights shrink by
                themselves (Eq. 16), each with its group's learning rate.
            prefix: see `bind`.

        Returns:
            A handle: `.remove()`, `.steps`, `.active`; in a `with` block it removes itself.

        Raises:
            InputError: the prior would not act, or act twice.
        """
        return Attachment(self, optimizer, model, coupled, prefix)

    def growth(self, lr: float) -> dict[str, float]:
        """{name: largest factor by which a decoupled step of rate lr changes a weight}.

        Over 1 where phi is negative.
        """
        return {name: 1 - 2 * lr * float(phi.min()) for name, phi in self.phi.items()}

    def limited(self, lr: float, steps: int, factor: float = 2.0) -> Prior:
        """phi raised where needed, so that no weight grows by more than `factor`.

        That is, over `steps` decoupled steps of rate lr.
        """
        return self.floored(-(factor ** (1 / steps) - 1) / (2 * lr))

    # ---- learning one ----------------------------------------------------------------------------
    @torch.no_grad()
    def learn_(self, gradients: Tensors, beta: float, unit_free: bool = False) -> None:
        """phi <- phi - beta dG/dphi, plain SGD as in the paper.

        Where phi is tied, its gradient is the sum over the weights that share it.

        Args:
            gradients: {name: dG/dphi of every weight}; phi of other names stays as it is.
            beta: the step.
            unit_free: each layer's gradient is divided by its root mean square, so that phi does
                not depend on the loss's unit; beta is then a decay a step.
        """
        tied = {}
        for name, gradient in gradients.items():
            shape = self.phi[name].shape
            one = gradient if gradient.shape == shape else gradient.sum_to_size(shape)
            if unit_free:
                one = one / one.square().mean().sqrt().clamp_min(1e-30)
            tied[name] = one.to(self.phi[name])
        if not tied:
            return
        torch._foreach_add_([self.phi[name] for name in tied], list(tied.values()), alpha=-beta)
        if self.noise is not None:
            record_step_(self.noise, tied, beta)

    def track_noise(self) -> Prior:
        """Keeps the spread of single steps while phi is learned; returns self.

        A tensor like phi more, in `noise`, for a checkpoint; two where phi does not begin at 0. See
        `variance` and `signal_to_noise`.
        """
        self.noise = begin_record(self.phi)
        return self

    @property
    def variance(self) -> dict[str, Tensor] | None:
        """{name: tensor like phi}: how far the noise of single batches carries phi_i.

        The steps are taken for independent. None where it was not recorded.
        """
        recorded = None if self.noise is None else variance_of(self.noise, self.phi)
        return self._variance if recorded is None else recorded

    def signal_to_noise(self) -> dict[str, float]:
        """{name: rms of phi over the rms of its noise}: about 1 where phi is a random walk.

        Raises:
            InputError: the noise was not recorded; see `track_noise`.
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
        """{name: {min, q10, median, q90, max}} of phi, for the log."""
        levels = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
        q = torch.tensor(list(levels.values()), dtype=torch.float64)
        every = max(1, max(phi.numel() for phi in self.phi.values()) // 100_000)
        found = {}
        for name, phi in self.phi.items():
            values = torch.quantile(phi.flatten()[::every].double().cpu(), q).tolist()
            found[name] = dict(zip(levels, values, strict=True))
        return found

    # ---- keeping one -----------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """All of it, for anyone's checkpoint; see `load_state_dict`."""
        return {
            "p": self.p,
            "phi": dict(self.phi),
            "centre": None if self.centre is None else dict(self.centre),
            "noise": self.noise and dict(self.noise),
            "variance": self._variance and dict(self._variance),
            "manifest": dict(self.manifest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts what `state_dict` gave into this prior, of the same names and shapes.

        phi's own tensors are written into: an attached prior goes on with them.

        Raises:
            InputError: it is another network's, or of another exponent.
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
            held = state.get(part)
            return held and {n: tensor.detach().clone().to(device) for n, tensor in held.items()}

        self.centre, self.noise = copied("centre"), copied("noise")
        self._variance = copied("variance")
        self.manifest = dict(state.get("manifest", {}))

    def save(self, path: PathLike, facts: Mapping[str, Any] | None = None) -> None:
        """Writes phi, its centre, its variance and the manifest as safetensors, atomically.

        Args:
            path: of the file.
            facts: more for the manifest; format, p, versions and shapes are the prior's own.

        Raises:
            InputError: what could not be loaded again: no phi, a number that is not finite, a fact
                that is no JSON.
        """
        manifest = self.manifest | dict(_expect_mapping("facts", facts or {}))
        write_prior(path, PriorFile(self.phi, self.p, self.centre, self.variance, manifest))

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Prior:
        """Reads what `save` wrote.

        Raises:
            InputError: the file is not a prior; the sentence names it and the field.
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
    """The tensors of phi's names, copied."""
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
