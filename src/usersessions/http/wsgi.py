"""WSGI (PEP 3333), without a framework: requests answered, streams iterated.

1. A stream holds the thread that iterates it for as long as it is open. That is WSGI's nature.
2. The query of a request, or the token in that of an app's own WebSocket, is taken out of its
   environ: servers write it into their access logs once a response is over. (They still do where
   something in between made a copy of the environ.)
3. Where a server puts the client's socket into the environ, a client that leaves is noticed at
   once; elsewhere with the second ping after it has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from http import HTTPStatus
from typing import Any, TypeAlias

from ..errors import ConfigError, ConnectRefused, DisconnectCode
from ..sessions import UserSessions
from ..transports.unidirectional import disconnect_frame
from .base import MAX_BODY_BYTES, MAX_DISCARDED, UNREADABLE, Request, Response
from .blocking import Frames, stream_body
from .connection import (
    STREAM_HEADERS,
    WEBSOCKET,
    checked_disconnect,
    read_connect_request,
    read_first_message,
)
from .endpoints import Endpoints
from .handshakes import without_token
from .silence import bound_silence
from .watch import ClientSocket, Watch, watching
from .workers import warn_of_other_workers

__all__ = [
    "Environ",
    "StartResponse",
    "UserSessionsWSGI",
    "peer_of",
    "read_environ",
    "read_handshake",
    "read_headers",
]

Environ: TypeAlias = "dict[str, Any]"
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")
_TARGETS = ("RAW_URI", "REQUEST_URI")
# What Django's test client calls itself, which says of one process that it is several.
_TEST_CLIENT = "testserver"


class UserSessionsWSGI:
    """A WSGI app that serves the server API, users' own sessions and the two HTTP streams.

    Each open stream holds a thread of the server. A WebSocket needs more than WSGI has: see the
    adapter for Flask.

    Args:
        sessions: what it serves.
        api_keys: who may use the server API, each of 16 to 255 visible ASCII characters; without
            any, it answers 401 to all.
        ping_interval: seconds of silence before a ping on a stream, from 1 to 3600.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`, so
            that lists show the client's address; 0 believes no such header.
        inner: the app that it is put around, which serves every other path.
        prefix: the path that all of it is under, such as `"/live"`; needed where the inner app has
            something of its own at `/api/...` or `/sessions`.

    Raises:
        ConfigError: if a value is outside of its bounds.

    >>> app = UserSessionsWSGI(UserSessions(), api_keys=["an-api-key-of-yours"])
    """

    def __init__(
        self,
        sessions: UserSessions,
        *,
        api_keys: Iterable[str] = (),
        ping_interval: int = 25,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
        inner: Callable[[Environ, StartResponse], Iterable[bytes]] | None = None,
        prefix: str = "",
    ) -> None:
        if not isinstance(sessions, UserSessions):
            raise ConfigError("WSGI takes a UserSessions; AsyncUserSessions is for ASGI")
        self._sessions = sessions
        self._inner = inner
        self._endpoints = Endpoints(
            sessions.operations,
            api_keys=api_keys,
            ping_interval=ping_interval,
            allowed_origins=allowed_origins,
            trusted_hops=trusted_hops,
            prefix=prefix,
        )
        # Held by the first request, and never released.
        self._first = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        path = self._endpoints.path(_path(environ))
        if path is None and self._inner is not None:
            return self._inner(environ, start_response)
        response, body = self.respond(environ, path or "")
        status = HTTPStatus(response.status)
        start_response(f"{status.value} {status.phrase}", list(response.headers.items()))
        return body

    def respond(self, environ: Environ, path: str) -> tuple[Response, Iterable[bytes]]:
        """Answer a request, for a framework that has an idiom of its own for responses.

        Args:
            environ: the request; its query is taken out of it.
            path: its path, from where this app is mounted.

        Returns:
            The response without its body, and its body. The body of a stream is a generator, which
            has to be closed if it is not iterated to its end, as servers do.
        """
        if self._first.acquire(blocking=False):
            is_real = environ.get("SERVER_NAME") != _TEST_CLIENT
            told = is_real and bool(environ.get("wsgi.multiprocess"))
            warn_of_other_workers(self._sessions.store, told=told)
        try:
            request = read_environ(environ)
        except Exception:
            # Whatever the server raises for a body that breaks off, or is not what it says.
            return _whole(UNREADABLE, environ)
        transport = self._endpoints.transport(path)
        if transport is None:
            response = self._sessions.run(self._endpoints.answer(path, request))
            return _whole(response, environ)
        message = read_connect_request(request, transport)
        if isinstance(message, Response):
            return _whole(message, environ)
        head = Response(200, headers={"content-type": transport.media_type, **STREAM_HEADERS})
        return head, stream_body(
            self._sessions,
            self._endpoints,
            message,
            transport,
            headers=request.headers,
            peer=peer_of(environ),
            watching=watching(_socket(environ), ping_interval=self._endpoints.ping_interval),
        )

    def websocket(self, environ: Environ, message: bytes | None, watch: Watch) -> Frames:
        """The frames of a stream over a WebSocket that a framework has opened.

        Args:
            environ: its handshake; the query is taken out of it.
            message: the first message; None if it did not come in time.
            watch: waits for the session to be told to end, and for its client to leave.
        """
        _keep_of_query(environ, "")
        client_socket = _socket(environ)
        if client_socket is not None:
            bound_silence(client_socket, ping_interval=self._endpoints.ping_interval)
        try:
            if message is None:
                raise ConnectRefused(DisconnectCode.STALE)
            connect = read_first_message(message)
        except ConnectRefused as refused:
            disconnect = checked_disconnect(refused)
            yield WEBSOCKET.wrap(disconnect_frame(disconnect))
            return disconnect
        return (
            yield from stream_body(
                self._sessions,
                self._endpoints,
                connect,
                WEBSOCKET,
                headers=read_headers(environ),
                peer=peer_of(environ),
                watching=nullcontext(watch),
            )
        )


def read_environ(environ: Environ) -> Request:
    """Read a whole request, but keep no more of its body than any handler takes.

    Its query is taken out of the environ.

    Raises:
        EOFError: if the body breaks off; the server may raise something else.
    """
    query = environ.get("QUERY_STRING", "")
    _keep_of_query(environ, "")
    body = bytearray()
    for chunk in _body(environ):
        if len(body) <= MAX_BODY_BYTES:
            body += chunk
    return Request(
        environ["REQUEST_METHOD"],
        query,
        read_headers(environ),
        bytes(body) if len(body) <= MAX_BODY_BYTES else None,
    )


def read_handshake(environ: Environ) -> Request:
    """Read what opens a WebSocket of the app's own; a token in its query is taken out."""
    query = environ.get("QUERY_STRING", "")
    _keep_of_query(environ, without_token(query))
    return Request("GET", query, read_headers(environ))


def read_headers(environ: Environ) -> dict[str, str]:
    """The headers of a request, as `Request` has them."""
    headers = {
        name[len("HTTP_") :].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = environ["CONTENT_TYPE"]
    return headers


def peer_of(environ: Environ) -> str | None:
    """The other end of the TCP connection; None where there is none."""
    return environ.get("REMOTE_ADDR") or None


def _keep_of_query(environ: Environ, kept: str) -> None:
    if "QUERY_STRING" in environ:
        environ["QUERY_STRING"] = kept
    for name in _TARGETS:
        if name in environ:
            path = environ[name].partition("?")[0]
            environ[name] = f"{path}?{kept}" if kept else path


def _body(environ: Environ) -> Iterator[bytes]:
    left = MAX_BODY_BYTES + 1 + MAX_DISCARDED
    length = environ.get("CONTENT_LENGTH") or ""
    # Any more digits are no length, and Python would refuse to read 5000 of them.
    has_length = length.isascii() and length.isdigit() and len(length) < 20
    if has_length:
        left = min(left, int(length))
    elif not environ.get("wsgi.input_terminated"):
        # Without a length, reading could go on into whatever comes next, or wait for ever.
        return
    whole = left
    while left and (chunk := environ["wsgi.input"].read(min(left, MAX_BODY_BYTES + 1))):
        left -= len(chunk)
        yield chunk
    # Where a middleware has read all of it before, nothing comes.
    if has_length and 0 < left < whole:
        raise EOFError("the body is shorter than its length")


def _whole(response: Response, environ: Environ) -> tuple[Response, Iterable[bytes]]:
    headers = {**response.headers, "content-length": str(len(response.body))}
    # To HEAD, a body would be read as the next answer, and not every server keeps it back.
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else response.body
    return Response(response.status, headers=headers), [body]


def _path(environ: Environ) -> str:
    # It is UTF-8, as bytes in the guise of text.
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode(errors="replace")


def _socket(environ: Environ) -> ClientSocket | None:
    return next((environ[name] for name in _SOCKETS if name in environ), None)
