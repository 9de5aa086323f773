"""What is served at which path, and who may connect there: the same for every framework.

1. A path stands for one thing, wherever an app mounts it and whichever framework routes it here.
2. What an app may set is checked here, once, when the endpoints are made.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from ..dispatch import ApiKeys
from ..errors import ConfigError
from ..flows import Flow
from ..operations import Admitted, Operations
from ..transports.unidirectional import ConnectMessage, Transport
from .api import ServerApi
from .base import Request, Response, text
from .connection import HTTP_STREAM, SSE, check_origin, remote_address
from .own_sessions import OwnSessionsApi

__all__ = ["NAMELESS_PATH", "PATHS", "WEBSOCKET_PATH", "Endpoints"]

_API = "/api"
_OWN = "/sessions"
_STREAMS = {f"/connection/{transport.name}": transport for transport in (HTTP_STREAM, SSE)}

PATHS = (_API, f"{_API}/{{method}}", _OWN, f"{_OWN}/{{client}}", *_STREAMS)
"""The paths that are served over HTTP, as routers write them."""

NAMELESS_PATH = f"{_OWN}/"
"""Where a client ID is missing: for routers that would send its `DELETE` on to `/sessions`."""

WEBSOCKET_PATH = "/connection/uni_websocket"
"""The path that is served over WebSocket."""

_SERVED = re.compile(
    "|".join(re.sub("{.+}", "[^/]+", path) for path in (*PATHS, NAMELESS_PATH, WEBSOCKET_PATH))
)
_PREFIX = re.compile(r"(?:/[^/?#%]+)*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:(?![/?#@\\])[!-~])+", re.ASCII | re.IGNORECASE)
_DEFAULT_PORT = re.compile(r"https://.*:443|http://.*:80", re.IGNORECASE)


class Endpoints:
    """The server API, users' own sessions, and the way into a stream.

    Args:
        operations: what carries it all out.
        api_keys: who may use the server API, each of 16 to 255 visible ASCII characters; without
            any, it answers 401 to all.
        ping_interval: seconds of silence before a ping on a stream, from 1 to 3600.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`, so
            that lists show the client's address; 0 believes no such header.
        prefix: the path that all of it is under, such as `"/live"`, for who asks for `path`.

    Raises:
        ConfigError: if a value is outside of its bounds.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        api_keys: Iterable[str] = (),
        ping_interval: int = 25,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
        prefix: str = "",
    ) -> None:
        if type(ping_interval) is not int or not 1 <= ping_interval <= 3600:
            raise ConfigError("ping_interval must be a whole number of seconds from 1 to 3600")
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError('prefix must be like "/live": a path, without a slash at the end')
        self.ping_interval = ping_interval
        self._prefix = prefix
        self._operations = operations
        self._allowed_origins = checked_origins(allowed_origins)
        self._trusted_hops = checked_hops(trusted_hops)
        self._answers: dict[str, ServerApi | OwnSessionsApi] = {
            _API: ServerApi(operations, ApiKeys(api_keys)),
            _OWN: OwnSessionsApi(operations),
        }

    def path(self, path: str) -> str | None:
        """A path from where all of it is; None if it belongs to another app beside it."""
        own = path.removeprefix(self._prefix)
        return own if path == self._prefix + own and _SERVED.fullmatch(own) else None

    def transport(self, path: str) -> Transport | None:
        """The transport of the stream at a path; None if there is no stream."""
        return _STREAMS.get(path)

    def answer(self, path: str, request: Request) -> Flow[Response]:
        """Answer a request to a path where there is no stream."""
        root, slash, name = path[1:].partition("/")
        answer = self._answers.get(f"/{root}")
        # Not where a name is missing: `DELETE /sessions/` must not end all others by mistake.
        if answer is None or "/" in name or bool(name) != bool(slash):
            return text(404, "nothing is served at this path")
        return (yield from answer(request, name or None))

    def admit(
        self,
        client: str,
        message: ConnectMessage,
        transport: Transport,
        *,
        headers: Mapping[str, str],
        peer: str | None,
    ) -> Flow[Admitted]:
        """Say who wants to open a stream.

        Args:
            client: the ID that the connection has, if it may be made.
            message: the connect request.
            transport: that of the stream.
            headers: the headers of the HTTP request, as `Request` has them.
            peer: the other end of the TCP connection.

        Raises:
            ConnectRefused: if they may not.
        """
        if message.token is None:
            check_origin(headers, self._allowed_origins, client=client)
        address = remote_address(peer, headers, trusted_hops=self._trusted_hops)
        request = message.request(client, transport, headers, remote_addr=address)
        return (yield from self._operations.admit(request))


def checked_hops(trusted_hops: int) -> int:
    """The number of proxies in front, if it is one.

    Raises:
        ConfigError: if it is not.
    """
    if not isinstance(trusted_hops, int) or trusted_hops < 0:
        raise ConfigError("trusted_hops must be a whole number of proxies, 0 at least")
    return trusted_hops


def checked_origins(origins: Collection[str]) -> frozenset[str]:
    """Origins as browsers write them: in lower case (RFC 6454, 6.1).

    Raises:
        ConfigError: if one is no origin.

    >>> checked_origins(["https://App.example.com"])
    frozenset({'https://app.example.com'})
    """
    if isinstance(origins, str):
        raise ConfigError("allowed_origins must be a list of strings, not one string")
    for origin in origins:
        if (
            not isinstance(origin, str)
            or not _ORIGIN.fullmatch(origin)
            or _DEFAULT_PORT.fullmatch(origin)
        ):
            raise ConfigError(
                'an entry of allowed_origins must be like "https://app.example.com", as browsers '
                "write it: without a path, without a default port, in ASCII"
            )
    return frozenset(origin.lower() for origin in origins)
