"""The prior phi: one number per weight that says how strongly the target's training holds that weight.

Eq. 10: R(theta; phi) = sum_i phi_i |theta_i - theta*_i|^p with p = 1 or 2; the paper's centre theta* is zero.
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


class Prior:
    """phi with its exponent and centre, bound by name to the parameters of one architecture.

    phi: {parameter name: float32 tensor of the parameter's shape}
    p: 1 or 2
    centre: None (zero) or {name: tensor} of the same names
    manifest: what is known of its making (alpha, beta, units of the loss, source, fingerprint of theta_0, ...)
    """

    def __init__(self, phi, p=2, centre=None, manifest=None):
        if p not in (1, 2):
            raise InputError(f"a prior's exponent p is 1 or 2, got {p!r}")
        self.phi, self.p, self.centre, self.manifest = phi, p, centre, dict(manifest or {})

    # ---- making one ---------------------------------------------------------------------------------------------
    @classmethod
    def constant(cls, model, value=0.0, p=2, which="weights", centre=None, **manifest):
        """phi_i = value for the chosen parameters: 0 to be learned, sigma for plain l1 / l2, with a centre L2-SP.

        which: "weights" (tensors of two or more dimensions; no biases, no normalisation) or "all".
        """
        chosen = choose(model, which)
        phi = {n: torch.full_like(t, value, dtype=torch.float32) for n, t in chosen.items()}
        if centre is not None:
            centre = {n: centre[n].detach().clone() for n in phi}
        facts = {"architecture": type(model).__name__, "which": which, "fingerprint": fingerprint(model)}
        return cls(phi, p, centre, facts | manifest)

    @classmethod
    def from_checkpoints(cls, theta_0, theta_k, beta, **manifest):
        """The prior of two checkpoints: phi = -beta (theta_K^2 - theta_0^2), what the meta-learned one is to first
        order under SGD (the sum over its steps telescopes). theta_0, theta_k: {name: tensor}, weights only."""
        phi = {n: -beta * (theta_k[n].float() ** 2 - theta_0[n].float() ** 2) for n in theta_k if theta_k[n].dim() >= 2}
        return cls(phi, 2, None, {"family": "two checkpoints", "beta": beta} | manifest)

    def _like(self, phi, **changes):
        return Prior(phi, self.p, self.centre, self.manifest | changes)

    def permuted(self, seed):
        """The control: phi shuffled within each layer. Keeps every layer's statistics, loses which weight is which."""
        generator = torch.Generator().manual_seed(seed)
        shuffle = lambda t: t.flatten()[torch.randperm(t.numel(), generator=generator).to(t.device)].view_as(t)
        return self._like({n: shuffle(t) for n, t in self.phi.items()}, permuted=seed)

    def scaled(self, strength):
        """phi times one number, `prior_strength`."""
        return self._like({n: strength * t for n, t in self.phi.items()}, strength=strength)

    def rms(self):
        """Root mean square of phi over all parameters."""
        total = sum(float(t.double().square().sum()) for t in self.phi.values())
        return (total / sum(t.numel() for t in self.phi.values())) ** 0.5

    def with_rms(self, rms):
        """phi scaled to the root mean square `rms`: the strength, free of the units phi was learned in."""
        if self.rms() == 0:
            raise InputError("this prior is zero everywhere: expected one that was learned; distil for longer")
        return self.scaled(rms / self.rms())

    def to(self, device):
        """Moves phi and the centre; returns self."""
        self.phi = {n: t.to(device) for n, t in self.phi.items()}
        self.centre = self.centre and {n: t.to(device) for n, t in self.centre.items()}
        return self

    def floored(self, lowest=0.0):
        """phi with values below `lowest` raised to it: no weight grows on the target."""
        return self._like({n: t.clamp_min(lowest) for n, t in self.phi.items()}, floor=lowest)

    def centred(self, centre):
        """The same phi around other weights theta*: {name: tensor}."""
        prior = self._like(self.phi, centre="given")
        prior.centre = {n: centre[n].detach().clone() for n in self.phi}
        return prior

    # ---- using one ----------------------------------------------------------------------------------------------
    def bind(self, model):
        """The model's parameters in phi's order. Raises InputError by name where the architecture differs."""
        parameters = dict(model.named_parameters())
        for name, phi in self.phi.items():
            if name not in parameters:
                raise InputError(
                    f"this prior belongs to another network: it has {name!r}, {type(model).__name__} has not"
                )
            if parameters[name].shape != phi.shape:
                raise InputError(f"this prior belongs to another network: {name!r} is {tuple(phi.shape)} in the prior, "
                                 f"{tuple(parameters[name].shape)} in {type(model).__name__}")  # fmt: skip
        return [parameters[n] for n in self.phi]

    def check_start(self, model):
        """Warns when `model` does not hold the theta_0 that phi was learned from: phi belongs to single weights."""
        expected = self.manifest.get("fingerprint")
        if expected and expected != fingerprint(model):
            warnings.warn("this prior was learned from another initialisation: hidden units can be permuted between two, "
                          "so phi is only noise with the right layer statistics here; start from the same theta_0", stacklevel=2)  # fmt: skip

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
        """dR/dtheta without phi: 2 (theta - theta*) for p = 2, sign(theta - theta*) for p = 1; list of tensors."""
        offsets = self._offsets(parameters)
        return torch._foreach_mul(offsets, 2.0) if self.p == 2 else torch._foreach_sign(offsets)

    @torch.no_grad()
    def add_to_gradients(self, parameters):
        """Coupled (the paper's F): adds dR/dtheta to each parameter's .grad, which the optimiser then rescales."""
        pull = torch._foreach_mul(self.slope(parameters), list(self.phi.values()))
        torch._foreach_add_([t.grad for t in parameters], pull)

    @torch.no_grad()
    def decay_(self, parameters, lr):
        """Decoupled (Eq. 16, AdamW's way): theta <- theta - lr phi dR/dtheta, beside the optimiser's step."""
        torch._foreach_addcmul_(parameters, self.slope(parameters), list(self.phi.values()), value=-lr)

    @torch.no_grad()
    def learn_(self, gradients, beta):
        """phi <- phi - beta dG/dphi, plain SGD as in the paper; gradients in phi's order."""
        torch._foreach_add_(list(self.phi.values()), gradients, alpha=-beta)

    def quantiles(self):
        """{name: {min, q10, median, q90, max}} of phi, for the log."""
        q = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
        names = ("min", "q10", "median", "q90", "max")
        every = max(1, max(t.numel() for t in self.phi.values()) // 100_000)
        return {
            n: dict(zip(names, torch.quantile(t.flatten()[::every].double().cpu(), q).tolist(), strict=True))
            for n, t in self.phi.items()
        }

    # ---- keeping one --------------------------------------------------------------------------------------------
    def save(self, path, **manifest):
        """Writes phi, its centre and the manifest as safetensors; to a temporary name, then renamed."""
        from . import __version__

        tensors = {f"phi/{n}": t.contiguous() for n, t in self.phi.items()}
        tensors |= {f"centre/{n}": t.contiguous() for n, t in (self.centre or {}).items()}
        versions = {"cmkg": __version__, "torch": torch.__version__, "python": platform.python_version()}
        record = {"format": FORMAT, "p": self.p, "versions": versions} | self.manifest | manifest
        record["shapes"] = {n: list(t.shape) for n, t in self.phi.items()}
        write_atomically(path, lambda partial: save_file(tensors, partial, metadata={"manifest": json.dumps(record)}))

    @classmethod
    def load(cls, path, device="cpu"):
        """Reads what `save` wrote. Raises InputError naming the file when it is not a prior."""
        try:
            with safe_open(path, framework="pt", device=str(device)) as f:
                manifest = json.loads((f.metadata() or {}).get("manifest", "{}"))
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:
            raise InputError(f"{path}: expected a prior (safetensors), could not read it: {error}") from error
        if manifest.get("format") != FORMAT:
            raise InputError(f"{path}: expected a prior of format {FORMAT}, the file says {manifest.get('format')!r}")
        part = lambda prefix: {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        return cls(part("phi/"), manifest["p"], part("centre/") or None, manifest)


def choose(model, which):
    """{name: parameter} that carry phi: "weights" or "all"."""
    if which not in ("weights", "all"):
        raise InputError(f'which parameters carry phi is "weights" or "all", got {which!r}')
    return {n: t for n, t in model.named_parameters() if t.requires_grad and (which == "all" or t.dim() >= 2)}


def fingerprint(model_or_tensors):
    """SHA-256 over names, shapes and values of all parameters: which theta_0 this is."""
    named = model_or_tensors.items() if isinstance(model_or_tensors, dict) else model_or_tensors.named_parameters()
    digest = hashlib.sha256()
    for name, t in named:
        digest.update(f"{name}{tuple(t.shape)}".encode())
        digest.update(t.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
