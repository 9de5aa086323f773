"""Reading what Redis replies; of some replies, redis-py makes mappings in a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["nodes", "pairs", "streams", "text", "verdict"]


def text(value: object) -> str:
    """A reply as text.

    >>> text(b"5-0"), text(1)
    ('5-0', '1')
    """
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def pairs(reply: object) -> dict[bytes, Any]:
    """A reply of names and values.

    >>> pairs([b"a", b"1"]), pairs({b"a": b"1"}), pairs(None)
    ({b'a': b'1'}, {b'a': b'1'}, {})
    """
    if isinstance(reply, Mapping):
        return dict(reply)
    parts: list[Any] = list(reply) if isinstance(reply, (list, tuple)) else []
    return dict(zip(parts[::2], parts[1::2], strict=True))


def verdict(reply: object) -> tuple[str, list[str]]:
    """What a script decided, and what else it says.

    >>> verdict([b"ok", b"5-0"]), verdict(b"blocked")
    (('ok', ['5-0']), ('blocked', []))
    """
    first, *rest = [text(part) for part in (reply if isinstance(reply, list) else [reply])]
    return first, rest


def nodes(reply: object) -> list[tuple[str, float, bytes]]:
    """What the script `nodes` found: lease, seconds left, what the process says of itself.

    >>> nodes([b"0a", 1500, b"{}"])
    [('0a', 1.5, b'{}')]
    """
    parts: list[Any] = list(reply) if isinstance(reply, list) else []
    return [
        (text(lease), int(left) / 1000, about)
        for lease, left, about in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def streams(reply: object) -> list[tuple[bytes, bytes, dict[bytes, bytes]]]:
    """The entries that XREAD found: stream, ID, fields.

    >>> streams([[b"log", [[b"5-0", [b"entry", b"{}"]]]]])
    [(b'log', b'5-0', {b'entry': b'{}'})]
    """
    found = reply.items() if isinstance(reply, Mapping) else reply or ()
    return [
        (name, entry, pairs(fields))
        for name, entries in found  # type: ignore[attr-defined]  # XREAD has no other reply
        for entry, fields in entries
    ]
