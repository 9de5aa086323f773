"""Who connects: read from what a client sends as `auth`, or from the headers of its handshake."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from socketio.exceptions import (  # type: ignore[import-untyped]
    ConnectionRefusedError as SocketRefused,
)

from ...errors import ConnectRefused, DisconnectCode, InvalidValue
from ...flows import Flow
from ...http import asgi, wsgi
from ...http.authentication import bearer
from ...http.connection import (
    check_origin,
    checked_disconnect,
    read_first_message,
    remote_address,
)
from ...http.handshakes import identity_of
from ...models import Identity
from ...operations import Admitted
from ...strictjson import dumps
from ...transports.unidirectional import Transport
from .calls import Do

__all__ = ["Admission", "Identify", "refusal"]

logger = logging.getLogger(__name__)

Who: TypeAlias = "Identity | str | None"
Identify: TypeAlias = Callable[[str, "dict[str, Any]", Any], "Who | Awaitable[Who]"]
"""A function that `track` takes as `identify`; called as a `connect` handler is."""


class Admission:
    """Decides on the sockets of a server; its arguments are those of `track`."""

    def __init__(
        self, sio: Any, sessions: Any, *, identify: Identify | None, trusted_hops: int
    ) -> None:
        self._sio = sio
        self._sessions = sessions
        self._identify = identify
        self._trusted_hops = trusted_hops

    def __call__(
        self, namespace: str, sid: str, environ: dict[str, Any], auth: Any = None
    ) -> Flow[Admitted]:
        """Say who connects.

        Raises:
            ConnectionRefusedError: that of Socket.IO, if they may not.
        """
        try:
            return (yield from self._admitted(namespace, sid, environ, auth))
        except ConnectRefused as refused:
            raise refusal(refused) from refused
        except (SocketRefused, ConnectionRefusedError):
            # The app's `identify` refuses as its `connect` would.
            raise
        except Exception:
            # A verifier, proxy or `identify` of the app's own failed.
            logger.exception("the connection of client %s failed", sid)
            raise refusal(ConnectRefused(DisconnectCode.INTERNAL_SERVER_ERROR)) from None

    def _admitted(
        self, namespace: str, sid: str, environ: dict[str, Any], auth: Any
    ) -> Flow[Admitted]:
        scope, who = environ.get("asgi.scope"), None
        headers = wsgi.read_headers(environ) if scope is None else asgi.read_headers(scope)
        # Other servers for asyncio than those of ASGI give an environ without the client's address.
        peer = None if environ.get("wsgi.async") else environ.get("REMOTE_ADDR")
        peer = peer if scope is None else asgi.peer_of(scope)
        if self._identify is not None:
            who = yield from Do(partial(self._identify, sid, environ, auth))
        try:
            message = read_first_message(dumps(auth if isinstance(auth, dict) else {}))
            token = None if who is not None else message.token or bearer(headers)
            request = replace(message, token=token).request(
                sid,
                Transport(f"socketio{namespace.rstrip('/')}", "application/json"),
                headers,
                remote_addr=remote_address(peer, headers, trusted_hops=self._trusted_hops),
            )
        except InvalidValue as error:
            raise ConnectRefused(DisconnectCode.BAD_REQUEST) from error
        if token is None and _lets_all_in(self._sio.eio.cors_allowed_origins):
            check_origin(headers, (), client=sid)
        flow = self._sessions.operations.admit(request, identity=identity_of(who))
        admitted: Admitted = yield from Do(partial(self._sessions.run, flow))
        return admitted


def refusal(refused: ConnectRefused) -> SocketRefused:
    """How Socket.IO refuses a connection, with the code and the reason as data."""
    why = checked_disconnect(refused)
    return SocketRefused(why.reason, {"code": why.code, "reason": why.reason})


def _lets_all_in(origins: Any) -> bool:
    # What the server itself does not check: it lets in any origin, or is told to check none.
    return origins is not None and not callable(origins) and (not origins or "*" in origins)
