"""The facts on a prior's model card."""

from __future__ import annotations

from typing import Any

from .prior import Prior

ABOUT_PRIOR = (
    "One number per weight that says how strongly training on a target without the superior "
    "modality should hold that weight (Eq. 10 of Zhao et al., CVPR 2020). It belongs to one "
    "architecture and one initialisation: see `fingerprint`."
)


PRIOR_FACTS = (
    "architecture",
    "select",
    "granularity",
    "family",
    "fingerprint",
    "alpha",
    "beta",
    "loss_units",
    "source",
    "teacher",
    "iterations",
    "merged",
)


def prior_facts(prior: Prior) -> dict[str, Any]:
    """Returns the facts on a prior's model card."""
    facts = {
        "p": prior.p,
        "parameters": sum(phi.numel() for phi in prior.phi.values()),
        "rms of phi": f"{prior.rms():.3g}",
        "centre": "given weights" if prior.centre else "zero",
    }
    return facts | {name: prior.manifest.get(name) for name in PRIOR_FACTS}
