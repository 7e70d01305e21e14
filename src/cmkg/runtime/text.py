"""Makes text from files and names safe to display."""

from __future__ import annotations

MARKDOWN = str.maketrans({one: f"\\{one}" for one in "\\`*[]<>|$"})


def printable(text: str) -> str:
    r"""Returns text for a terminal, with control characters escaped.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\n'
    """
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def escape_markdown(text: object) -> str:
    r"""Escapes text for a table cell: no line ends, bars, links, images or HTML.

    >>> escape_markdown("a|b <i>")
    'a\\|b \\<i\\>'
    """
    return printable(" ".join(str(text).split())).translate(MARKDOWN)
