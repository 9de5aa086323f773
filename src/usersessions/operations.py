"""What the library does, each thing written once, as flows.

1. A connection is admitted first and registered then: whoever is refused was never visible.
2. A refusal is a `ConnectRefused`, whose code tells the client whether to come back; what led to
   it is its cause and never its text.
3. Arguments are checked here, so that both facades and the server API refuse the same.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from .errors import (
    ConfigError,
    ConnectRefused,
    DisconnectCode,
    InvalidValue,
    KeysUnavailable,
    TokenError,
    TokenExpired,
    TokenRevoked,
)
from .flows import Flow
from .models import (
    ConnectRequest,
    Disconnect,
    Identity,
    SessionLimit,
    check_id,
    check_labels,
    check_time,
)
from .node import EXPIRED, Node, NodeInfo
from .proxy import ConnectProxy
from .records import ConnectionInfo, Connections, Facts, prepare
from .registry import Tell
from .stores.base import (
    BlockUser,
    CheckIdentity,
    Closed,
    DisconnectUser,
    InvalidateTokens,
    ListNodes,
    ListUser,
    Rebind,
    RefreshUser,
    Refused,
    Register,
    RevokeToken,
    UnblockUser,
)
from .tokens import Verifier

__all__ = ["TIMEOUT_SECONDS", "Admitted", "Operations", "time_left"]

TIMEOUT_SECONDS = 2.0
"""How long to wait for connections to end, where nothing else is said."""

_LEAST_TO_CLOSE = 0.5
_MOST_TO_CLOSE = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A connection that may be made."""

    request: ConnectRequest
    identity: Identity
    facts: Facts = field(repr=False)


class Operations:
    """The logic behind a facade.

    Args:
        node: this process as a holder of sessions.
        verifier: says who a token speaks for; None refuses every token.
        connect_proxy: decides on connections without a token; None refuses them.
        allow_anonymous: whether the user `""` may connect.
        limit: how many sessions a user may have; None is any number.
        end_others_min_age: how old a login has to be to end other sessions of its user, in seconds.

    Raises:
        ConfigError: if `verifier`, `limit` or `end_others_min_age` is not what it has to be.
    """

    def __init__(
        self,
        node: Node,
        *,
        verifier: Verifier | None,
        connect_proxy: ConnectProxy | None,
        allow_anonymous: bool,
        limit: SessionLimit | None,
        end_others_min_age: float,
    ) -> None:
        if verifier is not None and not callable(getattr(verifier, "identify", None)):
            raise ConfigError(
                f"verifier must be a TokenVerifier or its like, not {type(verifier).__name__}: "
                "write store= before a store, and TokenVerifier(...) around a Key"
            )
        if limit is not None and not isinstance(limit, SessionLimit):
            raise ConfigError("limit must be a SessionLimit; None is any number of sessions")
        self.node = node
        self._verifier = verifier
        self._connect_proxy = connect_proxy
        self._allow_anonymous = allow_anonymous
        self._limit = limit
        self.end_others_min_age = _age("end_others_min_age", end_others_min_age)

    # Connections ------------------------------------------------------------------------------

    def admit(
        self,
        request: ConnectRequest,
        *,
        identity: Identity | None = None,
        user: str | None = None,
    ) -> Flow[Admitted]:
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
        if not isinstance(identity, Identity):
            raise InvalidValue(
                f"identity must be an Identity, not {type(identity).__name__}: "
                "give a user ID alone as user=, a string"
            )
        if not identity.user and not self._allow_anonymous:
            logger.info("client %s refused: anonymous users are not allowed", request.client)
            raise ConnectRefused(DisconnectCode.PERMISSION_DENIED)
        facts = Facts.of(
            request,
            identity,
            connected_at=self.node.clock(),
            from_token=request.token is not None,
        )
        return Admitted(request, identity, facts)

    def register(self, admitted: Admitted, tell: Tell) -> Flow[None]:
        """Make the session of an admitted connection visible.

        Raises:
            ConnectRefused: if its user or token is kept out, the user has sessions enough, or this
                process is about to stop; then there never was a session.
            InvalidValue: if it is registered already; that session goes on.
        """
        request, identity, facts = admitted.request, admitted.identity, admitted.facts
        record = prepare(request, identity, facts)
        reply = yield from Register(identity.user, request.client, record, facts, tell, self._limit)
        if isinstance(reply, Refused):
            why = reply.code.reason if reply.why is None else reply.why.value
            logger.info("client %s refused: %s", request.client, why)
            raise ConnectRefused(reply.code)

    def rebind(self, client: str, user: str, token: str) -> Flow[None]:
        """Have a session belong to another token of the same user.

        Raises:
            TokenError: if the token is refused, or is another user's; the session goes on.
            ConnectRefused: with 3000, if the session has ended.
        """
        identity = yield from self.authenticate(token)
        if identity.user != user:
            raise TokenError("the token is another user's")
        reply = yield from Rebind(
            user,
            client,
            identity.token_id,
            identity.issued_at or 0,
            identity.token_expires,
            identity.expire_at,
        )
        if isinstance(reply, Refused):
            raise ConnectRefused(reply.code) if reply.why is None else TokenRevoked(reply.why.value)

    def authenticate(self, token: str) -> Flow[Identity]:
        """Say who a token speaks for.

        Raises:
            TokenError: if it is refused, was revoked, or its user is blocked, or is nobody and
                anonymous users are not allowed.
        """
        if self._verifier is None:
            raise TokenError("no token verifier is configured")
        identity = yield from self._verifier.identify(token, now=self.node.clock())
        if not identity.user and not self._allow_anonymous:
            raise TokenError("the token names no user, and anonymous users are not allowed")
        reply = yield from CheckIdentity(identity.user, identity.token_id, identity.issued_at or 0)
        if isinstance(reply, Refused) and reply.why is not None:
            raise TokenRevoked(reply.why.value)
        return identity

    # Lists ------------------------------------------------------------------------------------

    def user_connections(self, user: str) -> Flow[Connections]:
        """A user's connections, by client ID."""
        entries = yield from ListUser(check_id("user", user))
        connections = (
            (client, ConnectionInfo(record, last_seen=entries.seen.get(client)))
            for client, record in entries.records.items()
        )
        return Connections(connections, partial=entries.partial)

    def info(self) -> Flow[tuple[NodeInfo, ...]]:
        """The processes that share the store."""
        return (yield from ListNodes())

    # Control ----------------------------------------------------------------------------------

    def disconnect(
        self,
        user: str,
        *,
        client: str | None = None,
        session: str | None = None,
        whitelist: Collection[str] = (),
        label_filter: Mapping[str, str] | None = None,
        code: int = DisconnectCode.FORCE_DISCONNECT,
        reason: str | None = None,
        revoke: bool = False,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Flow[Closed]:
        """End a user's connections."""
        if isinstance(whitelist, str) or not isinstance(whitelist, Iterable):
            raise InvalidValue(
                f"whitelist must be a collection of client IDs, not {type(whitelist).__name__}"
            )
        return (
            yield from DisconnectUser(
                check_id("user", user),
                Disconnect.of(code) if reason is None else Disconnect(code, reason),
                client=_client(client, session),
                whitelist=frozenset(check_id("an entry of whitelist", one) for one in whitelist),
                labels=check_labels({} if label_filter is None else label_filter),
                revoke=revoke,
                timeout=_timeout(timeout),
            )
        )

    def block_user(
        self, user: str, *, expire_at: float | None = None, timeout: float = TIMEOUT_SECONDS
    ) -> Flow[Closed]:
        """Keep a user out, and end their connections."""
        until = _moment("expire_at", expire_at)
        return (yield from BlockUser(_named("user", user), until, timeout=_timeout(timeout)))

    def unblock_user(self, user: str) -> Flow[None]:
        """Let a user in again."""
        yield from UnblockUser(_named("user", user))

    def revoke_token(
        self, uid: str, *, expire_at: float | None = None, timeout: float = TIMEOUT_SECONDS
    ) -> Flow[Closed]:
        """Keep a token out, and end its connections."""
        until = _moment("expire_at", expire_at)
        return (yield from RevokeToken(_named("uid", uid), until, timeout=_timeout(timeout)))

    def invalidate_user_tokens(
        self,
        user: str,
        *,
        issued_before: float | None = None,
        expire_at: float | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Flow[Closed]:
        """Keep out a user's tokens issued before a moment, and end their connections."""
        return (
            yield from InvalidateTokens(
                _named("user", user),
                _moment("issued_before", issued_before),
                _moment("expire_at", expire_at),
                timeout=_timeout(timeout),
            )
        )

    def refresh(
        self,
        user: str,
        *,
        client: str | None = None,
        session: str | None = None,
        expire_at: float | None = None,
        expired: bool = False,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Flow[tuple[str, ...]]:
        """Give a user's connections another end, or end them now as expired."""
        named = check_id("user", user), _client(client, session)
        until = _moment("expire_at", expire_at)
        if not expired:
            return (yield from RefreshUser(*named, until))
        wait = _timeout(timeout)
        closed = yield from DisconnectUser(named[0], EXPIRED, client=named[1], timeout=wait)
        return closed.closed + closed.unconfirmed

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
            return (yield from self._verifier.identify(request.token, now=self.node.clock()))
        except TokenError as error:
            logger.info("client %s refused: %s", request.client, error)
            raise ConnectRefused(_code_of(error)) from error


def time_left(timeout: float, *, since: float) -> float:
    """What is left of some seconds for closing a store, which has a little in any case.

    Args:
        timeout: how many seconds there were.
        since: from when on, on the monotonic clock.

    >>> time_left(0, since=time.monotonic())
    0.5
    """
    left = timeout - (time.monotonic() - since)
    return min(max(left, _LEAST_TO_CLOSE), _MOST_TO_CLOSE)


def _code_of(error: TokenError) -> DisconnectCode:
    # A client with an expired token may come back with a fresh one, and one whose keys could not
    # be fetched with the same one; any other is told to stop trying.
    if isinstance(error, TokenExpired):
        return DisconnectCode.CONNECTION_EXPIRED
    if isinstance(error, KeysUnavailable):
        return DisconnectCode.INTERNAL_SERVER_ERROR
    return DisconnectCode.INVALID_TOKEN


def _client(client: str | None, session: str | None) -> str | None:
    # Centrifugo knows a connection under two IDs; here they are the same one.
    given = {check_id("client", one) for one in (client, session) if one is not None}
    if len(given) > 1:
        raise InvalidValue("client and session are the same ID here: give one of them")
    return next(iter(given), None)


def _named(name: str, value: str) -> str:
    if not check_id(name, value):
        raise InvalidValue(f"{name} must not be empty")
    return value


def _moment(name: str, value: float | None) -> float | None:
    # 0 is an unset member in Centrifugo's protocol.
    return None if value is None else check_time(name, value) or None


def _age(name: str, seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ConfigError(f"{name} must be a number of seconds")
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{name} must be finite and not negative")
    return seconds


def _timeout(timeout: object) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidValue("timeout must be a number of seconds")
    if not 0 <= timeout <= 60:
        raise InvalidValue("timeout must be from 0 to 60 seconds")
    return timeout
