"""The store of one process: what its own registry holds, and no second copy of it.

1. Deciding and changing happen under the node's lock, in one act.
2. Nobody is told to end under that lock: a `close` may do whatever it likes.
3. Waiting for sessions to end is all that the blocking and the awaited face do differently.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import DisconnectCode
from ..flows import Reply
from ..models import Disconnect, SessionLimit
from ..node import INVALID, OVER_LIMIT, Node
from ..records import app_name_of, facts_of, refreshed
from ..refusals import KEPT_SECONDS, Refusal, Refusals
from ..registry import Tell, tell_all
from .base import (
    Allowed,
    BlockUser,
    CheckIdentity,
    Closed,
    DisconnectUser,
    EndRequest,
    Entries,
    InvalidateTokens,
    ListNodes,
    ListUser,
    Nodes,
    Reached,
    Rebind,
    RefreshUser,
    Refused,
    Register,
    RevokeToken,
    StoreRequest,
    UnblockUser,
    deadline_of,
)
from .choice import choose

__all__ = ["MemoryStore"]


@dataclass(frozen=True, slots=True)
class _Ending:
    """Sessions that have to end: whom to wait for, how to tell those not told yet, and what."""

    clients: tuple[str, ...]
    tell: list[Tell]
    disconnect: Disconnect
    not_revocable: tuple[str, ...] = ()

    def announce(self) -> None:
        tell_all(self.tell, self.disconnect)


class MemoryStore:
    """Sessions of this process alone; the default.

    With several worker processes, each knows and closes only its own sessions.

    Hand one store to a `UserSessions` and an `AsyncUserSessions`, and both see the same sessions.

    Args:
        clock: tells this moment in seconds since the epoch.

    >>> from usersessions import AsyncUserSessions, UserSessions
    >>> store = MemoryStore()
    >>> sessions, async_sessions = UserSessions(store=store), AsyncUserSessions(store=store)
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.node = Node(clock)
        self._refusals = Refusals()

    def answer(self, request: StoreRequest) -> Reply:
        """Do what is asked; only an `EndRequest` waits, and for its `timeout` at most."""
        if not isinstance(request, EndRequest):
            return self._answer(request)
        ending = self._choose(request)
        gone = threading.Semaphore(0)
        deadline = time.monotonic() + request.timeout
        waiting = self.node.registry.when_gone(ending.clients, gone.release)
        try:
            ending.announce()
            while waiting and gone.acquire(timeout=max(0.0, deadline - time.monotonic())):
                waiting -= 1
        finally:
            self.node.registry.forget_farewell(ending.clients, gone.release)
        return self._closed(ending)

    async def aanswer(self, request: StoreRequest) -> Reply:
        """Do what is asked; only an `EndRequest` waits, and for its `timeout` at most."""
        if not isinstance(request, EndRequest):
            return self._answer(request)
        ending = self._choose(request)
        loop = asyncio.get_running_loop()
        all_gone: asyncio.Future[None] = loop.create_future()
        waiting = 0

        def farewell() -> None:
            # A session may end after the loop that waited for it.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(count_down)

        def count_down() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                all_gone.set_result(None)

        waiting = self.node.registry.when_gone(ending.clients, farewell)
        try:
            ending.announce()
            if waiting:
                # Unlike `wait_for` before Python 3.12, this never swallows a cancellation.
                await asyncio.wait((all_gone,), timeout=request.timeout)
        finally:
            self.node.registry.forget_farewell(ending.clients, farewell)
        return self._closed(ending)

    def end(self, user: str, client: str) -> bool:
        """Forget a session; whether there was one."""
        return self.node.registry.remove(user, client)

    def touch(self, user: str, client: str) -> None:
        """Note that a client was heard of."""
        self.node.registry.touch(client, self.node.clock())

    def join(self) -> None:
        """Nothing to do: there are no others."""

    def close(self, *, timeout: float) -> None:
        """Nothing to do: there is nothing to release."""

    def _answer(self, request: StoreRequest) -> Reply:
        if isinstance(request, ListUser):
            records = self.node.registry.records(request.user)
            return Entries(records, self.node.registry.seen(records))
        if isinstance(request, Register):
            return self._register(request)
        if isinstance(request, CheckIdentity):
            with self.node.lock:
                refused = self._refused(request.user, request.token_id, request.issued_at)
            return refused or Allowed()
        if isinstance(request, Rebind):
            return self._rebind(request)
        if isinstance(request, RefreshUser):
            return self._refresh(request)
        if isinstance(request, ListNodes):
            return Nodes((self.node.info(),))
        if isinstance(request, UnblockUser):
            with self.node.lock:
                self._refusals.unblock(request.user)
            return Allowed()
        raise TypeError(f"not a request of this store: {type(request).__name__}")

    # Sessions ---------------------------------------------------------------------------------

    def _register(self, request: Register) -> Reply:
        facts = request.facts
        with self.node.lock:
            if self.node.draining:
                return Refused(DisconnectCode.SHUTDOWN)
            refused = self._refused(request.user, facts.token_id, facts.issued_at)
            if refused is not None:
                return refused
            excess = [] if request.limit is None else self._excess(request, request.limit)
            if excess and request.limit is not None and request.limit.policy == "reject":
                return Refused(DisconnectCode.CONNECTION_LIMIT)
            self.node.registry.add(
                request.user,
                request.client,
                request.record,
                request.tell,
                token_id=facts.token_id,
                deadline=deadline_of(facts.expire_at),
            )
            evicted = self.node.registry.take(excess)
        tell_all(evicted, OVER_LIMIT)
        return Allowed()

    def _excess(self, request: Register, limit: SessionLimit) -> list[str]:
        """The sessions that are too many once there is one more, the first to go first."""
        rivals = self.node.registry.open(request.user)
        if limit.per_app:
            name = app_name_of(request.record)
            rivals = {one: record for one, record in rivals.items() if app_name_of(record) == name}
        order = list(rivals)
        if limit.policy == "evict_idle":
            seen = self.node.registry.seen(rivals)
            order.sort(key=lambda one: seen.get(one, facts_of(rivals[one]).connected_at))
        return order[: max(0, len(order) + 1 - limit.max_sessions)]

    def _rebind(self, request: Rebind) -> Reply:
        with self.node.lock:
            refused = self._refused(request.user, request.token_id, request.issued_at)
            if refused is not None:
                return refused
            record = self.node.registry.open(request.user).get(request.client)
            if record is None:
                return Refused(DisconnectCode.CONNECTION_CLOSED)
            self._replace(
                request.user,
                request.client,
                refreshed(
                    record,
                    token_id=request.token_id,
                    issued_at=request.issued_at,
                    token_expires=request.token_expires,
                    expire_at=request.expire_at,
                ),
            )
        return Allowed()

    def _refresh(self, request: RefreshUser) -> Reply:
        with self.node.lock:
            records = self.node.registry.open(request.user)
            chosen = [client for client in records if request.client in (None, client)]
            for client in chosen:
                record = refreshed(records[client], expire_at=request.expire_at)
                self._replace(request.user, client, record)
        return Reached(tuple(chosen))

    def _replace(self, user: str, client: str, record: bytes) -> None:
        facts = facts_of(record)
        self.node.registry.replace(
            user, client, record, token_id=facts.token_id, deadline=deadline_of(facts.expire_at)
        )

    # Ends -------------------------------------------------------------------------------------

    def _choose(self, request: EndRequest) -> _Ending:
        """Keep out who has to be, and mark the sessions that have to end."""
        now = self.node.clock()
        with self.node.lock:
            if isinstance(request, RevokeToken):
                self._revoke(request.token_id, request.until, now)
                return self._ending(self.node.registry.of_token(request.token_id), INVALID)
            if not isinstance(request, (DisconnectUser, BlockUser, InvalidateTokens)):
                raise TypeError(f"not a request of this store: {type(request).__name__}")
            before = now
            if isinstance(request, BlockUser):
                self._refusals.block(request.user, until=request.until, now=now)
            elif isinstance(request, InvalidateTokens):
                before = now if request.issued_before is None else request.issued_before
                until = now + KEPT_SECONDS if request.until is None else request.until
                self._refusals.invalidate(request.user, issued_before=before, until=until, now=now)
            facts = {
                client: facts_of(record)
                for client, record in self.node.registry.records(request.user).items()
            }
            choice = choose(request, facts, issued_before=before)
            for token_id, ends in choice.revoked.items():
                self._revoke(token_id, ends, now)
            return self._ending(choice.clients, choice.disconnect, choice.not_revocable)

    def _revoke(self, token_id: str, until: float | None, now: float) -> None:
        ends = now + KEPT_SECONDS if until is None else until
        self._refusals.revoke(token_id, until=ends, now=now)

    def _ending(
        self,
        clients: Sequence[str],
        disconnect: Disconnect,
        not_revocable: tuple[str, ...] = (),
    ) -> _Ending:
        tell = self.node.registry.take(clients)
        return _Ending(tuple(clients), tell, disconnect, not_revocable)

    def _closed(self, ending: _Ending) -> Closed:
        held = self.node.registry.held(ending.clients)
        return Closed(
            tuple(client for client in ending.clients if client not in held),
            tuple(client for client in ending.clients if client in held),
            ending.not_revocable,
        )

    def _refused(self, user: str, token_id: str | None, issued_at: float | None) -> Refused | None:
        why = self._refusals.check(
            user, token_id=token_id, issued_at=issued_at, now=self.node.clock()
        )
        if why is None:
            return None
        blocked = why is Refusal.BLOCKED
        code = DisconnectCode.FORCE_DISCONNECT if blocked else DisconnectCode.INVALID_TOKEN
        return Refused(code, why)
