"""Model cards: what a student or a prior is, where it comes from, what it scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .prior import Prior
from .runtime.files import PathLike, write_text
from .runtime.text import escape_markdown

TAGS = ("cmkg", "cross-modal-knowledge-generalization")
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


def format_card(
    title: str, facts: Mapping[str, Any], about: str, tags: Sequence[str] = TAGS
) -> str:
    """A model card in Markdown: {fact: value} as a table, `about` as text."""
    head = "\n".join(["---", "library_name: cmkg", "tags:", *(f"- {tag}" for tag in tags), "---"])
    rows = "\n".join(
        f"| {escape_markdown(name.replace('_', ' '))} | {escape_markdown(value)} |"
        for name, value in facts.items()
        if value not in ("", None)
    )
    return f"{head}\n\n# {title}\n\n{about}\n\n| | |\n| :-- | :-- |\n{rows}\n"


def write_card(path: PathLike, title: str, facts: Mapping[str, Any], about: str) -> None:
    """Writes a model card."""
    write_text(path, format_card(title, facts, about))


def prior_facts(prior: Prior) -> dict[str, Any]:
    """What a prior's card tells."""
    facts = {
        "p": prior.p,
        "parameters": sum(phi.numel() for phi in prior.phi.values()),
        "rms of phi": f"{prior.rms():.3g}",
        "centre": "given weights" if prior.centre else "zero",
    }
    return facts | {name: prior.manifest.get(name) for name in PRIOR_FACTS}
