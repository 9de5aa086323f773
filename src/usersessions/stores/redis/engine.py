"""What works for the store in the background, one for each process.

1. The line carries the calls of all callers. The reader renews the lease, reads the log and the
   mailbox, and tells Redis again what it may not know. The teller tells sessions to end, as an
   app's `close` may take its time.
2. Each is a thread that starts when it is needed first, so that a store may be made before a
   process forks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ...node import Node
from .asks import Act
from .calls import Calls
from .entries import Mail
from .keys import Keys
from .leases import Leases
from .line import Answers, Call, Line, Outcome
from .link import Target
from .member import Member
from .orders import Effect
from .protocol import Protocol
from .reader import Reader
from .scripts import sources
from .teller import Teller
from .waits import Wait

__all__ = ["Engine"]


class Engine:
    """Nothing runs yet.

    Args:
        node: the sessions of this process.
        target: where Redis is.
        keys: the names there.
        lease: seconds of the lease.
        timeout: seconds that a request may take.
    """

    def __init__(
        self, node: Node, target: Target, keys: Keys, *, lease: float, timeout: float
    ) -> None:
        self._timeout = timeout
        leases = Leases()
        self._calls = Calls(keys, leases, node.clock, in_one_place=not target.is_cluster)
        self.member = Member(node, leases, self._calls)
        waits: dict[str, Wait] = {}
        self._node = node
        self._leases = leases
        link = target.link(timeout=timeout, scripts=sources())
        self.line = Line(link, broken=self._doubt, recovered=self._wake)
        self._teller = Teller()
        self._reader = Reader(
            node,
            leases,
            self._calls,
            self.member,
            target,
            waits=waits,
            act=self._act,
            lease=lease,
            timeout=timeout,
        )
        self.protocol = Protocol(
            node,
            leases,
            self._calls,
            self.member,
            waits=waits,
            mailbox=self._reader.mailbox,
            act=Act(
                join=self.join,
                listen=lambda: self._reader.start(joins=False),
                effect=self._follow,
                is_broken=lambda: self.line.is_broken,
                doubt=self._reader.doubt,
                renewal=self._reader.renewal,
            ),
            timeout=timeout,
        )

    def join(self) -> None:
        """Be a node that the others see."""
        self._reader.start(joins=True)

    def end(self, user: str, client: str) -> bool:
        """Forget a session; whether it was held."""
        held, calls = self.member.end(user, client)

        def done(outcome: Outcome) -> None:
            self._act(Effect(calls=self.member.told_of_end(client, outcome)))
            if not isinstance(outcome, Answers):
                self._wake()

        if calls:
            self._submit(calls, done)
        return held

    def close(self, *, until: float) -> None:
        """Leave the others, and end all threads."""
        was_running = self._reader.is_running
        # First, since it would take the lease again.
        self._reader.stop(until=until)
        if was_running:
            self.line.submit([self._calls.leave(self._reader.mailbox)], until=until)
        self.line.close(until=until)
        self._teller.close(until=until)
        if was_running:
            # Others know the lease as lost.
            self.member.begin_anew()

    def _act(self, effect: Effect) -> None:
        if effect.tells:
            self._teller.tell(effect.tells)
        for call in effect.calls:
            self._make(call)

    def _make(self, call: Call) -> None:
        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Answers):
                return
            if call.session is not None:
                # As it is by then: this call would be old.
                self.member.write_later(*call.session)
                self._wake()
            elif call.name in ("post", "revoke", "mail"):
                # What others have to do, or wait for; all else is written anew if missing.
                self._reader.make_later(call)
                self._wake()

        self._submit([call], done)

    def _follow(self, effect: Effect) -> None:
        """Act as what a caller did demands, and have sessions that are left to be written seen to.

        Otherwise they would wait until the reader has something else to do.
        """
        self._act(effect)
        if self.member.is_behind and not self.line.is_broken:
            self._wake()

    def _doubt(self) -> None:
        with self._node.lock:
            self._leases.doubt()
        self._reader.note_break()

    def _wake(self) -> None:
        """Have the reader look at once what Redis has to be told."""
        if self._reader.is_running and not self._reader.is_called:
            self._reader.is_called = True
            self._submit([self._calls.mail(self._reader.mailbox, Mail("", ()))], self._called)

    def _called(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Answers):
            self._reader.is_called = False

    def _submit(self, calls: Sequence[Call], done: Callable[[Outcome], None]) -> None:
        self.line.submit(calls, done, until=time.monotonic() + self._timeout)
