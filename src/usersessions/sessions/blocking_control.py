"""What the blocking facade does to sessions: ends them, keeps out users and tokens, sets ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TypeVar

from ..errors import DisconnectCode
from ..flows import Flow
from ..operations import TIMEOUT_SECONDS, Operations
from ..stores.base import Closed

__all__ = ["Control"]

T = TypeVar("T")


class Control(ABC):
    """The part of `UserSessions` that ends sessions; it needs `run` and `arm` of the whole."""

    operations: Operations

    @abstractmethod
    def run(self, flow: Flow[T]) -> T:
        """Drive one of this library's flows with what this object holds."""

    @abstractmethod
    def arm(self) -> None:
        """Have the timer wait for the first session to expire."""

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
    ) -> Closed:
        """End a user's connections, and say what became of them.

        Args:
            user: whose connections.
            client: only this one; None is all of them.
            session: the same ID, under the other name that Centrifugo has for it.
            whitelist: client IDs to leave alone.
            label_filter: only connections that have all these labels.
            code: 3000 to 4999; 3000-3499 and 4000-4499 invite the client to reconnect.
            reason: for people, at most 123 bytes of UTF-8; None is the code's own.
            revoke: also revoke the token of each connection that is closed, until its `exp`, or for
                30 days where it has none; with it end all other connections of that token. The
                token of a connection in `whitelist` is spared, and so are its other connections.
            timeout: seconds to wait for the connections to end, from 0 to 60. Whoever ends a
                connection from within its own block would wait for itself: give 0 there.

        Raises:
            InvalidValue: if a value is outside of its bounds.
            StoreUnavailable: if the store did not answer in time.

        >>> from usersessions import UserSessions
        >>> sessions = UserSessions()
        >>> with sessions.connect(user="42", transport="websocket") as session:
        ...     sessions.disconnect("42", timeout=0).unconfirmed == (session.client,)
        True
        """
        return self.run(
            self.operations.disconnect(
                user,
                client=client,
                session=session,
                whitelist=whitelist,
                label_filter=label_filter,
                code=code,
                reason=reason,
                revoke=revoke,
                timeout=timeout,
            )
        )

    def block_user(
        self,
        user: str,
        *,
        expire_at: float | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Closed:
        """Keep a user out: their connections end with 3503, new ones and all tokens are refused.

        Args:
            user: whom.
            expire_at: until when, in seconds since the epoch; None is until `unblock_user`.
            timeout: seconds to wait for the connections to end, from 0 to 60.

        Raises:
            InvalidValue: if a value is outside of its bounds, or the user is the anonymous one.
            StoreUnavailable: if the store did not answer in time.

        >>> from usersessions import UserSessions
        >>> UserSessions().block_user("42")
        Closed(closed=(), unconfirmed=(), not_revocable=(), partial=False)
        """
        return self.run(self.operations.block_user(user, expire_at=expire_at, timeout=timeout))

    def unblock_user(self, user: str) -> None:
        """Let a user in again.

        Raises:
            InvalidValue: if `user` is outside of its bounds.
            StoreUnavailable: if the store did not answer in time.

        >>> from usersessions import UserSessions
        >>> UserSessions().unblock_user("42")
        """
        self.run(self.operations.unblock_user(user))

    def revoke_token(
        self,
        uid: str,
        *,
        expire_at: float | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Closed:
        """Refuse a token from now on, and end its connections with 3500.

        Args:
            uid: the token's `jti`.
            expire_at: until when, in seconds since the epoch: the token's `exp`, and the leeway.
                None is for 30 days, after which a token without `exp` would be good again.
            timeout: seconds to wait for the connections to end, from 0 to 60.

        Raises:
            InvalidValue: if a value is outside of its bounds.
            StoreUnavailable: if the store did not answer in time.

        >>> from usersessions import UserSessions
        >>> UserSessions().revoke_token("7d3f1c52", expire_at=1700000000)
        Closed(closed=(), unconfirmed=(), not_revocable=(), partial=False)
        """
        return self.run(self.operations.revoke_token(uid, expire_at=expire_at, timeout=timeout))

    def invalidate_user_tokens(
        self,
        user: str,
        *,
        issued_before: float | None = None,
        expire_at: float | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Closed:
        """Refuse a user's tokens that were issued before a moment, and end their connections.

        They end with 3500. A token without `iat` counts as issued before every moment.

        Args:
            user: whose tokens.
            issued_before: the moment, in seconds since the epoch; None is now. `iat` is in whole
                seconds, so a token issued within this very second counts as issued before.
            expire_at: until when: the end of the last of these tokens. None is for 30 days.
            timeout: seconds to wait for the connections to end, from 0 to 60.

        Raises:
            InvalidValue: if a value is outside of its bounds, or the user is the anonymous one.
            StoreUnavailable: if the store did not answer in time.

        >>> from usersessions import UserSessions
        >>> UserSessions().invalidate_user_tokens("42")
        Closed(closed=(), unconfirmed=(), not_revocable=(), partial=False)
        """
        return self.run(
            self.operations.invalidate_user_tokens(
                user, issued_before=issued_before, expire_at=expire_at, timeout=timeout
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
    ) -> tuple[str, ...]:
        """Set when a user's connections expire, and give the client IDs that this reached.

        A connection that expires is closed 25 seconds later with 3005, unless it is refreshed.

        Args:
            user: whose connections.
            client: only this one; None is all of them.
            session: the same ID, under the other name that Centrifugo has for it.
            expire_at: when, in seconds since the epoch; None or 0 is never.
            expired: close them now as expired instead, with 3005.
            timeout: seconds to wait for them to end then, from 0 to 60.

        Raises:
            InvalidValue: if a value is outside of its bounds.
            StoreUnavailable: if the store did not answer in time.

        >>> from usersessions import UserSessions
        >>> UserSessions().refresh("42", expire_at=1700000000)
        ()
        """
        reached = self.run(
            self.operations.refresh(
                user,
                client=client,
                session=session,
                expire_at=expire_at,
                expired=expired,
                timeout=timeout,
            )
        )
        self.arm()
        return reached
