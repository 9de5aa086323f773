"""Pages of the documentation, read as the blocks that a new user follows from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import usersessions

__all__ = ["Block", "Comparison", "blocks"]

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>\w+) -->\n+)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?[^\n]*\n'
    r"(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

# What differs from one time to the next. A version that is shown has to be the real one.
_VARIES = re.compile(
    r"(?P<anything>\.\.\.)"
    r"|(?P<client>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"|(?P<token>eyJ[\w.-]+)"
    r'|(?P<number>(?:(?<="ttl":)|(?<="connected_at":)|(?<="last_seen":))[\d.]+)'
    r'|(?P<version>(?<="version":")\d+\.\d+\.\d+)'
)
_VARIANTS = {
    "anything": r".*?",
    "client": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "token": r"eyJ[\w-]+\.[\w-]+\.[\w-]+",
    "number": r"[\d.]+",
    "version": re.escape(usersessions.__version__),
}


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Args:
        language: what stands behind its first backquotes.
        code: what is in it.
        line: where its code begins, counted from 1.
        mark: the word of the comment before it: `<!-- try -->` has "try".
        title: the name of the file that it is.
        shown: the output that stands under it, if it is one with the mark "try".
    """

    language: str
    code: str
    line: int
    mark: str | None = None
    title: str | None = None
    shown: str | None = None


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, but for those that are the output of another."""
    found = list(_BLOCK.finditer(text))
    following = [*found[1:], None]
    is_output = False
    for one, after in zip(found, following, strict=True):
        shown = None
        if one["mark"] == "try" and after is not None and _is_output(after):
            shown = after["code"]
        if not is_output:
            line = text.count("\n", 0, one.start("code")) + 1
            yield Block(one["language"], one["code"], line, one["mark"], one["title"], shown)
        is_output = shown is not None


def _is_output(block: re.Match[str]) -> bool:
    return block["language"] in ("json", "text") and not block["mark"] and not block["title"]


class Comparison:
    """What a page shows against what came.

    `...` stands for anything, a token for any token. A client ID stands for any other, but the same
    one on all of the page.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def agrees(self, shown: str, came: str) -> bool:
        """Whether it is what came, but for white space at both ends."""
        groups: dict[str, str] = {}
        pattern, end = "", 0
        shown = shown.strip()
        for found in _VARIES.finditer(shown):
            kind = found.lastgroup
            assert kind
            variant = _VARIANTS[kind]
            if kind == "client":
                variant = self._client(found[0], variant, groups)
            pattern += re.escape(shown[end : found.start()]) + variant
            end = found.end()
        same = re.fullmatch(pattern + re.escape(shown[end:]), came.strip(), re.DOTALL)
        if same is not None:
            self._known.update({client: same[name] for client, name in groups.items()})
        return same is not None

    def _client(self, client: str, variant: str, groups: dict[str, str]) -> str:
        if client in self._known:
            return self._known[client]
        if client in groups:
            return f"(?P={groups[client]})"
        groups[client] = f"client_{len(groups)}"
        return f"(?P<{groups[client]}>{variant})"
