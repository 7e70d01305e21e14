"""The prior phi: one number per weight that says how strongly the target's training holds it.

Eq. 10: R(theta; phi) = sum_i phi_i |theta_i - theta*_i|^p with p = 1 or 2; the paper's centre
theta* is zero.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from .errors import InputError
from .modules import as_weights, named_weights, unwrap, without_prefix
from .runtime.files import PathLike, parse_json
from .runtime.random import generator
from .runtime.weight_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from .attachment import Attachment

FORMAT = "cmkg-prior/1"
OWN_FACTS = ("format", "p", "versions", "shapes")  # save writes these itself
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers in a state_dict
Select = Literal["weights", "all"] | Callable[[str, Tensor], bool]
Granularity = Literal["weight", "filter", "layer"]
GRANULARITIES = get_args(Granularity)
Tensors = Mapping[str, Tensor]


def tied_shape(shape: Sequence[int], granularity: str) -> tuple[int, ...]:
    """Shape of phi for a parameter of `shape`.

    Args:
        shape: the parameter's.
        granularity: one number a "weight", an output "filter" or a "layer".

    Raises:
        InputError: another granularity.

    >>> tied_shape((8, 3, 5, 5), "filter"), tied_shape((8, 3, 5, 5), "layer")
    ((8, 1, 1, 1), (1, 1, 1, 1))
    """
    if granularity not in GRANULARITIES:
        known = ", ".join(GRANULARITIES)
        raise InputError(f"a prior's granularity is one of {known}, got {granularity!r}")
    kept = {"weight": len(shape), "filter": 1, "layer": 0}[granularity]
    return (*shape[:kept], *(1 for _ in shape[kept:]))


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
        before, after = without_prefix(as_weights(theta_0)), without_prefix(as_weights(theta_k))
        networks = [one for one in (theta_0, theta_k) if isinstance(one, nn.Module)]
        parameters = [named_weights(one) for one in networks]
        if not math.isfinite(beta):
            raise InputError(f"beta: expected a finite number, got {beta}")
        phi = {}
        seen: set[tuple[int, tuple[int, ...]]] = set()
        for name, end in after.items():
            place = end.data_ptr(), tuple(end.shape)
            if not end.is_floating_point() or place in seen or not is_weight(name, end):
                continue
            if any(name not in known for known in parameters) or _is_statistic(name):
                continue
            seen.add(place)  # a weight that is used twice has one phi, under its first name
            if name not in before or before[name].shape != end.shape:
                found = tuple(before[name].shape) if name in before else "none"
                raise InputError(
                    f"{name!r} is {tuple(end.shape)} in the later checkpoint and {found} in the "
                    "earlier one: expected two of one network"
                )
            if not networks and torch.equal(end, before[name].to(end)):
                continue  # a constant buffer, or frozen
            squares = end.detach().float() ** 2 - before[name].detach().float() ** 2
            phi[name] = -beta * squares
        known = {
            "family": "two checkpoints",
            "select": "weights",
            "granularity": "weight",
            "beta": beta,
        }
        if not phi:
            raise InputError("from_checkpoints: no weight differs between the two checkpoints")
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
        weights = as_weights(model)
        if not isinstance(model, nn.Module) and not all(prefix + n in weights for n in self.phi):
            weights = without_prefix(weights)
        found: dict[str, Tensor] = {}
        names: dict[int, str] = {}
        for name in self.phi:
            whole = prefix + name
            if whole not in weights:
                other = type(unwrap(model)).__name__ if isinstance(model, nn.Module) else "this"
                raise InputError(
                    f"this prior belongs to another network: it has {name!r}, {other} has not"
                    f"{_where_else(name, weights)}; for another architecture see transferred()"
                )
            found[name] = weights[whole]
            if names.setdefault(id(weights[whole]), name) != name:
                raise InputError(
                    f"{names[id(weights[whole])]!r} and {name!r} are one weight in the model, phi "
                    "has both: leave one out, else it would be held twice"
                )
        self._expect_shapes(found)
        return list(found.values())

    def _expect_shapes(self, weights: Tensors) -> None:
        """Refuses weights that phi does not stand for at one granularity."""
        stated = self.manifest.get("granularity")
        kinds = [kind for kind in GRANULARITIES if stated in (kind, None)]
        for name, phi in self.phi.items():
            shape = tuple(weights[name].shape)
            kinds = [kind for kind in kinds if tied_shape(shape, kind) == tuple(phi.shape)]
            if not kinds:
                raise InputError(
                    f"this prior belongs to another network: {name!r} is {tuple(phi.shape)} in the "
                    f"prior, {shape} in the model; expected that shape, or "
                    f"{tied_shape(shape, 'filter')} a filter or {tied_shape(shape, 'layer')} a "
                    "layer, the same for every parameter; see transferred()"
                )
            if self.centre is not None and tuple(self.centre[name].shape) != shape:
                raise InputError(
                    f"this prior's centre belongs to another network: {name!r} is "
                    f"{tuple(self.centre[name].shape)} there, {shape} in the model"
                )

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
        return self.penalty_of(dict(zip(self.phi, self.bind(model), strict=True)))

    def penalty_of(self, weights: Tensors) -> Tensor:
        """R over {name: weight} of some of phi's names alone."""
        return weighted_norm(weights, self.phi, self.p, self.centre)

    @torch.no_grad()
    def slope(self, weights: Tensors) -> dict[str, Tensor]:
        """dR/dtheta without phi of {name: weight}, of all of phi's names or of some.

        2 (theta - theta*) for p = 2, sign(theta - theta*) for p = 1.
        """
        offsets = self._offsets(weights)
        if self.p == 2:
            slopes = list(torch._foreach_mul(offsets, 2.0))
        else:
            slopes = [torch.sgn(offset) for offset in offsets]
        return dict(zip(weights, slopes, strict=True))

    def _offsets(self, weights: Tensors) -> list[Tensor]:
        detached = [weight.detach() for weight in weights.values()]
        if self.centre is None or not detached:
            return detached
        around = [self.centre[name].to(weight) for name, weight in weights.items()]
        return list(torch._foreach_sub(detached, around))

    @torch.no_grad()
    def pull_(self, into: list[Tensor], weights: Tensors, factor: float) -> None:
        """into <- into + factor phi dR/dtheta, one tensor each of {name: weight}.

        Into the gradients with factor 1: coupled, the paper's F. Into the weights with -lr:
        decoupled, Eq. 16. For p = 2, where the slope is twice the offset, this is one pass over
        memory.
        """
        if not weights:
            return
        phi = [self.phi[name].to(weight.device) for name, weight in weights.items()]
        if self.p == 2:
            torch._foreach_addcmul_(into, self._offsets(weights), phi, value=2 * factor)
        else:
            slopes = list(self.slope(weights).values())
            torch._foreach_addcmul_(into, slopes, phi, value=factor)

    def attach(
        self,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        model: nn.Module,
        coupled: bool = True,
        prefix: str = "",
    ) -> Attachment:
        """From now on each real step of the optimiser applies this prior to `model`.

        In any training loop: see attachment.Attachment, which says what a step does and what is
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
        from .attachment import Attachment

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
            self._note_noise(tied, beta)

    def track_noise(self) -> Prior:
        """Keeps the spread of single steps while phi is learned; returns self.

        A tensor like phi more, in `noise`, for a checkpoint; two where phi does not begin at 0. See
        `variance` and `signal_to_noise`.
        """
        self.noise = {"count": torch.zeros((), dtype=torch.float64)}
        self.noise |= {f"squares/{name}": torch.zeros_like(phi) for name, phi in self.phi.items()}
        if any(bool(phi.any()) for phi in self.phi.values()):
            self.noise |= {f"start/{name}": phi.clone() for name, phi in self.phi.items()}
        return self

    def _note_noise(self, gradients: Tensors, beta: float) -> None:
        assert self.noise is not None
        squares = [self.noise[f"squares/{name}"] for name in gradients]
        steps = list(gradients.values())
        self.noise["count"] += 1
        torch._foreach_addcmul_(squares, steps, steps, value=beta**2)

    @property
    def variance(self) -> dict[str, Tensor] | None:
        """{name: tensor like phi}: how far the noise of single batches carries phi_i.

        The steps are taken for independent. None where it was not recorded.
        """
        count = float(self.noise["count"]) if self.noise else 0.0
        if self.noise is None or count < 2:
            return self._variance
        found = {}
        for name in self.phi:
            begun, squares = self.noise.get(f"start/{name}", 0.0), self.noise[f"squares/{name}"]
            total = self.phi[name] - begun  # of all steps
            around_mean = (squares - total**2 / count).clamp_min(0)
            found[name] = around_mean * count / (count - 1)
        return found

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
        from . import __version__

        parts = {"phi": self.phi, "centre": self.centre, "variance": self.variance}
        tensors = {
            f"{part}/{name}": tensor.detach().clone()
            for part, held in parts.items()
            for name, tensor in (held or {}).items()
        }
        if not self.phi or not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            found = "a number that is not finite" if self.phi else "no phi at all"
            raise InputError(f"{path}: a prior with {found} is not saved: it could not be loaded")
        record = self.manifest | dict(_expect_mapping("facts", facts or {}))
        record |= {
            "format": FORMAT,
            "p": self.p,
            "versions": {
                "cmkg": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "shapes": {name: list(phi.shape) for name, phi in self.phi.items()},
        }
        try:
            metadata = {"manifest": json.dumps(record, allow_nan=False, sort_keys=True)}
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}: a prior's facts are plain JSON (text, numbers, lists): {error}"
            ) from None
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Prior:
        """Reads what `save` wrote.

        Raises:
            InputError: the file is not a prior; the sentence names it and the field.
        """
        manifest, tensors = read_prior_file(path, device)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else manifest
            raise InputError(
                f"{path}: expected a prior of format {FORMAT}, the file says {found!r}"
            )
        _expect_manifest(manifest, path)
        finite = all(torch.isfinite(tensor).all() for tensor in tensors.values())
        if not finite or not any(name.startswith("phi/") for name in tensors):
            found = "a number that is not finite" if tensors else "none"
            raise InputError(f"{path}: expected finite tensors 'phi/...', found {found}")

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }

        for name, tensor in tensors.items():
            phi = tensors.get(f"phi/{name.partition('/')[2]}")
            is_variance = name.startswith("variance/")
            is_number = tensor.is_floating_point() or (
                tensor.is_complex() and name.startswith("centre/")
            )
            if phi is None or not is_number or (is_variance and tensor.shape != phi.shape):
                raise InputError(f"{path}: tensor {name!r} belongs to no phi of the file")
        centre, variance = part("centre/") or None, part("variance/") or None
        return cls(part("phi/"), manifest["p"], centre, manifest, variance)


def weighted_norm(weights: Tensors, phi: Tensors, p: int, centre: Tensors | None) -> Tensor:
    """R of Eq. 10, a scalar with a graph to the weights, and to phi where it has one."""
    terms = []
    for name, weight in weights.items():
        offset = weight if centre is None else weight - centre[name].to(weight)
        size = offset.abs()
        terms.append((phi[name].to(weight.device) * (size if p == 1 else size * size)).sum())
    return sum(terms[1:], terms[0]) if terms else torch.zeros(())


def read_prior_file(path: PathLike, device: torch.device | str) -> tuple[Any, dict[str, Tensor]]:
    """The manifest and the tensors of a prior's file, of any format.

    Raises:
        InputError: the file is not safetensors, or was changed.
    """
    held = read_tensors(path, "a prior", "get it again")
    text = held.metadata.get("manifest", "{}")
    manifest = parse_json(text.encode(), path, "a prior's manifest", "get it again")
    return manifest, _to_device(held.tensors, device)


def _expect_manifest(manifest: Mapping[str, Any], path: PathLike) -> None:
    """Refuses facts of a prior's file that are not what `save` writes."""
    numbers = manifest.get("weights", {})
    strength = manifest.get("strength", 1.0)
    checks = {
        "p": manifest.get("p") in (1, 2) and not isinstance(manifest["p"], bool),
        "strength": isinstance(strength, (int, float)) and math.isfinite(strength),
        "granularity": manifest.get("granularity", "weight") in GRANULARITIES,
        "select": isinstance(manifest.get("select", ""), str),
        "fingerprint": isinstance(manifest.get("fingerprint", ""), (str, type(None))),
        "weights": isinstance(numbers, dict)
        and all(isinstance(count, int) and count > 0 for count in numbers.values()),
    }
    for field, is_good in checks.items():
        if not is_good:
            expected = "1 or 2" if field == "p" else "what Prior.save writes"
            raise InputError(
                f"{path}: field {field!r} of the manifest: expected {expected}, found "
                f"{manifest.get(field)!r:.60}"
            )


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


def _where_else(name: str, weights: Tensors) -> str:
    """A hint where the model has the name behind a prefix."""
    for other in weights:
        if other.endswith(f".{name}"):
            return f" (it has {other!r}: give prefix={other.removesuffix(name)!r})"
    return ""


# ---- which parameters, which weights -------------------------------------------------------------
def select_parameters(model: nn.Module, select: Select) -> dict[str, nn.Parameter]:
    """{name: parameter} that carry phi, of those that are trained.

    Args:
        model: the network.
        select: "weights" (see is_weight), "all", or a function of name and tensor.

    Raises:
        InputError: another `select`.
    """
    if not callable(select) and select not in ("weights", "all"):
        raise InputError(
            'which parameters carry phi: select is "weights", "all" or a function of name and '
            f"tensor, got {select!r}"
        )

    owners = dict(unwrap(model).named_modules())

    def is_selected(name: str, parameter: Tensor) -> bool:
        if callable(select):
            return bool(select(name, parameter))
        return select == "all" or is_weight(name, parameter, owners.get(name.rpartition(".")[0]))

    return {
        name: parameter
        for name, parameter in named_weights(model).items()
        if parameter.requires_grad and is_selected(name, parameter)
    }


LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Embedding,
    nn.EmbeddingBag,
)  # whose tensors of two dimensions are weights, whatever their sizes
TOKENS = ("cls_token", "class_token", "class_embedding", "mask_token", "register_token")
POSITIONS = {"pos", "position", "positions", "positional", "wpe", "pe"}  # words of a name
TABLES = ("emb", "enc", "table")
MAGNITUDES = ("weight_g", "original0")  # weight norm's g, old and new


def is_weight(name: str, tensor: Tensor, owner: nn.Module | None = None) -> bool:
    """Whether a parameter is a weight: of connections, not of a unit, a token or a position.

    Tensors of two or more dimensions, but for biases (also tables of them), weight norm's
    magnitudes, class tokens, position embeddings, and scales of channels (C, 1, 1).

    Args:
        name: dotted.
        tensor: the parameter.
        owner: the module that holds it, where that is known.

    >>> [is_weight(name, torch.ones(1, 5, 3)) for name in ("qkv.weight", "cls_token")]
    [True, False]
    """
    *path, leaf = name.lower().split(".")
    if tensor.dim() < 2 or "bias" in leaf or leaf in MAGNITUDES:
        return False
    if isinstance(owner, LAYERS) and not isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        return True
    if tensor.dim() <= 3 and any(map(_is_place, (*path, leaf))):
        return False
    if isinstance(owner, LAYERS) or (owner is None and leaf.startswith("weight")):
        return True
    if sum(size > 1 for size in tensor.shape) < 2:
        return leaf.startswith(("weight", "original1")) and tensor.dim() == 2
    return not (tensor.dim() == 3 and len(tensor) == 1)  # (1, N, C): tokens, the same for all


def _is_place(part: str) -> bool:
    """Whether a part of a name is that of a token, or of a table of positions."""
    if part in POSITIONS or any(word in part for word in TOKENS):
        return True
    return bool(POSITIONS & set(part.split("_"))) and any(word in part for word in TABLES)


def _is_statistic(name: str) -> bool:
    leaf = name.rpartition(".")[2]
    return leaf in STATISTICS or leaf.startswith("running_")


def fingerprint(model_or_tensors: nn.Module | Tensors) -> str:
    """SHA-256 over names, shapes and values of all parameters: which theta_0 this is.

    The order of names does not matter, nor do BatchNorm's running statistics in a state_dict.
    """
    named = without_prefix(as_weights(model_or_tensors))
    digest = hashlib.sha256()
    for name in sorted(named):
        tensor = named[name].detach()
        if name.rpartition(".")[2] in STATISTICS:
            continue
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        digest.update(values.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
