"""Nodes in the process of the test: each store is a node of its own, however many there are.

The bounds are those that are promised, for the lease and the timeout that these tests use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import TypeVar

import jwt
from typing_extensions import Self

from tests.redis_servers import RedisServer
from usersessions import (
    Connections,
    Disconnect,
    Identity,
    Key,
    RedisStore,
    Session,
    SessionLimit,
    StoreUnavailable,
    TokenVerifier,
    UserSessions,
)

T = TypeVar("T")

LEASE = 1.0
TIMEOUT = 0.5
RENEWAL = LEASE / 3
HEALED = RENEWAL + 1.0
"""Within so many seconds of Redis being well again, everything is."""

CERTAIN = 2 * HEALED
"""Within so many seconds, lists do not say `partial` any more."""

VANISHED = LEASE + 1.0
"""Within so many seconds of its last sign of life, nothing of a node is listed."""

AT_ONCE = 0.25
"""What waits 40 ms for Redis at most takes no longer, on a busy machine; `TIMEOUT` would."""

IN_TIME = TIMEOUT + 0.3
"""What waits for Redis takes no longer, on a busy machine."""

SECRET = "a secret of at least thirty-two bytes"


def token_of(user: str, token_id: str) -> str:
    """A token of a user, issued long ago."""
    claims = {"sub": user, "jti": token_id, "iat": 1, "exp": 2**33}
    return jwt.encode(claims, SECRET, algorithm="HS256")


class _Open:
    """A session whose block is over once it was told to end, or the test ends it."""

    def __init__(self, told: Callable[[], None] | None) -> None:
        self.block = ExitStack()
        self.session: Session | None = None
        self.code: int | None = None
        self._entered = threading.Event()
        self._lock = threading.Lock()
        self._told = told

    def entered(self) -> None:
        self._entered.set()

    def tell(self, disconnect: Disconnect) -> None:
        self.code = disconnect.code
        if self._told is not None:
            self._told()
            return
        self._entered.wait()
        self.end()

    def end(self) -> None:
        with self._lock:
            self.block.close()


class Here:
    """A node with a blocking facade, inside the `with` block.

    Args:
        url: of the Redis.
        prefix: as for `RedisStore`.
        lease: as for `RedisStore`.
        timeout: as for `RedisStore`.
        clock_offset: by how many seconds its wall clock is wrong.
        limit: how many sessions a user may have.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "usersessions",
        lease: float = LEASE,
        timeout: float = TIMEOUT,
        clock_offset: float = 0.0,
        limit: SessionLimit | None = None,
    ) -> None:
        self.store = RedisStore(
            url,
            prefix=prefix,
            lease=lease,
            timeout=timeout,
            clock=lambda: time.time() + clock_offset,
        )
        self.sessions = UserSessions(
            TokenVerifier(Key(SECRET, algorithm="HS256")), store=self.store, limit=limit
        )
        self._open: dict[str, _Open] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for one in self._open.values():
            one.end()
        self.sessions.close(timeout=1.0)

    def open(
        self,
        user: str | Identity,
        *,
        token: str | None = None,
        app_name: str | None = None,
        told: Callable[[], None] | None = None,
    ) -> str:
        """Open a session, and give its client ID.

        Args:
            user: whose, or who.
            token: their token, if they come with one; `user` is not looked at then.
            app_name: the client's app name.
            told: called when the session is told to end; without it, it ends.
        """
        identity = Identity(user) if isinstance(user, str) else user
        one = _Open(told)

        session = one.block.enter_context(
            self.sessions.connect(
                identity=None if token else identity,
                token=token,
                transport="websocket",
                app_name=app_name,
                close=one.tell,
            )
        )
        one.session = session
        self._open[session.client] = one
        one.entered()
        return session.client

    def end(self, *clients: str) -> None:
        """End sessions as if their clients had gone."""
        for client in clients:
            self._open[client].end()

    def code(self, client: str) -> int | None:
        """What a session was told to end with."""
        return self._open[client].code

    def session(self, client: str) -> Session:
        """A session, as the app has it."""
        session = self._open[client].session
        assert session is not None
        return session

    def held(self, user: str) -> set[str]:
        """The sessions of a user that it holds."""
        return set(self.store.node.registry.records(user))

    def list(self, user: str) -> Connections:
        """A user's connections."""
        return self.sessions.user_connections(user)

    def whole(self, user: str) -> set[str] | None:
        """The client IDs in a user's list; None if it is partial, or there is no list now."""
        with suppress(StoreUnavailable):
            listed = self.list(user)
            return None if listed.partial else set(listed)
        return None


def sees(node: Here, user: str, clients: set[str], *, seconds: float = HEALED) -> None:
    """Wait until a node lists just these sessions of a user, though it may say `partial`.

    Raises:
        AssertionError: if it does not in time; with what it lists.
    """
    _wait(node, user, clients, seconds, or_partial=True)


def sees_all(node: Here, user: str, clients: set[str], *, seconds: float = CERTAIN) -> None:
    """As `sees`, and that it says that these are all."""
    _wait(node, user, clients, seconds, or_partial=False)


def _wait(node: Here, user: str, clients: set[str], seconds: float, *, or_partial: bool) -> None:
    deadline = time.monotonic() + seconds
    while True:
        found: object = None
        with suppress(StoreUnavailable):
            found = listed = node.list(user)
            if set(listed) == clients and (or_partial or not listed.partial):
                return
            found = set(listed), f"partial={listed.partial}"
        if time.monotonic() > deadline:
            raise AssertionError(f"it lists {found} and not {clients} after {seconds:g} s")
        time.sleep(0.01)


def never_sees(node: Here, user: str, client: str, *, seconds: float = RENEWAL) -> None:
    """Look for a while whether a node lists a session that has ended.

    Raises:
        AssertionError: if it does.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(StoreUnavailable):
            assert client not in node.list(user), "a session came back that had ended"
        time.sleep(0.01)


def records(server: RedisServer, user: str, *, prefix: str = "usersessions") -> set[str]:
    """The sessions that Redis has of a user."""
    return set(server.cli("HKEYS", f"{prefix}:{{u:{user}}}"))


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer, whatever comes of it."""
    began = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - began
        assert took <= seconds, f"it took {took:.3f} s, and may take {seconds:g} s"
