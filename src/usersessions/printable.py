"""Text of others, such as clients, made safe for the terminal of whoever reads it."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""The text without what a terminal would obey instead of showing it, line ends included.

    >>> print(printable("web\x1b[2J\nphone"))
    web\u001b[2J\u000aphone
    """
    return "".join(
        character if character.isprintable() else f"\\u{ord(character):04x}" for character in text
    )
