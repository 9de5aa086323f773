"""What is read of a request of aiohttp, and done to what carries it.

1. The query of a request is taken out of it: it may hold a token or a key, and the access log shows
   the query when a response is over. (It still does where a middleware made a clone of the request,
   or has asked for `path_qs` already.)
"""

from __future__ import annotations

from aiohttp import web
from yarl import URL

from ...http.asgi import read_headers
from ...http.silence import bound_silence

__all__ = ["bound", "close_websocket", "drop", "headers_of", "set_query"]


def headers_of(request: web.Request) -> dict[str, str]:
    """The headers of a request, as the neutral `Request` has them."""
    return read_headers({"headers": request.raw_headers})


def set_query(request: web.Request, query: str) -> None:
    """Have a request show another query from now on."""
    # What an access log shows is made of this, and nothing public changes it.
    path = request.rel_url.raw_path
    request._rel_url = URL.build(path=path, query_string=query, encoded=True)


def bound(request: web.Request, *, ping_interval: int | None = None) -> None:
    """Have a connection given up when what was sent stays unacknowledged, as `bound_silence` does.

    Args:
        request: what it carries; a connection that is over, or without a socket, is passed over.
        ping_interval: as for `bound_silence`.
    """
    transport = request.transport
    client_socket = None if transport is None else transport.get_extra_info("socket")
    if client_socket is not None:
        bound_silence(client_socket, ping_interval=ping_interval)


async def close_websocket(websocket: web.WebSocketResponse, code: int, reason: str) -> None:
    """Close a WebSocket with a code and a reason, and wait for the client's answer to that."""
    await websocket.close(code=code, message=reason.encode())


def drop(request: web.Request) -> None:
    """Give up a connection, without a word."""
    if request.transport is not None:
        request.transport.abort()
