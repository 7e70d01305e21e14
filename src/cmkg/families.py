"""Priors from elsewhere: the Fisher information, several sources merged, another architecture.

Each gives a prior.Prior. From two checkpoints: Prior.from_checkpoints. L2-SP: Prior.constant
with a centre.
"""

import torch
from torch.func import functional_call, grad, vmap

from .errors import InputError
from .prior import Prior, choose, fingerprint, tied_shape
from .steps import called, modes_kept


def fisher(model, batches, loss, which="weights", fields=None, device="cpu"):
    """The diagonal of the empirical Fisher information at the model's weights, centred there: EWC
    (Kirkpatrick et al., 2017). phi_i = mean over samples of (d loss / d theta_i)^2 / 2, so that
    R is the Laplace penalty.

    loss(prediction, target) of a batch; each sample's own gradient is taken, in eval mode
    (BatchNorm's running statistics: a batch's would mix samples). fields: as in training.Fields;
    None is a batch (x, y).
    """
    chosen = choose(model, which)
    parameters = {n: t.detach() for n, t in chosen.items()}

    def one(weights, x, y):
        batched = tuple(v[None] for v in x) if isinstance(x, tuple) else x[None]
        return loss(
            called(lambda *inputs: functional_call(model, weights, inputs), batched), y[None]
        )

    each = vmap(grad(one), in_dims=(None, 0, 0))
    total, count = {n: torch.zeros_like(t) for n, t in parameters.items()}, 0
    with modes_kept(model):
        model.eval()
        for batch in batches:
            x, _, y = fields(batch, device) if fields else (batch[0], None, batch[1])
            for n, g in each(parameters, x, y).items():
                total[n] += g.square().sum(0)
            count += len(y)
    if count == 0:
        raise InputError("the Fisher information needs samples: expected batches, got none")
    phi = {n: (t / (2 * count)).float() for n, t in total.items()}
    facts = {
        "family": "Fisher",
        "which": which,
        "samples": count,
        "fingerprint": fingerprint(model),
        "architecture": type(model).__name__,
    }
    return Prior(phi, 2, {n: t.clone() for n, t in parameters.items()}, facts)


# ---- several sources -----------------------------------------------------------------------------
def _mean(phis, _):
    return sum(phis) / len(phis)


def _precision(phis, variances):
    weights = [1 / v.clamp_min(1e-30) for v in variances]
    return sum(w * t for w, t in zip(weights, phis, strict=False)) / sum(weights)


def _sign(phis, _):
    """The mean of those that agree with the sign that has more weight (TIES-merging; Yadav et
    al., 2023, Sec. 3)."""
    stacked = torch.stack(phis)
    agree = torch.sign(stacked) == torch.sign(stacked.sum(0))
    return (stacked * agree).sum(0) / agree.sum(0).clamp_min(1)


MERGES = {"mean": _mean, "precision": _precision, "sign": _sign}


def merged(priors, how="mean"):
    """One prior of several, learned from the same theta_0 on different sources.

    how: "mean"; "precision", each phi_i weighted by the inverse of its variance (see
    Prior.track_noise); "sign", the mean of those that have the majority's sign.
    """
    first = priors[0]
    if how not in MERGES:
        raise InputError(f"priors are merged by {', '.join(MERGES)}, got {how!r}")
    for other in priors[1:]:
        _same_kind(first, other)
    if how == "precision" and any(q.variance is None for q in priors):
        raise InputError(
            "merging by precision needs each prior's variance: learn them with track_noise(), "
            "or merge by mean or sign"
        )
    phi = {
        n: MERGES[how](
            [q.phi[n] for q in priors],
            [q.variance[n] for q in priors] if how == "precision" else None,
        )
        for n in first.phi
    }
    return Prior(
        phi,
        first.p,
        first.centre,
        first.manifest | {"merged": how, "sources": [q.manifest.get("source") for q in priors]},
    )


def _same_kind(a, b):
    if a.p != b.p:
        raise InputError(
            f"priors of p = {a.p} and p = {b.p} cannot be merged: expected one exponent"
        )
    if {n: t.shape for n, t in a.phi.items()} != {n: t.shape for n, t in b.phi.items()}:
        name = next(
            iter(set(a.phi) ^ set(b.phi)),
            next((n for n in a.phi if n in b.phi and a.phi[n].shape != b.phi[n].shape), ""),
        )
        raise InputError(
            f"these priors belong to different networks, they differ at {name!r}: expected the "
            "same names and shapes"
        )
    if (a.centre is None) != (b.centre is None) or (
        a.centre and any(not torch.equal(t, b.centre[n]) for n, t in a.centre.items())
    ):
        raise InputError("these priors are centred at different weights: expected one centre")
    if a.manifest.get("fingerprint") != b.manifest.get("fingerprint"):
        raise InputError(
            "these priors were learned from different initialisations: their weights do not "
            "correspond; learn them from one theta_0"
        )


# ---- another architecture ------------------------------------------------------------------------
def transferred(prior, model, names=None, coverage=0.9):
    """The prior for another architecture: {its parameter: the prior's} by `names`, a dict or a
    function of the name (None: the same name). Returns (Prior, report); refused where less than
    `coverage` of the model's weights get one.

    report: {"coverage", "matched": [names], "unmatched": {name: why}}. Only phi of equal shapes
    is taken: it belongs to single weights, so this makes sense where the weights, too, came from
    the same theta_0.
    """
    look = names if callable(names) else (lambda n: names.get(n)) if names else (lambda n: n)
    wanted = choose(model, prior.manifest.get("which", "weights"))
    granularity = prior.manifest.get("granularity", "weight")
    phi, unmatched = {}, {}
    for n, t in wanted.items():
        found = prior.phi.get(look(n))
        expected = tied_shape(t.shape, granularity)
        if found is None:
            unmatched[n] = "the prior has no such parameter"
        elif tuple(found.shape) != expected:
            unmatched[n] = f"shape {tuple(found.shape)}, expected {expected}"
        elif prior.centre and prior.centre[look(n)].shape != t.shape:
            unmatched[n] = (
                f"its centre has shape {tuple(prior.centre[look(n)].shape)}, expected "
                f"{tuple(t.shape)}"
            )
        else:
            phi[n] = found.clone()
    total = sum(t.numel() for t in wanted.values())
    share = sum(wanted[n].numel() for n in phi) / max(total, 1)
    if share < coverage:
        some = "; ".join(f"{n}: {why}" for n, why in list(unmatched.items())[:3])
        raise InputError(
            f"this prior covers {share:.0%} of {type(model).__name__}'s weights, expected at "
            f"least {coverage:.0%} ({some}); "
            "give a map of names, or a lower coverage"
        )
    centre = {n: prior.centre[look(n)] for n in phi} if prior.centre else None
    moved = Prior(
        phi,
        prior.p,
        centre,
        prior.manifest | {"architecture": type(model).__name__, "coverage": share},
    )
    return moved, {"coverage": share, "matched": list(phi), "unmatched": unmatched}
