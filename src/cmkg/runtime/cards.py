"""Model cards: the description, origin and scores of a student or a prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .files import PathLike, write_text
from .text import escape_markdown

TAGS = ("cmkg", "cross-modal-knowledge-generalization")


def format_card(
    title: str, facts: Mapping[str, Any], about: str, tags: Sequence[str] = TAGS
) -> str:
    """Formats a model card in Markdown: {fact: value} as a table, `about` as text."""
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
