"""The prior phi: one number per weight that says how strongly the target's training holds it.

Eq. 10: R(theta; phi) = sum_i phi_i |theta_i - theta*_i|^p with p = 1 or 2; the paper's centre
theta* is zero.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import InputError
from .modules import unwrap
from .runtime.files import PathLike, write_atomically

FORMAT = "cmkg-prior/1"
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
        phi: {parameter name: float32 tensor of the parameter's shape, or of one that broadcasts to
            it (see `tied_shape`)}.
        p: 1 or 2.
        centre: None (zero) or {name: tensor} of the same names.
        manifest: what is known of its making: alpha, beta, units of the loss, source, fingerprint
            of theta_0.
        variance: None, or {name: tensor} like phi; see the property.

    Raises:
        InputError: another exponent.
    """

    def __init__(
        self,
        phi: Tensors,
        p: int = 2,
        centre: Tensors | None = None,
        manifest: Mapping[str, Any] | None = None,
        variance: Tensors | None = None,
    ) -> None:
        if p not in (1, 2):
            raise InputError(f"a prior's exponent p is 1 or 2, got {p!r}")
        self.phi = dict(phi)
        self.p = p
        self.centre = dict(centre) if centre else None
        self.manifest = dict(manifest or {})
        self.noise: dict[str, Tensor] | None = None
        self._variance = dict(variance) if variance else None

    # ---- making one ------------------------------------------------------------------------------
    @classmethod
    def constant(
        cls,
        model: nn.Module,
        value: float = 0.0,
        p: int = 2,
        which: str = "weights",
        centre: Tensors | None = None,
        granularity: str = "weight",
        **manifest: Any,
    ) -> Prior:
        """phi_i = value: 0 to be learned, sigma for plain l1 and l2, with a centre L2-SP.

        Args:
            model: whose parameters carry phi.
            value: of every phi_i.
            p: the exponent, 1 or 2.
            which: "weights" (tensors of two or more dimensions: no biases, no normalisation) or
                "all".
            centre: theta*, {name: tensor}; None is zero.
            granularity: one number a "weight", an output "filter" or a "layer".
            manifest: further facts.

        Raises:
            InputError: another `which`, `granularity` or `p`.
        """
        phi = {}
        for name, parameter in select_parameters(model, which).items():
            shape = tied_shape(parameter.shape, granularity)
            phi[name] = torch.full(shape, float(value), device=parameter.device)
        if centre is not None:
            centre = {name: centre[name].detach().clone() for name in phi}
        facts = {
            "architecture": type(unwrap(model)).__name__,
            "which": which,
            "granularity": granularity,
            "fingerprint": fingerprint(model),
        }
        return cls(phi, p, centre, facts | manifest)

    @classmethod
    def from_checkpoints(
        cls, theta_0: Tensors, theta_k: Tensors, beta: float, **manifest: Any
    ) -> Prior:
        """phi = -beta (theta_K^2 - theta_0^2), of the weights of two checkpoints.

        This is what the meta-learned prior is to first order under SGD, where the sum over its
        steps telescopes.

        Args:
            theta_0, theta_k: {name: tensor} of the earlier and the later checkpoint.
            beta: the step of phi that it stands for.
            manifest: further facts.
        """
        phi = {
            name: -beta * (end.float() ** 2 - theta_0[name].float() ** 2)
            for name, end in theta_k.items()
            if end.dim() >= 2
        }
        facts = {"family": "two checkpoints", "which": "weights", "beta": beta}
        return cls(phi, 2, None, facts | manifest)

    def _like(self, phi: Tensors, **changes: Any) -> Prior:
        return Prior(phi, self.p, self.centre, self.manifest | changes)

    def _mapped(self, change: Callable[[Tensor], Tensor], **facts: Any) -> Prior:
        return self._like({name: change(phi) for name, phi in self.phi.items()}, **facts)

    def permuted(self, seed: int) -> Prior:
        """The control: phi shuffled within each layer.

        Keeps every layer's statistics and loses which weight is which.
        """
        generator = torch.Generator().manual_seed(seed)

        def shuffle(phi: Tensor) -> Tensor:
            order = torch.randperm(phi.numel(), generator=generator).to(phi.device)
            return phi.flatten()[order].view_as(phi)

        return self._mapped(shuffle, permuted=seed)

    def layer_mean(self) -> Prior:
        """The control: each layer's phi replaced by its mean.

        Keeps how strongly each layer is held and loses all else.
        """
        return self._mapped(lambda phi: phi.mean().expand_as(phi).clone(), layer_mean=True)

    def scaled(self, strength: float) -> Prior:
        """phi times one number; the manifest's "strength" is the product of all such."""
        whole = strength * float(self.manifest.get("strength", 1.0))
        return self._mapped(lambda phi: strength * phi, strength=whole)

    def rms(self) -> float:
        """Root mean square of phi over all parameters."""
        total = sum(float(phi.double().square().sum()) for phi in self.phi.values())
        return (total / sum(phi.numel() for phi in self.phi.values())) ** 0.5

    def with_rms(self, rms: float) -> Prior:
        """phi scaled to the root mean square `rms`: the strength, free of phi's units.

        Raises:
            InputError: phi is zero everywhere.
        """
        if self.rms() == 0:
            raise InputError(
                "this prior is zero everywhere: expected one that was learned; distil for longer"
            )
        return self.scaled(rms / self.rms())

    def to(self, device: torch.device | str) -> Prior:
        """Moves phi, its centre and its variance to the device; returns self."""
        self.phi = _to_device(self.phi, device)
        self.centre = self.centre and _to_device(self.centre, device)
        self._variance = self._variance and _to_device(self._variance, device)
        return self

    def floored(self, lowest: float = 0.0) -> Prior:
        """phi with values below `lowest` raised to it: at 0 no weight grows on the target."""
        return self._mapped(lambda phi: phi.clamp_min(lowest), floor=lowest)

    def centred(self, centre: Tensors) -> Prior:
        """The same phi around other weights theta*: {name: tensor}."""
        prior = self._like(self.phi, centre="given")
        prior.centre = {name: centre[name].detach().clone() for name in self.phi}
        return prior

    # ---- using one -------------------------------------------------------------------------------
    def bind(self, model: nn.Module) -> list[Tensor]:
        """The model's parameters in phi's order.

        Raises:
            InputError: the architecture differs; the sentence names the parameter.
        """
        parameters = dict(unwrap(model).named_parameters())
        other = "this prior belongs to another network"
        for name, phi in self.phi.items():
            if name not in parameters:
                raise InputError(f"{other}: it has {name!r}, {type(model).__name__} has not")
            shape = tuple(parameters[name].shape)
            tied = len(shape) == phi.dim() and all(
                mine in (1, theirs) for mine, theirs in zip(phi.shape, shape, strict=True)
            )
            if not tied:
                raise InputError(
                    f"{other}: {name!r} is {tuple(phi.shape)} in the prior, {shape} in "
                    f"{type(model).__name__}"
                )
        return [parameters[name] for name in self.phi]

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

    def _offsets(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        detached = [parameter.detach() for parameter in parameters]
        if self.centre is None:
            return detached
        return list(torch._foreach_sub(detached, list(self.centre.values())))

    def penalty(self, model: nn.Module) -> Tensor:
        """R(theta; phi) of Eq. 10, a scalar with a graph to theta."""
        total = torch.zeros(())
        for name, parameter in zip(self.phi, self.bind(model), strict=True):
            offset = parameter - self.centre[name] if self.centre else parameter
            total = total + (self.phi[name] * offset.abs() ** self.p).sum()
        return total

    @torch.no_grad()
    def slope(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """dR/dtheta without phi, one tensor a parameter.

        2 (theta - theta*) for p = 2, sign(theta - theta*) for p = 1.
        """
        offsets = self._offsets(parameters)
        if self.p == 2:
            return list(torch._foreach_mul(offsets, 2.0))
        return list(torch._foreach_sign(offsets))

    @torch.no_grad()
    def add_to_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Coupled (the paper's F): adds dR/dtheta to each parameter's .grad.

        The optimiser then rescales it with the loss's gradient.
        """
        self._pull([parameter.grad for parameter in parameters], parameters, 1.0)

    @torch.no_grad()
    def decay_(self, parameters: list[Tensor], lr: float) -> None:
        """Decoupled (Eq. 16, AdamW's way): theta <- theta - lr phi dR/dtheta."""
        self._pull(parameters, parameters, -lr)

    def _pull(self, into: list[Any], parameters: Sequence[Tensor], factor: float) -> None:
        """into <- into + factor phi dR/dtheta.

        For p = 2, where the slope is twice the offset, this is one pass over memory.
        """
        phi = list(self.phi.values())
        if self.p == 2:
            torch._foreach_addcmul_(into, self._offsets(parameters), phi, value=2 * factor)
        else:
            torch._foreach_addcmul_(into, self.slope(parameters), phi, value=factor)

    def attach(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, coupled: bool = True
    ) -> Callable[[], None]:
        """From now on each `optimizer.step()` applies this prior to `model`.

        Works around any torch optimiser in any training loop; with a closure, as Lightning gives
        one, at each of its calls.

        Args:
            optimizer: whose steps apply it.
            model: whose parameters it holds.
            coupled: R's gradient is added to the loss's (the paper's F); else the weights shrink by
                themselves (Eq. 16), with the first group's learning rate.

        Returns:
            A function that takes the prior off again.
        """
        held = self.bind(model)

        def pull(optimizer: torch.optim.Optimizer) -> None:
            if not coupled:
                self.decay_(held, optimizer.param_groups[0]["lr"])
                return
            for parameter in held:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.add_to_gradients(held)

        def before(
            optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0]: the optimiser
            if closure is None:
                pull(optimizer)
                return None

            def with_pull() -> Any:  # the closure computes the gradients: R's are added after it
                loss = closure()
                pull(optimizer)
                return loss

            others = {name: value for name, value in kwargs.items() if name != "closure"}
            return (args[0], with_pull, *args[2:]), others

        return optimizer.register_step_pre_hook(before).remove

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
    def learn_(self, gradients: Sequence[Tensor], beta: float, unit_free: bool = False) -> None:
        """phi <- phi - beta dG/dphi, plain SGD as in the paper.

        Where phi is tied, its gradient is the sum over the weights that share it.

        Args:
            gradients: dG/dphi of all weights, in phi's order.
            beta: the step.
            unit_free: each layer's gradient is divided by its root mean square, so that phi does
                not depend on the loss's unit; beta is then a decay a step.
        """
        phi = list(self.phi.values())
        tied = [
            gradient if gradient.shape == one.shape else gradient.sum_to_size(one.shape)
            for gradient, one in zip(gradients, phi, strict=True)
        ]
        if unit_free:
            tied = [one / one.square().mean().sqrt().clamp_min(1e-30) for one in tied]
        torch._foreach_add_(phi, tied, alpha=-beta)
        if self.noise is not None:
            self._note_noise(tied, beta)

    def track_noise(self) -> Prior:
        """Keeps the spread of single steps while phi is learned; returns self.

        Two tensors like phi more, in `noise`, for a checkpoint. See `variance` and
        `signal_to_noise`.
        """
        self.noise = {"count": torch.zeros((), dtype=torch.float64)}
        for what in ("sum", "squares"):
            self.noise |= {f"{what}/{n}": torch.zeros_like(t) for n, t in self.phi.items()}
        return self

    def _note_noise(self, gradients: list[Tensor], beta: float) -> None:
        assert self.noise is not None
        sums = [self.noise[f"sum/{name}"] for name in self.phi]
        squares = [self.noise[f"squares/{name}"] for name in self.phi]
        self.noise["count"] += 1
        torch._foreach_add_(sums, gradients, alpha=beta)
        torch._foreach_addcmul_(squares, gradients, gradients, value=beta**2)

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
            total, squares = self.noise[f"sum/{name}"], self.noise[f"squares/{name}"]
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
    def save(self, path: PathLike, **manifest: Any) -> None:
        """Writes phi, its centre, its variance and the manifest as safetensors, atomically."""
        from . import __version__

        parts = {"phi": self.phi, "centre": self.centre, "variance": self.variance}
        tensors = {
            f"{part}/{name}": tensor.contiguous()
            for part, held in parts.items()
            for name, tensor in (held or {}).items()
        }
        versions = {
            "cmkg": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        record = {"format": FORMAT, "p": self.p, "versions": versions} | self.manifest | manifest
        record["shapes"] = {name: list(phi.shape) for name, phi in self.phi.items()}
        metadata = {"manifest": json.dumps(record)}
        write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Prior:
        """Reads what `save` wrote.

        Raises:
            InputError: the file is not a prior; the sentence names it and the field.
        """
        manifest, tensors = _read_safetensors(path, device)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else manifest
            raise InputError(
                f"{path}: expected a prior of format {FORMAT}, the file says {found!r}"
            )
        if manifest.get("p") not in (1, 2):
            raise InputError(
                f"{path}: field 'p' of the manifest: expected 1 or 2, found {manifest.get('p')!r}"
            )
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

        centre, variance = part("centre/") or None, part("variance/") or None
        return cls(part("phi/"), manifest["p"], centre, manifest, variance)


def _read_safetensors(path: PathLike, device: torch.device | str) -> tuple[Any, dict[str, Tensor]]:
    """The manifest and the tensors of a file."""
    try:
        with safe_open(Path(path), framework="pt", device=str(device)) as file:
            manifest = json.loads((file.metadata() or {}).get("manifest", "{}"))
            names = list(file.keys())
            return manifest, {name: file.get_tensor(name) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{path}: expected a prior (safetensors), could not read it: {error}"
        ) from error


def _to_device(tensors: Tensors, device: torch.device | str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


# ---- which parameters, which weights -------------------------------------------------------------
def select_parameters(model: nn.Module, which: str) -> dict[str, nn.Parameter]:
    """{name: parameter} that carry phi.

    Args:
        model: the network.
        which: "weights" (tensors of two or more dimensions) or "all".

    Raises:
        InputError: another `which`.
    """
    if which not in ("weights", "all"):
        raise InputError(f'which parameters carry phi is "weights" or "all", got {which!r}')
    return {
        name: parameter
        for name, parameter in unwrap(model).named_parameters()
        if parameter.requires_grad and (which == "all" or parameter.dim() >= 2)
    }


def fingerprint(model_or_tensors: nn.Module | Tensors) -> str:
    """SHA-256 over names, shapes and values of all parameters: which theta_0 this is."""
    if isinstance(model_or_tensors, nn.Module):
        named: Tensors = dict(unwrap(model_or_tensors).named_parameters())
    else:
        named = model_or_tensors
    digest = hashlib.sha256()
    for name, tensor in named.items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
