"""What the library does, each thing written once, as flows.

1. A connection is admitted first and registered then: whoever is refused was never visible.
2. A refusal is a `ConnectRefused`, whose code tells the client whether to come back; what led to
   it is its cause and never its text.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from time import time

from .commands import Command, UserConnections
from .errors import (
    ConnectRefused,
    DisconnectCode,
    InvalidValue,
    KeysUnavailable,
    TokenError,
    TokenExpired,
)
from .flows import Flow
from .models import ConnectionInfo, ConnectRequest, Disconnect, Identity, check_id
from .node import Node
from .proxy import ConnectProxy
from .registry import Tell, connections_json
from .stores.base import DisconnectUser, ListUser, Register
from .tokens import Verifier

__all__ = ["Operations"]

logger = logging.getLogger(__name__)


class Operations:
    """The logic behind a facade.

    Args:
        node: this process as a holder of sessions.
        verifier: says who a token speaks for; None refuses every token.
        connect_proxy: decides on connections without a token; None refuses them.
        allow_anonymous: whether the user `""` may connect.
    """

    def __init__(
        self,
        node: Node,
        *,
        verifier: Verifier | None,
        connect_proxy: ConnectProxy | None,
        allow_anonymous: bool,
    ) -> None:
        self.node = node
        self._verifier = verifier
        self._connect_proxy = connect_proxy
        self._allow_anonymous = allow_anonymous

    def admit(
        self,
        request: ConnectRequest,
        *,
        identity: Identity | None = None,
        user: str | None = None,
    ) -> Flow[Identity]:
        """Say who wants to connect: by token, by proxy, or as the app says itself.

        Raises:
            ConnectRefused: if they may not.
            InvalidValue: if two of a token, `identity` and `user` are given.
        """
        if sum(given is not None for given in (request.token, identity, user)) > 1:
            raise InvalidValue(
                "give one of token, identity and user, or none of them to ask the connect proxy"
            )
        if user is not None:
            identity = Identity(user)
        if identity is None:
            identity = yield from self._identify(request)
        if not identity.user and not self._allow_anonymous:
            logger.info("client %s refused: anonymous users are not allowed", request.client)
            raise ConnectRefused(DisconnectCode.PERMISSION_DENIED)
        return identity

    def register(self, request: ConnectRequest, identity: Identity, tell: Tell) -> Flow[None]:
        """Make a session of an admitted connection visible."""
        entry = ConnectionInfo.prepare(request, identity)
        yield from Register(identity.user, request.client, entry, tell)

    def user_connections(self, user: str) -> Flow[Mapping[str, bytes]]:
        """The prepared JSON of a user's connections, by client ID."""
        return (yield from ListUser(check_id("user", user)))

    def disconnect(
        self,
        user: str,
        *,
        client: str | None,
        whitelist: Collection[str],
        code: int,
        reason: str | None,
    ) -> Flow[tuple[str, ...]]:
        """Tell a user's connections to end; which client IDs were told."""
        if isinstance(whitelist, str):
            raise InvalidValue("whitelist must be a collection of client IDs, not one string")
        return (
            yield from DisconnectUser(
                check_id("user", user),
                Disconnect.of(code) if reason is None else Disconnect(code, reason),
                client=None if client is None else check_id("client", client),
                whitelist=frozenset(
                    check_id("an entry of whitelist", entry) for entry in whitelist
                ),
            )
        )

    def execute(self, command: Command) -> Flow[bytes]:
        """Carry out a command of the server API and give its result as JSON."""
        if isinstance(command, UserConnections):
            entries = yield from ListUser(command.user)
            return b'{"connections":' + connections_json(entries) + b"}"
        yield from DisconnectUser(
            command.user, command.disconnect, command.client, command.whitelist
        )
        return b"{}"

    def _identify(self, request: ConnectRequest) -> Flow[Identity]:
        if request.token is None:
            if self._connect_proxy is None:
                logger.info("client %s refused: it sent no token", request.client)
                raise ConnectRefused(DisconnectCode.BAD_REQUEST)
            return (yield from self._connect_proxy.decide(request))
        if self._verifier is None:
            logger.warning("client %s refused: no token verifier is configured", request.client)
            raise ConnectRefused(DisconnectCode.INVALID_TOKEN)
        try:
            return (yield from self._verifier.identify(request.token, now=time()))
        except TokenError as error:
            logger.info("client %s refused: %s", request.client, error)
            raise ConnectRefused(_code_of(error)) from error


def _code_of(error: TokenError) -> DisconnectCode:
    # A client with an expired token may come back with a fresh one, and one whose keys could not
    # be fetched with the same one; any other is told to stop trying.
    if isinstance(error, TokenExpired):
        return DisconnectCode.CONNECTION_EXPIRED
    if isinstance(error, KeysUnavailable):
        return DisconnectCode.INTERNAL_SERVER_ERROR
    return DisconnectCode.INVALID_TOKEN
