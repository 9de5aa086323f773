"""The thread that keeps this process a node: its lease, the log, its mailbox, and its sessions.

1. A lease that may have ended is given up at once, and so is one whose server was started anew or
   follows another one now: what such a server knows may be old.
2. Whoever has not read the log for longer than it is kept does not know what was missed. All of its
   sessions are told to come back, and are checked then.
3. Only what has a bounded size is done in one round, so that the lease is renewed in time.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict

from ...errors import DisconnectCode
from ...models import Disconnect
from ...node import EXPIRED, Node
from ...strictjson import dumps
from .calls import Calls
from .entries import Entry, Mail, entry_id
from .keys import LOG_SECONDS
from .leases import Leases
from .line import Answers, Call, exchange, outcome_of
from .link import Command, LinkBroken, Refused, Target
from .member import Member
from .orders import Effect
from .replies import nodes, streams, text
from .replies import verdict as read_verdict
from .scripts import sources
from .waits import Wait

__all__ = ["Reader"]

logger = logging.getLogger(__name__)

_OFTEN = 0.05
_SELDOM = 0.5
_ENTRIES = 500
_LATER = 1000
_LONGEST_GAP = LOG_SECONDS - 60.0
_SETTLE = 1.0
_RECONNECT = Disconnect.of(DisconnectCode.FORCE_RECONNECT)


class Reader:
    """Not running yet.

    Args:
        node: the sessions of this process.
        leases: who it is.
        calls: how Redis is told.
        member: what it holds.
        target: where Redis is.
        waits: who waits for answers, by the ID of the command.
        act: tells sessions, and makes calls that nobody waits for.
        lease: seconds of the lease; it is renewed three times as often.
        timeout: seconds that Redis has to answer.

    Attributes:
        mailbox: the name under which others answer.
        is_called: whether it is on its way to look at what Redis has to be told.
    """

    def __init__(
        self,
        node: Node,
        leases: Leases,
        calls: Calls,
        member: Member,
        target: Target,
        *,
        waits: dict[str, Wait],
        act: Callable[[Effect], None],
        lease: float,
        timeout: float,
    ) -> None:
        self.mailbox = leases.own
        self.is_called = False
        self._node = node
        self._leases = leases
        self._calls = calls
        self._member = member
        self._waits = waits
        self._act = act
        self._lease = lease
        # A reply that takes longer than this endangers the lease.
        self._timeout = min(timeout, lease / 3)
        self._link = target.link(timeout=lease / 3 + self._timeout, scripts=sources())
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._joins = False
        self._mail = "0-0"
        self._identity = b""
        self._renewed_at = 0.0
        self._renew_at = 0.0
        self._read_at = 0.0
        self._heal_at = 0.0
        self._complete_at = 0.0
        self._broke_at = -math.inf
        self._has_lapsed = False
        self._given_up = ""
        self._later: deque[Call] = deque(maxlen=_LATER)

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    def start(self, *, joins: bool = True) -> None:
        """Start, if it is not running.

        Args:
            joins: whether to take a lease, without which nothing but the mailbox is read.
        """
        with self._lock:
            if joins and not self._joins:
                self._joins, self._renewed_at = True, time.monotonic()
            if self._thread is None:
                self._stopped.clear()
                self.is_called = False
                self._read_at = time.monotonic()
                self._thread = threading.Thread(
                    target=self._run, name="usersessions-log", daemon=True
                )
                self._thread.start()

    def stop(self, *, until: float) -> None:
        """End the thread, and wait for that until then, on the monotonic clock."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            self._stopped.set()
            while thread.is_alive() and (left := until - time.monotonic()) > 0:
                # It waits for news that nobody needs any more, perhaps over a new connection.
                self._link.close()
                thread.join(min(left, _OFTEN))

    def doubt(self) -> bool:
        """Whether Redis may know less than there is: it has lost data that others may not have
        written again, or it does not write now, or it may be another one since the last renewal, or
        what held up that renewal may have cost others their lease."""
        now = time.monotonic()
        seen_at = self._renewed_at if self._joins else now - self._lease / 3 - _SETTLE
        is_unsure = now < self._complete_at or self._is_late(now)
        return self._has_lapsed or is_unsure or seen_at < self._broke_at

    def note_break(self) -> None:
        """Note that the way to Redis broke: the next renewal says whether it is the same one."""
        self._broke_at = time.monotonic()
        self._renew_at = 0.0

    def make_later(self, call: Call) -> None:
        """Make a call as soon as Redis answers again."""
        self._later.append(call)

    def renewal(self) -> Call:
        """The call that takes or renews the lease."""
        about = dumps(asdict(self._node.info()))
        return self._calls.renew(int(self._lease * 1000), about, give_up=self._given_up)

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped.is_set():
            try:
                self._round()
                pause = 0.0
            except LinkBroken:
                self._notice_lapse()
                pause = min(max(_OFTEN, pause * 2), _SELDOM)
                # As soon as there is an answer again, the lease comes first.
                self._renew_at = 0.0
                self._stopped.wait(pause)
            except Exception:
                # A mistake of ours must not have this process taken for dead.
                logger.exception("the log of Redis could not be dealt with")
                self._stopped.wait(_SELDOM)
        self._link.close()
        with self._lock:
            self._thread = None
            self._joins = False

    def _round(self) -> None:
        now = time.monotonic()
        if self._joins and now >= self._renew_at:
            self._renew()
        self._read()
        # Before it looks: who has something for it from now on has to call again.
        self.is_called = False
        self._expire()
        if (self._member.has_due or self._later) and time.monotonic() >= self._heal_at:
            self._heal()

    def _ask(self, calls: Sequence[Call]) -> list[object]:
        return exchange(self._link, calls)

    def _notice_lapse(self) -> None:
        if self._leases.is_taken and time.monotonic() > self._renewed_at + self._lease:
            # It may have ended; what is under it is nobody's then.
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._given_up = self._member.begin_anew()
        self._has_lapsed = True
        # By then, all others have noticed as well, and written their sessions again.
        self._complete_at = time.monotonic() + self._lease / 3 + _SETTLE

    def _is_late(self, now: float) -> bool:
        # Others may have renewed theirs as much earlier as one renewal is from the next.
        return self._joins and now - self._renewed_at > self._lease * 2 / 3

    # The lease --------------------------------------------------------------------------------

    def _renew(self) -> None:
        identity = self._link.identity()
        if self._identity not in (b"", identity):
            logger.warning(
                "Redis was started anew or follows another one: sessions are written again"
            )
            self._begin_anew()
        self._identity = identity
        users = self._member.next_users()
        touches, news = self._calls.touch(users), self._member.news()
        lease, asked_at = self._leases.own, time.monotonic()
        replies = self._ask([self.renewal(), *touches, *news])
        renewed = outcome_of(replies[:1])
        if not isinstance(renewed, Answers):
            # It answers, but does not write now: nor what others have to tell it.
            self._has_lapsed = True
            self._notice_lapse()
            self._renew_at = asked_at + _SELDOM
            return
        verdict, (last,) = read_verdict(renewed.values[0])
        if verdict == "lost":
            logger.warning("the lease of this process was lost: its sessions are written again")
            self._begin_anew()
            return
        self._member.joined(lease, entry_id(last))
        if self._is_late(time.monotonic()):
            self._complete_at = time.monotonic() + self._lease / 3 + _SETTLE
        self._renewed_at, self._given_up, self._has_lapsed = asked_at, "", False
        # Not all processes at once, where all were started at once.
        self._renew_at = asked_at + self._lease / 3 * random.uniform(0.8, 1.0)  # noqa: S311
        self._note_missing(users, replies[1 : 1 + len(touches)])

    def _note_missing(self, users: Sequence[tuple[str, str]], replies: Sequence[object]) -> None:
        size = len(users) if self._calls.in_one_place else 1
        for group, reply in enumerate(replies):
            for place in reply if isinstance(reply, list) else ():
                self._member.missing(users[group * size + int(place) - 1][0])

    # The log ----------------------------------------------------------------------------------

    def _read(self) -> None:
        keys = self._calls.keys
        names, places = [keys.mailbox(self.mailbox)], [self._mail]
        if self._leases.is_taken:
            names.append(keys.log)
            first, second = self._member.orders.position
            places.append(f"{first}-{second}")
        block = max(1, int(self._patience() * 1000))
        arguments: Command = ("COUNT", _ENTRIES, "BLOCK", block, "STREAMS", *names, *places)
        reply = self._ask([Call("XREAD", (), arguments, is_script=False)])[0]
        now = time.monotonic()
        if isinstance(reply, Refused):
            self._stopped.wait(_OFTEN)
            return
        if now - self._read_at > _LONGEST_GAP:
            logger.warning("the log was not read for too long: all sessions have to come back")
            with self._node.lock:
                tells = self._node.registry.take(self._node.registry.clients())
            self._act(Effect([(tell, _RECONNECT) for tell in tells]))
        self._read_at = now
        for name, entry, fields in streams(reply):
            if name == keys.log.encode():
                order = Entry.read(fields.get(b"entry", b""))
                with self._node.lock:
                    effect = self._member.orders.read(entry_id(entry), order)
                self._act(effect)
            else:
                self._mail = text(entry)
                self._receive(Mail.read(fields.get(b"mail", b"")))

    def _patience(self) -> float:
        """Seconds until there is something else to do than to wait for news."""
        now = time.monotonic()
        waits = [self._lease / 3]
        if self._joins:
            waits.append(self._renew_at - now)
        if self._later or self._member.has_due:
            waits.append(self._heal_at - now)
        expires = self._node.registry.next_deadline
        if expires is not None:
            waits.append(expires - self._node.clock())
        return max(0.0, min(waits))

    def _expire(self) -> None:
        # The app's own timer does not know of an end that was set by another process.
        tells = self._node.take_expired()
        if tells:
            self._act(Effect([(tell, EXPIRED) for tell in tells]))

    def _receive(self, mail: Mail | None) -> None:
        wait = None if mail is None else self._waits.get(mail.command)
        if wait is not None and mail is not None:
            wait.note(mail)

    # What Redis may not know ------------------------------------------------------------------

    def _heal(self) -> None:
        if not self._leases.is_taken:
            return
        last = None
        try:
            self._learn()
            if not self._calls.in_one_place:
                last = entry_id(text(self._answer(self._calls.last())))
        except _Unanswered:
            self._heal_at = time.monotonic() + _SELDOM
            return
        later = [self._later.popleft() for _ in range(len(self._later))]
        ends, writes = self._member.due_ends(), self._member.due_writes()
        try:
            if not self._calls.in_one_place:
                writes = self._unrevoked(writes)
            calls = [self._member.registration(user, client, last) for user, client in writes]
            due = [
                (*write, call)
                for write, call in zip(writes, calls, strict=True)
                if call is not None
            ]
            replies = self._ask(
                [*later, *(call for _, call in ends), *(call for _, _, call in due)]
            )
        except LinkBroken:
            self._later.extend(later)
            for user, client in writes:
                self._member.write_later(user, client)
            raise
        outcomes = [outcome_of([reply]) for reply in replies]
        for call, outcome in zip(later, outcomes, strict=False):
            if not isinstance(outcome, Answers):
                self._later.append(call)
        answered = outcomes[len(later) :]
        for (client, _), outcome in zip(ends, answered, strict=False):
            self._act(Effect(calls=self._member.told_of_end(client, outcome)))
        for (user, client, _), outcome in zip(due, answered[len(ends) :], strict=True):
            self._act(self._member.written(user, client, outcome))
        if not all(isinstance(outcome, Answers) for outcome in outcomes):
            self._heal_at = time.monotonic() + _SELDOM

    def _unrevoked(self, writes: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Where a script cannot see whether a token is revoked: without those whose token is, or of
        which that is not known."""
        tokens = {client: self._member.token_to_check(client) for _, client in writes}
        asked = [client for client, token_id in tokens.items() if token_id is not None]
        if not asked:
            return writes
        calls = [call for client in asked for call in self._calls.is_revoked(tokens[client])]
        found = dict(zip(asked, self._ask(calls), strict=True))
        for user, client in writes:
            reply = found.get(client, 0)
            if isinstance(reply, Refused):
                self._member.write_later(user, client)
                self._heal_at = time.monotonic() + _SELDOM
            elif reply:
                self._act(self._member.written(user, client, Answers((b"revoked",))))
        return [(user, client) for user, client in writes if found.get(client, 0) == 0]

    def _learn(self) -> None:
        asked, asked_at = self._member.questions(), self._leases.clock()
        if asked:
            reply = self._answer(self._calls.nodes(asked))
            with self._node.lock:
                held = {lease: left for lease, left, _ in nodes(reply)}
                self._leases.know(asked, held, asked_at=asked_at)

    def _answer(self, call: Call) -> object:
        (reply,) = self._ask([call])
        if isinstance(reply, Refused):
            raise _Unanswered
        return reply


class _Unanswered(Exception):
    """Redis answers, but not this."""
