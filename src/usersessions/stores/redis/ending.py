"""Ending sessions wherever they are held, as flows.

Each first keeps out who has to be kept out, then adds to the log, and then waits for answers: what
is in the log is done, whatever becomes of the caller.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from ...flows import Flow
from ...records import facts_of
from ..base import (
    BlockUser,
    Closed,
    DisconnectUser,
    InvalidateTokens,
    Reached,
    RefreshUser,
    RevokeToken,
)
from ..choice import choose
from .asks import Asker, Pause
from .entries import Entry, Order
from .line import Call
from .replies import nodes
from .waits import Wait

__all__ = ["ANSWER_SECONDS", "Ending"]

ANSWER_SECONDS = 0.2
"""How long processes have to answer that they did as told, where nobody waits for sessions."""


class Ending(Asker):
    """The flows that reach sessions on all nodes."""

    def end_user(
        self, request: DisconnectUser | BlockUser | InvalidateTokens, until: float
    ) -> Flow[Closed]:
        user, before = request.user, 0.0
        first: list[Call] = []
        order: Order = request
        if isinstance(request, BlockUser):
            first = [self._calls.block(user, request.until)]
        elif isinstance(request, InvalidateTokens):
            now = self._node.clock()
            before = now if request.issued_before is None else request.issued_before
            first = [self._calls.invalidate(user, before, request.until)]
            order = replace(request, issued_before=before)
        held, is_complete = yield from self._sessions(user, until, *first)
        facts = {one.client: facts_of(one.record) for one in held}
        choice = choose(request, facts, issued_before=before)
        calls = [self._calls.revoke(token_id, ends) for token_id, ends in choice.revoked.items()]
        if choice.clients:
            calls.append(self._calls.mark(user, choice.clients))
        if calls:
            yield from self._ask(calls, until)
        holders = {one.client: one.lease for one in held}
        wait = Wait(
            {one.lease for one in held},
            {client: holders[client] for client in choice.clients},
        )
        yield from self._give(
            order,
            wait,
            until,
            time.monotonic() + request.timeout,
            leases=tuple({one.lease for one in held}),
            revoked=tuple(choice.revoked),
            spared=tuple(choice.spared),
        )
        return Closed(
            wait.closed,
            wait.unconfirmed,
            choice.not_revocable,
            partial=wait.is_partial or not is_complete,
        )

    def revoke(self, request: RevokeToken, until: float) -> Flow[Closed]:
        calls = [self._calls.revoke(request.token_id, request.until), self._calls.nodes()]
        values = (yield from self._ask(calls, until)).values
        wait = Wait([lease for lease, _, _ in nodes(values[1])])
        end = time.monotonic() + request.timeout
        yield from self._give(request, wait, until, end, leases=None)
        return Closed(wait.closed, wait.unconfirmed, partial=wait.is_partial)

    def refresh(self, request: RefreshUser, until: float) -> Flow[Reached]:
        held, _ = yield from self._sessions(request.user, until)
        leases = tuple({one.lease for one in held})
        wait = Wait(leases)
        yield from self._give(request, wait, until, None, leases=leases)
        order = {one.client: place for place, one in enumerate(held)}
        return Reached(tuple(sorted(wait.told, key=lambda client: order.get(client, len(order)))))

    def _give(
        self,
        order: Order,
        wait: Wait,
        until: float,
        end: float | None,
        *,
        leases: tuple[str, ...] | None,
        revoked: tuple[str, ...] = (),
        spared: tuple[str, ...] = (),
    ) -> Flow[None]:
        """Add an order to the log by `until`, and wait until it was carried out.

        That is until all have answered; where there is an `end`, sessions are waited for until
        then, but answers for `ANSWER_SECONDS` at least: so whoever waits for no session still
        knows which there were.
        """
        self._act.listen()
        command = secrets.token_hex(8)
        self._waits[command] = wait
        try:
            entry = Entry(order, command, self._mailbox, leases, revoked, spared)
            yield from self._ask([self._calls.post(entry)], until)
            if end is None:
                yield from Pause(wait, until)
            else:
                yield from Pause(wait, max(end, time.monotonic() + ANSWER_SECONDS))
                wait.for_ends()
                yield from Pause(wait, end)
        finally:
            self._waits.pop(command, None)
