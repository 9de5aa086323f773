"""What `UserSessions.own` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..flows import Flow
from ..own_sessions import OwnOperations
from ..records import OwnList
from ..stores.base import Closed

__all__ = ["OwnSessions"]


class OwnSessions:
    """A user's own sessions, for the user themselves; only ever the caller's.

    Each method raises TokenError if the caller's token is refused, InvalidValue if a value is
    outside of its bounds or the caller is the anonymous user, and StoreUnavailable if the store did
    not answer in time.
    """

    def __init__(self, run: Callable[[Flow[Any]], Any], operations: OwnOperations) -> None:
        self._run = run
        self._operations = operations

    def list(self, *, current: str | None = None) -> OwnList:
        """The sessions, oldest first.

        What it gives is a tuple; its `partial` is true if there may be more than could be seen.

        Args:
            current: the client ID of the session that asks, to be marked; None marks those of the
                caller's token.
        """
        sessions: OwnList = self._run(self._operations.list(current=current))
        return sessions

    def end(self, client: str, *, revoke: bool = True) -> Closed:
        """End one of them, and its login with it.

        Args:
            client: its client ID.
            revoke: also revoke its token, so that it cannot come back.

        Raises:
            NoSuchSession: if the caller has none of this client ID.
            SessionTooYoung: if it is another login's, and the caller's is too young to end others.
        """
        closed: Closed = self._run(self._operations.end(client, revoke=revoke))
        return closed

    def end_others(self, *, current: str | None = None, revoke: bool = True) -> Closed:
        """End all of them but the current one and those of the same token.

        Args:
            current: the client ID of the session that asks; None keeps those of the caller's token.
            revoke: also revoke their tokens, so that they cannot come back.

        Raises:
            InvalidValue: if nothing says which session is the current one.
            NoSuchSession: if the caller has no session `current`.
            SessionTooYoung: if the caller's login is too young to end others.
        """
        closed: Closed = self._run(self._operations.end_others(current=current, revoke=revoke))
        return closed
