"""One HTTP exchange as a request of a flow: what to send, and within which bounds.

No I/O: the key sets and the connect proxy say here what they need, and `fetchers.py` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .flows import Flow, Reply, Request

__all__ = ["Fetch", "FetchFailed", "Fetched"]


@dataclass(frozen=True, slots=True)
class Fetched(Reply):
    """The whole answer; redirects are not followed, so a 3xx is an answer like any other."""

    status: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchFailed(Reply):
    """There was no whole answer within the bounds; `why` is a phrase for a log line."""

    why: str


@dataclass(frozen=True, slots=True)
class Fetch(Request):
    """GET `url`, or POST `body` to it.

    Args:
        url: where.
        body: what to POST; None is a GET.
        headers: what to send besides the usual.
        timeout: seconds for the whole exchange.
        max_bytes: the largest body to read; a larger one is a failure.
    """

    url: str = field(repr=False)
    timeout: float
    max_bytes: int
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Flow[Fetched | FetchFailed]:
        reply = yield self
        if isinstance(reply, (Fetched, FetchFailed)):
            return reply
        raise TypeError(f"expected the reply of a fetch, got {type(reply).__name__}")
