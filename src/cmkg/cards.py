"""Model cards: what a student or a prior is, where it comes from, what it scored."""

from .engine import write_atomically


def card(title, facts, about, tags=("cmkg", "cross-modal-knowledge-generalization")):
    """A model card in Markdown: {fact: value} as a table, `about` as text."""
    head = "\n".join(["---", "library_name: cmkg", "tags:", *(f"- {t}" for t in tags), "---"])
    rows = "\n".join(
        f"| {k.replace('_', ' ')} | {v} |" for k, v in facts.items() if v not in ("", None)
    )
    return f"{head}\n\n# {title}\n\n{about}\n\n| | |\n| :-- | :-- |\n{rows}\n"


def write_card(path, title, facts, about):
    write_atomically(path, lambda p: p.write_text(card(title, facts, about), encoding="utf-8"))


ABOUT_PRIOR = (
    "One number per weight that says how strongly training on a target without the superior "
    "modality should hold that weight "
    "(Eq. 10 of Zhao et al., CVPR 2020). It belongs to one architecture and one "
    "initialisation: see `fingerprint`."
)


def prior_facts(prior):
    known = (
        "architecture",
        "which",
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
    return {
        "p": prior.p,
        "parameters": sum(t.numel() for t in prior.phi.values()),
        "rms of phi": f"{prior.rms():.3g}",
        "centre": "given weights" if prior.centre else "zero",
        **{k: prior.manifest.get(k) for k in known},
    }
