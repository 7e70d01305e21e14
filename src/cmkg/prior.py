"""The prior phi: one number per weight that says how strongly the target's training holds that
weight.

Eq. 10: R(theta; phi) = sum_i phi_i |theta_i - theta*_i|^p with p = 1 or 2; the paper's centre
theta* is zero.
"""

import hashlib
import json
import platform
import warnings

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .engine import write_atomically
from .errors import InputError

FORMAT = "cmkg-prior/1"
GRANULARITIES = ("weight", "filter", "layer")


def tied_shape(shape, granularity):
    """Shape of phi for a parameter of `shape`: its own, one number an output filter, or one number
    a layer.

    >>> tied_shape((8, 3, 5, 5), "filter"), tied_shape((8, 3, 5, 5), "layer")
    ((8, 1, 1, 1), (1, 1, 1, 1))
    """
    if granularity not in GRANULARITIES:
        raise InputError(
            f"a prior's granularity is one of {', '.join(GRANULARITIES)}, got {granularity!r}"
        )
    keep = {"weight": len(shape), "filter": 1, "layer": 0}[granularity]
    return (*shape[:keep], *(1 for _ in shape[keep:]))


class Prior:
    """phi with its exponent and centre, bound by name to the parameters of one architecture.

    phi: {parameter name: float32 tensor of the parameter's shape, or of one that broadcasts to
    it (see tied_shape)} p: 1 or 2 centre: None (zero) or {name: tensor} of the same names
    manifest: what is known of its making (alpha, beta, units of the loss, source, fingerprint of
    theta_0, ...) variance: None, or {name: tensor} like phi; see the property
    """

    def __init__(self, phi, p=2, centre=None, manifest=None, variance=None):
        if p not in (1, 2):
            raise InputError(f"a prior's exponent p is 1 or 2, got {p!r}")
        self.phi, self.p, self.centre, self.manifest = phi, p, centre, dict(manifest or {})
        self._variance, self.noise = variance, None

    # ---- making one ------------------------------------------------------------------------------
    @classmethod
    def constant(
        cls, model, value=0.0, p=2, which="weights", centre=None, granularity="weight", **manifest
    ):
        """phi_i = value for the chosen parameters: 0 to be learned, sigma for plain l1 / l2, with a
        centre L2-SP.

        which: "weights" (tensors of two or more dimensions; no biases, no normalisation) or
        "all". granularity: one number a "weight", an output "filter" or a "layer".
        """
        chosen = choose(model, which)
        phi = {
            n: torch.full(tied_shape(t.shape, granularity), float(value), device=t.device)
            for n, t in chosen.items()
        }
        if centre is not None:
            centre = {n: centre[n].detach().clone() for n in phi}
        facts = {
            "architecture": type(plain(model)).__name__,
            "which": which,
            "granularity": granularity,
            "fingerprint": fingerprint(model),
        }
        return cls(phi, p, centre, facts | manifest)

    @classmethod
    def from_checkpoints(cls, theta_0, theta_k, beta, **manifest):
        """The prior of two checkpoints: phi = -beta (theta_K^2 - theta_0^2), what the meta-
        learned one is to first order under SGD (the sum over its steps telescopes). theta_0,
        theta_k: {name: tensor}, weights only."""
        phi = {
            n: -beta * (theta_k[n].float() ** 2 - theta_0[n].float() ** 2)
            for n in theta_k
            if theta_k[n].dim() >= 2
        }
        return cls(
            phi, 2, None, {"family": "two checkpoints", "which": "weights", "beta": beta} | manifest
        )

    def _like(self, phi, **changes):
        return Prior(phi, self.p, self.centre, self.manifest | changes)

    def permuted(self, seed):
        """The control: phi shuffled within each layer. Keeps every layer's statistics, loses
        which weight is which."""
        generator = torch.Generator().manual_seed(seed)

        def shuffle(t):
            return t.flatten()[torch.randperm(t.numel(), generator=generator).to(t.device)].view_as(
                t
            )

        return self._like({n: shuffle(t) for n, t in self.phi.items()}, permuted=seed)

    def layer_mean(self):
        """The control: each layer's phi replaced by its mean. Keeps how strongly layers are
        held, loses all else."""
        return self._like(
            {n: t.mean().expand_as(t).clone() for n, t in self.phi.items()}, layer_mean=True
        )

    def scaled(self, strength):
        """phi times one number, `prior_strength`."""
        return self._like({n: strength * t for n, t in self.phi.items()}, strength=strength)

    def rms(self):
        """Root mean square of phi over all parameters."""
        total = sum(float(t.double().square().sum()) for t in self.phi.values())
        return (total / sum(t.numel() for t in self.phi.values())) ** 0.5

    def with_rms(self, rms):
        """phi scaled to the root mean square `rms`: the strength, free of the units phi was
        learned in."""
        if self.rms() == 0:
            raise InputError(
                "this prior is zero everywhere: expected one that was learned; distil for longer"
            )
        return self.scaled(rms / self.rms())

    def to(self, device):
        """Moves phi and the centre; returns self."""
        self.phi = {n: t.to(device) for n, t in self.phi.items()}
        self.centre = self.centre and {n: t.to(device) for n, t in self.centre.items()}
        self._variance = self._variance and {n: t.to(device) for n, t in self._variance.items()}
        return self

    def floored(self, lowest=0.0):
        """phi with values below `lowest` raised to it: no weight grows on the target."""
        return self._like({n: t.clamp_min(lowest) for n, t in self.phi.items()}, floor=lowest)

    def centred(self, centre):
        """The same phi around other weights theta*: {name: tensor}."""
        prior = self._like(self.phi, centre="given")
        prior.centre = {n: centre[n].detach().clone() for n in self.phi}
        return prior

    # ---- using one -------------------------------------------------------------------------------
    def bind(self, model):
        """The model's parameters in phi's order. Raises InputError by name where the
        architecture differs."""
        parameters = dict(plain(model).named_parameters())
        for name, phi in self.phi.items():
            if name not in parameters:
                raise InputError(
                    f"this prior belongs to another network: it has {name!r}, "
                    f"{type(model).__name__} has not"
                )
            if phi.dim() != parameters[name].dim() or any(
                p not in (1, s) for p, s in zip(phi.shape, parameters[name].shape, strict=False)
            ):
                raise InputError(
                    f"this prior belongs to another network: {name!r} is {tuple(phi.shape)} in "
                    "the prior, "
                    f"{tuple(parameters[name].shape)} in {type(model).__name__}"
                )
        return [parameters[n] for n in self.phi]

    def check_start(self, model):
        """Warns when `model` does not hold the theta_0 that phi was learned from: phi belongs to
        single weights."""
        expected = self.manifest.get("fingerprint")
        if expected and expected != fingerprint(model):
            warnings.warn(
                "this prior was learned from another initialisation: hidden units can be "
                "permuted between two, "
                "so phi is only noise with the right layer statistics here; start from the "
                "same theta_0",
                stacklevel=2,
            )

    def _offsets(self, parameters):
        if self.centre is None:
            return [t.detach() for t in parameters]
        return torch._foreach_sub([t.detach() for t in parameters], list(self.centre.values()))

    def penalty(self, model):
        """R(theta; phi) of Eq. 10, a scalar with a graph to theta."""
        centres = self.centre or dict.fromkeys(self.phi, 0.0)
        pairs = zip(self.bind(model), self.phi.values(), centres.values(), strict=True)
        return sum((phi * (t - c).abs() ** self.p).sum() for t, phi, c in pairs)

    @torch.no_grad()
    def slope(self, parameters):
        """dR/dtheta without phi: 2 (theta - theta*) for p = 2, sign(theta - theta*) for p = 1;
        list of tensors."""
        offsets = self._offsets(parameters)
        return torch._foreach_mul(offsets, 2.0) if self.p == 2 else torch._foreach_sign(offsets)

    @torch.no_grad()
    def add_to_gradients(self, parameters):
        """Coupled (the paper's F): adds dR/dtheta to each parameter's .grad, which the optimiser
        then rescales."""
        self._pull([t.grad for t in parameters], parameters, 1.0)

    @torch.no_grad()
    def decay_(self, parameters, lr):
        """Decoupled (Eq. 16, AdamW's way): theta <- theta - lr phi dR/dtheta, beside the
        optimiser's step."""
        self._pull(parameters, parameters, -lr)

    def _pull(self, into, parameters, factor):
        """into <- into + factor phi dR/dtheta: one pass over memory for p = 2, where the slope
        is twice the offset."""
        offsets, scale = (
            (self._offsets(parameters), 2 * factor)
            if self.p == 2
            else (self.slope(parameters), factor)
        )
        torch._foreach_addcmul_(into, offsets, list(self.phi.values()), value=scale)

    def attach(self, optimizer, model, coupled=True):
        """From now on each `optimizer.step()` applies this prior to `model`: any torch optimiser,
        any training loop.

        coupled: R's gradient is added to the loss's (the paper's F); else the weights shrink by
        themselves (Eq. 16, AdamW's way, with the first group's learning rate). With a closure,
        as Lightning gives, at each of its calls. Returns a function that takes the prior off
        again.
        """
        held = self.bind(model)

        def pull(optimizer):
            if not coupled:
                return self.decay_(held, optimizer.param_groups[0]["lr"])
            for t in held:
                t.grad = torch.zeros_like(t) if t.grad is None else t.grad
            return self.add_to_gradients(held)

        def before(optimizer, args, kwargs):  # args[0] is the optimiser itself
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if closure is None:
                return pull(optimizer)

            def closed():  # computes the gradients: what was added before it would be lost
                loss = closure()
                pull(optimizer)
                return loss

            return (args[0], closed, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

        return optimizer.register_step_pre_hook(before).remove

    def growth(self, lr):
        """{name: largest factor by which a decoupled step of rate lr changes a weight}; over 1
        where phi is negative."""
        return {n: 1 - 2 * lr * float(t.min()) for n, t in self.phi.items()}

    def limited(self, lr, steps, factor=2.0):
        """phi raised where needed, so that `steps` decoupled steps of rate lr grow no weight by
        more than `factor`."""
        return self.floored(-(factor ** (1 / steps) - 1) / (2 * lr))

    @torch.no_grad()
    def learn_(self, gradients, beta, unit_free=False):
        """phi <- phi - beta dG/dphi, plain SGD as in the paper; gradients of all weights, in phi's
        order.

        Where phi is tied, its gradient is the sum over the weights that share it. unit_free:
        each layer's gradient is divided by its root mean square, so that phi does not depend on
        the loss's unit (beta is then a decay a step).
        """
        phi = list(self.phi.values())
        gradients = [
            g if g.shape == t.shape else g.sum_to_size(t.shape)
            for g, t in zip(gradients, phi, strict=True)
        ]
        if unit_free:
            gradients = [g / g.square().mean().sqrt().clamp_min(1e-30) for g in gradients]
        torch._foreach_add_(phi, gradients, alpha=-beta)
        if self.noise is not None:
            self._note(gradients, beta)

    def track_noise(self):
        """Keeps, while phi is learned, the spread of its single steps; see `variance` and
        `signal_to_noise`.

        Two tensors like phi more. `noise` holds them, for a checkpoint."""

        def zeros(what):
            return {f"{what}/{n}": torch.zeros_like(t) for n, t in self.phi.items()}

        self.noise = {
            "count": torch.zeros((), dtype=torch.float64),
            **zeros("sum"),
            **zeros("squares"),
        }
        return self

    def _note(self, gradients, beta):
        def of(what):
            return [self.noise[f"{what}/{n}"] for n in self.phi]

        self.noise["count"] += 1
        torch._foreach_add_(of("sum"), gradients, alpha=beta)
        torch._foreach_addcmul_(of("squares"), gradients, gradients, value=beta**2)

    @property
    def variance(self):
        """{name: tensor like phi}: how far the noise of single batches carries phi_i, the steps
        being independent; None where it was not recorded."""
        n = float(self.noise["count"]) if self.noise else 0.0
        if n < 2:
            return self._variance

        def of(what, name):
            return self.noise[f"{what}/{name}"]

        return {
            k: (of("squares", k) - of("sum", k) ** 2 / n).clamp_min(0) * n / (n - 1)
            for k in self.phi
        }

    def signal_to_noise(self):
        """{name: rms of phi over the rms of its noise}: about 1 where phi is a random walk.
        Needs track_noise()."""
        variance = self.variance
        if variance is None:
            raise InputError(
                "this prior has no record of its noise: expected one learned after track_noise()"
            )

        def rms(t):
            return float(t.double().square().mean().sqrt())

        return {n: rms(t) / max(rms(variance[n].sqrt()), 1e-30) for n, t in self.phi.items()}

    def quantiles(self):
        """{name: {min, q10, median, q90, max}} of phi, for the log."""
        q = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
        names = ("min", "q10", "median", "q90", "max")
        every = max(1, max(t.numel() for t in self.phi.values()) // 100_000)
        return {
            n: dict(
                zip(
                    names,
                    torch.quantile(t.flatten()[::every].double().cpu(), q).tolist(),
                    strict=True,
                )
            )
            for n, t in self.phi.items()
        }

    # ---- keeping one -----------------------------------------------------------------------------
    def save(self, path, **manifest):
        """Writes phi, its centre and the manifest as safetensors; to a temporary name, then
        renamed."""
        from . import __version__

        tensors = {f"phi/{n}": t.contiguous() for n, t in self.phi.items()}
        tensors |= {f"centre/{n}": t.contiguous() for n, t in (self.centre or {}).items()}
        tensors |= {f"variance/{n}": t.contiguous() for n, t in (self.variance or {}).items()}
        versions = {
            "cmkg": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        record = {"format": FORMAT, "p": self.p, "versions": versions} | self.manifest | manifest
        record["shapes"] = {n: list(t.shape) for n, t in self.phi.items()}
        write_atomically(
            path,
            lambda partial: save_file(tensors, partial, metadata={"manifest": json.dumps(record)}),
        )

    @classmethod
    def load(cls, path, device="cpu"):
        """Reads what `save` wrote. Raises InputError naming the file when it is not a prior."""
        try:
            with safe_open(path, framework="pt", device=str(device)) as f:
                manifest = json.loads((f.metadata() or {}).get("manifest", "{}"))
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:
            raise InputError(
                f"{path}: expected a prior (safetensors), could not read it: {error}"
            ) from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else manifest
            raise InputError(
                f"{path}: expected a prior of format {FORMAT}, the file says {found!r}"
            )
        if manifest.get("p") not in (1, 2):
            raise InputError(
                f"{path}: field 'p' of the manifest: expected 1 or 2, found {manifest.get('p')!r}"
            )
        if not any(k.startswith("phi/") for k in tensors) or not all(
            torch.isfinite(t).all() for t in tensors.values()
        ):
            raise InputError(
                f"{path}: expected finite tensors 'phi/...', found "
                f"{'a number that is not finite' if tensors else 'none'}"
            )

        def part(prefix):
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        return cls(
            part("phi/"),
            manifest["p"],
            part("centre/") or None,
            manifest,
            part("variance/") or None,
        )


def choose(model, which):
    """{name: parameter} that carry phi: "weights" or "all"."""
    if which not in ("weights", "all"):
        raise InputError(f'which parameters carry phi is "weights" or "all", got {which!r}')
    return {
        n: t
        for n, t in plain(model).named_parameters()
        if t.requires_grad and (which == "all" or t.dim() >= 2)
    }


def plain(model):
    """The module inside torch.compile's wrapper, whose parameters have their own names."""
    return getattr(model, "_orig_mod", model)


def fingerprint(model_or_tensors):
    """SHA-256 over names, shapes and values of all parameters: which theta_0 this is."""
    named = (
        model_or_tensors.items()
        if isinstance(model_or_tensors, dict)
        else plain(model_or_tensors).named_parameters()
    )
    digest = hashlib.sha256()
    for name, t in named:
        digest.update(f"{name}{tuple(t.shape)}".encode())
        digest.update(t.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
