"""A user's own sessions, for the user themselves: list them, end one, end all others.

1. Whatever is asked, only the caller's own sessions are looked at; somebody else's client ID is
   answered like one that does not exist.
2. What the user sees is `OwnSession`, which has no `meta`.
3. Ending a session ends its login with it: its token is revoked, unless the caller says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from .errors import InvalidValue, NoSuchSession, SessionTooYoung, StoreUnavailable
from .flows import Flow
from .models import FORCED, Identity, check_id
from .operations import TIMEOUT_SECONDS, Operations
from .records import ConnectionInfo, OwnList, OwnSession, facts_of
from .stores.base import Closed, DisconnectUser, Entries, ListUser

__all__ = ["Caller", "OwnOperations"]

Caller: TypeAlias = "str | Identity"
"""Who asks: their token, or the identity that the app has authenticated."""


class OwnOperations:
    """What a user may do with their own sessions, as flows.

    Args:
        operations: what carries it out.
        caller: who asks.
    """

    def __init__(self, operations: Operations, caller: Caller) -> None:
        self._operations = operations
        self._caller = caller

    def list(self, *, current: str | None) -> Flow[OwnList]:
        """The caller's sessions, oldest first."""
        named = None if current is None else {check_id("current", current)}
        identity = yield from self._identify()
        entries = yield from ListUser(identity.user)
        mine = named or _of_token(entries.records, identity.token_id)
        sessions = (
            OwnSession.of(
                client,
                ConnectionInfo(record, last_seen=entries.seen.get(client)),
                current=client in mine,
            )
            for client, record in entries.records.items()
        )
        return OwnList(sessions, partial=entries.partial)

    def end(self, client: str, *, revoke: bool) -> Flow[Closed]:
        """End one of the caller's sessions."""
        identity = yield from self._identify()
        entries = yield from ListUser(identity.user)
        record = _found(entries, check_id("client", client))
        if identity.token_id is None or facts_of(record).token_id != identity.token_id:
            self._check_age(identity, None)
        return (yield from self._operations.disconnect(identity.user, client=client, revoke=revoke))

    def end_others(self, *, current: str | None, revoke: bool) -> Flow[Closed]:
        """End all of the caller's sessions but the current one, and those of the same token."""
        identity = yield from self._identify()
        entries = yield from ListUser(identity.user)
        token_id, record = identity.token_id, None
        if current is not None:
            record = _found(entries, check_id("current", current))
            token_id = facts_of(record).token_id
        elif token_id is None:
            raise InvalidValue("say which session is the current one: no token ID tells it")
        self._check_age(identity, record)
        # Not the sessions that were listed: another of this token may have come meanwhile.
        return (
            yield from DisconnectUser(
                identity.user,
                FORCED,
                whitelist=() if current is None else (current,),
                revoke=revoke,
                spared_token=token_id,
                timeout=TIMEOUT_SECONDS,
            )
        )

    def _identify(self) -> Flow[Identity]:
        identity = self._caller
        if not isinstance(identity, Identity):
            identity = yield from self._operations.authenticate(identity)
        if not identity.user:
            raise InvalidValue("anonymous users have no sessions of their own")
        return identity

    def _check_age(self, identity: Identity, current: bytes | None) -> None:
        # A session is as old as its login. Where no token says when that was, it is as old as its
        # connection, if the app says which that is: a caller could name any. And where nothing
        # says that either, nothing vouches for any age.
        since = identity.issued_at
        if since is None and current is not None and identity is self._caller:
            since = facts_of(current).connected_at
        least = self._operations.end_others_min_age
        if least and (since is None or self._operations.node.clock() - since < least):
            raise SessionTooYoung(
                "this login is too new to end other sessions; end them from one that is older"
            )


def _found(entries: Entries, client: str) -> bytes:
    record = entries.records.get(client)
    if record is not None:
        return record
    if entries.partial:
        raise StoreUnavailable("not all sessions can be seen now")
    raise NoSuchSession("there is no session of this client ID")


def _of_token(records: Mapping[str, bytes], token_id: str | None) -> set[str]:
    if token_id is None:
        return set()
    return {client for client, record in records.items() if facts_of(record).token_id == token_id}
