"""What comes before a stream: reading the connect request of each transport.

1. What cannot be read is refused with an HTTP status; what can be read but may not connect gets a
   stream of one `disconnect` frame, which every client library understands.
2. A browser sends cookies along with requests that a foreign page makes. So where no token says
   who connects, a request with a foreign `Origin` is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from ..errors import ConnectRefused, DisconnectCode, InvalidValue
from ..models import MAX_ID_LENGTH, Disconnect
from ..printable import printable
from ..transports.unidirectional import ConnectMessage, Transport, read_connect
from .base import MAX_BODY_BYTES, Request, Response, body_of, text

__all__ = [
    "HTTP_STREAM",
    "SSE",
    "STREAM_HEADERS",
    "WEBSOCKET",
    "check_origin",
    "checked_disconnect",
    "read_connect_request",
    "read_first_message",
    "remote_address",
]

logger = logging.getLogger(__name__)

HTTP_STREAM = Transport("uni_http_stream", "application/json", after=b"\n")
SSE = Transport("uni_sse", "text/event-stream", before=b"data: ", after=b"\n\n")
WEBSOCKET = Transport("uni_websocket", "application/json")

# "none" is what the user typed. "same-site" is not among them: a subdomain may be somebody else's.
_OWN_SITES = ("none", "same-origin")

STREAM_HEADERS: Mapping[str, str] = {
    "cache-control": "private, no-cache, no-store, must-revalidate, max-age=0",
    # nginx would otherwise hold frames back until its buffer is full.
    "x-accel-buffering": "no",
    # So would middlewares that compress: they leave alone what has an encoding. RFC 9110, 8.4 would
    # rather not see this one, but nobody else may tell Starlette before 1.5, and it does no harm.
    "content-encoding": "identity",
}


def read_connect_request(request: Request, transport: Transport) -> ConnectMessage | Response:
    """Read the connect request of a stream, or say with which response it is refused.

    It is the body of a POST; for SSE, which browsers can only GET, it may be the query parameter
    `cf_connect` (without one, the request connects without a token).
    """
    body: str | bytes | Response
    if request.method == "GET" and transport is SSE:
        body = request.parameter("cf_connect") or "{}"
    elif request.method != "POST":
        allowed = "GET, POST" if transport is SSE else "POST"
        return text(405, f"{transport.name} takes {allowed}", {"allow": allowed})
    else:
        body = body_of(request, "a connect request")
    if isinstance(body, Response):
        return body
    try:
        return read_connect(body)
    except InvalidValue as error:
        return text(400, str(error))


def remote_address(
    peer: str | None, headers: Mapping[str, str], *, trusted_hops: int
) -> str | None:
    """The client's address, for lists.

    Args:
        peer: the other end of the TCP connection.
        headers: the headers of the HTTP request.
        trusted_hops: how many proxies stand in front, each of which adds the address that it was
            asked from to `X-Forwarded-For`; what stands further left there, anyone can write.

    >>> headers = {"x-forwarded-for": "6.6.6.6, 192.0.2.7"}
    >>> remote_address("10.0.0.1", headers, trusted_hops=0)
    '10.0.0.1'
    >>> remote_address("10.0.0.1", headers, trusted_hops=1)
    '192.0.2.7'
    """
    chain = headers.get("x-forwarded-for", "").split(",")
    if trusted_hops and len(chain) >= trusted_hops:
        peer = chain[-trusted_hops].strip() or peer
    return peer


def check_origin(headers: Mapping[str, str], allowed: Collection[str], *, client: str) -> None:
    """Refuse a connection that a foreign web page makes on the strength of a user's cookies.

    Not to be asked where a token says who connects: a foreign page has none. An image or a
    navigation carries cookies and no `Origin`; for these, browsers say in `Sec-Fetch-Site` where
    they come from (W3C Fetch Metadata).

    Args:
        headers: the headers of the HTTP request.
        allowed: origins that are not foreign, such as "https://app.example.com".
        client: whose connection it is, for the log.

    Raises:
        ConnectRefused: if the origin is foreign.
    """
    origin, asked = headers.get("origin"), headers.get("host", "")
    if origin is None:
        site = headers.get("sec-fetch-site", "none")
        if site not in _OWN_SITES:
            logger.info("client %s refused: its page is on another site (%s)", client, _shown(site))
            raise ConnectRefused(DisconnectCode.PERMISSION_DENIED)
        return
    if origin in allowed:
        return
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        host = ""
    if not host or host.lower() != asked.lower():
        logger.info(
            'client %s refused: its page is of the origin "%s", which is neither that of the host '
            'asked, "%s", nor one of the allowed origins',
            client,
            _shown(origin),
            _shown(asked),
        )
        raise ConnectRefused(DisconnectCode.PERMISSION_DENIED)


def _shown(header: str) -> str:
    # Strangers write it, as long as they like.
    return printable(header[:MAX_ID_LENGTH])


def read_first_message(body: bytes) -> ConnectMessage:
    """Read the connect request of a WebSocket, which is its first message.

    Raises:
        ConnectRefused: if it is none.
    """
    try:
        if len(body) > MAX_BODY_BYTES:
            raise InvalidValue(f"a connect request is at most {MAX_BODY_BYTES} bytes")
        return read_connect(body)
    except InvalidValue as error:
        raise ConnectRefused(DisconnectCode.BAD_REQUEST) from error


def checked_disconnect(refused: ConnectRefused) -> Disconnect:
    """What a refused client is told."""
    try:
        return Disconnect(refused.code, refused.reason)
    except InvalidValue as error:
        # It came from the app, and nobody has looked at its code and reason yet.
        logger.error("a connection was refused with an impossible disconnect: %s", error)
        return Disconnect.of(DisconnectCode.INTERNAL_SERVER_ERROR)
