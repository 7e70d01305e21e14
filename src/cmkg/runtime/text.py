"""Text that comes from files and names, made harmless where it is shown."""

from __future__ import annotations

MARKDOWN = str.maketrans({one: f"\\{one}" for one in "\\`*[]<>|$"})


def printable(text: str) -> str:
    r"""Text for a terminal: characters that would move its cursor are written as codes.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\n'
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


def escape_markdown(text: object) -> str:
    r"""One cell of a table: no line ends, no bars, no links, no pictures, no HTML.

    >>> escape_markdown("a|b <i>")
    'a\\|b \\<i\\>'
    """
    return printable(" ".join(str(text).split())).translate(MARKDOWN)
