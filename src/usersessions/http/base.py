"""A request and a response that no framework owns.

A handler takes a `Request` and returns a flow of a `Response`; it never raises to the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from ..dispatch import MAX_BODY_BYTES

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_DISCARDED",
    "UNREADABLE",
    "Request",
    "Response",
    "body_of",
    "is_encoded",
    "late",
    "text",
]

MAX_DISCARDED = 1 << 20
"""How many bytes more are read of a body that is too large.

A server that closes a connection with something unread in it takes the answer back.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.

    Args:
        method: the verb, in upper case.
        query: the query string, undecoded.
        headers: the value of each header by its name in lower case; one that is sent several times
            is joined with commas (RFC 9110, 5.3), cookies with semicolons.
        body: the body; None if it is over `MAX_BODY_BYTES`.
    """

    method: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=b"", repr=False)

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter, decoded; None where there is none.

        >>> Request("GET", "a=1%202&b=3").parameter("a")
        '1 2'
        """
        try:
            values = parse_qs(self.query, max_num_fields=64).get(name)
        except ValueError:
            return None
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


def text(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """A response of one sentence, for people."""
    return Response(
        status,
        message.encode() + b"\n",
        {"content-type": "text/plain; charset=utf-8", **(headers or {})},
    )


UNREADABLE = text(400, "the body of the request could not be read")
"""The answer to a body that breaks off, or is not what the server takes it for."""


def late(http_version: str = "1.1") -> Response:
    """The answer to a body that does not come in time (RFC 9110, 15.5.9).

    >>> late().headers["connection"], "connection" in late("2").headers
    ('close', False)
    """
    # What still comes must not be read as the next request. HTTP/2 has neither header nor need.
    close = {"connection": "close"} if http_version.startswith("1") else None
    return text(408, "the body of the request did not come in time", close)


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Whether a body is compressed, or has another content coding (RFC 9110, 8.4).

    >>> is_encoded({"content-encoding": "gzip"}), is_encoded({"content-encoding": "identity"})
    (True, False)
    """
    return headers.get("content-encoding", "").lower() not in ("", "identity")


def body_of(request: Request, what: str) -> bytes | Response:
    """The body of a request, or the answer to one that is encoded or too large.

    Some servers would decode it, others do not: so none is taken.

    Args:
        request: the request.
        what: how people call its body.
    """
    if is_encoded(request.headers):
        return text(415, f"{what} must have no content encoding", {"accept-encoding": "identity"})
    if request.body is None:
        return text(413, f"{what} is at most {MAX_BODY_BYTES} bytes")
    return request.body
