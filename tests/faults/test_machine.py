"""Two processes' worth of nodes, one real Redis, and all that befalls them, against a model.

The model knows of each session whether it is open, was told to end, or may be either: a step that
comes amid a disturbance has no certain outcome. Once things have settled, everything is certain.

1. At every step, each list is looked at once: a node's own sessions are exact, sessions that were
   buried stay buried, and a list that does not call itself partial has all that it must have.
2. After a disturbance, everything is as the model says within the time that is promised.

`HYPOTHESIS_PROFILE=search` looks further, with other steps at each run.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.proxy import Proxy
from tests.redis_servers import RedisServer
from usersessions import (
    Closed,
    ConnectRefused,
    Disconnect,
    Identity,
    RedisStore,
    Session,
    SessionLimit,
    StoreUnavailable,
    UserSessions,
)
from usersessions.refusals import Refusal
from usersessions.stores.base import CheckIdentity, Refused

T = TypeVar("T")

SEARCHING = os.environ.get("HYPOTHESIS_PROFILE") == "search"

# A search holds everything to the times that are promised. It needs a machine that has time: one
# that stands still for longer than a lease lasts has lost it.
LEASE = 1.0 if SEARCHING else 1.5
TIMEOUT = 0.5 if SEARCHING else 1.0
SLACK = 0.0 if SEARCHING else 2.0
SOON = 1.0 + SLACK
HEALED = LEASE / 3 + SOON
# What a call may take that does not wait for Redis; 50 ms are promised on an idle machine.
AT_ONCE = 0.3 + SLACK / 10
NOTICED = 0.2

USERS = ("40", "41", "42")
# Twice, so that some user has several sessions more often.
SOME_USER = st.sampled_from(["40", "41", "42", "42", "42"])
NODES = st.integers(0, 1)
CALLERS = st.integers(0, 2)
CLIENTS = st.integers(0, 9)
LABELS: list[dict[str, str]] = [{}, {"device": "phone"}, {"device": "phone", "beta": "yes"}]
ISSUED = (100.0, 200.0)
SELDOM = st.sampled_from([False, False, False, True])

BLOCKED, INVALID, OVER_LIMIT = 3503, 3500, 3504

Fate: TypeAlias = Literal["open", "told", "unsure"]
Cause: TypeAlias = tuple[str, ...]
"""Why somebody is kept out: ("blocked", USER), ("revoked", TOKEN) or ("issued", USER, WHEN)."""


@dataclass(frozen=True)
class Who:
    """Who connects, and with what."""

    user: str
    token: str | None = None
    issued_at: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    app: str | None = None
    obedient: bool = True

    @property
    def token_id(self) -> str | None:
        return self.token and f"{self.token} of {self.user}"

    @property
    def identity(self) -> Identity:
        return Identity(
            self.user, token_id=self.token_id, issued_at=self.issued_at, labels=self.labels
        )


SOMEBODY = st.builds(
    lambda user, login, labels, app, obedient: Who(user, login[0], login[1], labels, app, obedient),
    SOME_USER,
    st.sampled_from([(None, None), ("t1", ISSUED[0]), ("t1", ISSUED[1]), ("t2", ISSUED[1])]),
    st.sampled_from(LABELS),
    st.sampled_from([None, "web"]),
    # Others go on until their client goes, though they were told to end.
    st.sampled_from([True, True, False]),
)


class Peer:
    """A node, which has its own way to Redis; or whoever only asks."""

    def __init__(self, url: str, prefix: str, limit: SessionLimit | None) -> None:
        self.proxy = Proxy(url)
        self.proxy.__enter__()
        self.store = RedisStore(self.proxy.url, prefix=prefix, lease=LEASE, timeout=TIMEOUT)
        self.sessions = UserSessions(store=self.store, limit=limit)
        self.is_cut = False
        # To others it may be dead, until it has said otherwise.
        self.was_cut = False

    @property
    def id(self) -> str:
        return self.store.node.id

    def is_pending(self, client: str) -> bool:
        """Whether Redis has not said yet whether a session may be."""
        return client in self.store._engine().member._pending

    def open(self, user: str) -> Collection[str]:
        """The sessions of a user that are not told to end."""
        return self.store.node.registry.open(user)

    def die(self) -> None:
        """Be gone as a process is that was killed: without a word to anybody."""
        self.proxy.refuse()
        self.store.close(timeout=1.0)

    def close(self) -> None:
        self.sessions.close(timeout=0.5)
        self.proxy.__exit__(None, None, None)


class Held:
    """A session that was let in, and what the model knows of it."""

    def __init__(self, who: Who, peer: Peer, number: int) -> None:
        self.who = who
        self.peer = peer
        self.number = number
        self.fate: Fate = "open"
        # Whether every node was seen to list it.
        self.is_known = False
        # Whether Redis may have it in another order than it was made in.
        self.was_rewritten = False
        self.has_ended = False
        self.heard: list[Disconnect] = []
        self._lock = threading.Lock()
        self.context: AbstractContextManager[Session] = peer.sessions.connect(
            identity=who.identity, transport="websocket", app_name=who.app, close=self._close
        )

    def begin(self) -> int | None:
        """Connect, and give the code that it was refused with, or None."""
        # It may be told to end before this returns.
        with self._lock:
            try:
                self.session = self.context.__enter__()
            except ConnectRefused as refused:
                self.has_ended = True
                return refused.code
        return None

    def end(self) -> None:
        """End the block, as its client has gone."""
        with self._lock:
            if not self.has_ended:
                self.context.__exit__(None, None, None)
                self.has_ended = True

    @property
    def client(self) -> str:
        return self.session.client

    def _close(self, disconnect: Disconnect) -> None:
        self.heard.append(disconnect)
        if self.who.obedient:
            self.end()

    def __repr__(self) -> str:
        heard = [one.code for one in self.heard]
        return f"<{self.client[:8]} of {self.who.user}: {self.fate}, heard {heard}>"


class SharedMachine(RuleBasedStateMachine):
    """Nodes that share a Redis, and what happens to them."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.server.renew()
        self.peers: list[Peer] = []
        self.dead: list[Peer] = []
        self.held: dict[str, Held] = {}
        self.gone: dict[str, Held] = {}
        self.buried: set[str] = set()
        # Those of nodes that died.
        self.lost: list[Held] = []
        self.made: list[Held] = []
        # Preconditions depend on what was asked for alone: what comes of it takes its time.
        self.attempts = 0
        # What keeps somebody out; None is not known.
        self.kept_out: dict[Cause, bool | None] = {}
        self.state: Literal["up", "paused", "down"] = "up"
        self.paused_at = 0.0
        self.is_disturbed = False
        self.heal_by = 0.0
        # Users whose limit was not enforceable: Redis did not know of all their sessions.
        self.over_admitted: set[str] = set()
        self.is_lossy = False
        # Users of whose sessions Redis has lost some, without any sign of it.
        self.thinned: set[str] = set()

    @initialize(
        limit=st.one_of(
            st.none(),
            st.builds(
                SessionLimit,
                st.integers(1, 3),
                policy=st.sampled_from(["reject", "evict_oldest"]),
                per_app=st.booleans(),
            ),
        ),
        first=st.lists(SOMEBODY, min_size=2, max_size=4),
    )
    def begin(self, limit: SessionLimit | None, first: list[Who]) -> None:
        self.limit = limit
        self.prefix = secrets.token_hex(4)
        self.peers = [self._peer() for _ in range(3)]
        for peer in self.nodes:
            peer.sessions.join()
        for number, who in enumerate(first):
            self.connect(number % 2, who)

    def _peer(self) -> Peer:
        return Peer(self.server.url, self.prefix, self.limit)

    @property
    def nodes(self) -> list[Peer]:
        """Those that hold sessions."""
        return self.peers[:2]

    # Connecting and ending --------------------------------------------------------------------

    @rule(node=NODES, who=SOMEBODY)
    def connect(self, node: int, who: Who) -> None:
        if self.limit and not self.is_disturbed:
            # What has ended counts until Redis knows of it.
            self._settle()
        verdicts, crowd = self._verdicts(who), self._crowd(who)
        self.attempts += 1
        held = self._attempt(who, node)
        began = time.monotonic()
        code = held.begin()
        assert time.monotonic() - began < AT_ONCE, "connecting took too long"
        self._connected(held, code, verdicts, crowd)

    @rule(node=st.lists(NODES, min_size=2, max_size=5), who=SOMEBODY, closing=st.booleans())
    def connect_at_once(self, node: list[int], who: Who, closing: bool) -> None:
        """Several connect at the same time, and perhaps somebody ends all there is meanwhile."""
        if not self.is_disturbed:
            self._settle()
        hit = self._those(lambda one: one.who.user == who.user)
        verdicts, crowd = self._verdicts(who), self._crowd(who)
        self.attempts += 1
        them = [self._attempt(who, one) for one in node]
        closed: Closed | None = Closed()
        with ThreadPoolExecutor(len(them)) as pool:
            codes = [pool.submit(held.begin) for held in them]
            if closing:
                closed = self._ask(2, lambda peer: peer.sessions.disconnect(who.user, timeout=0.05))
        for held, code in zip(them, codes, strict=True):
            if code.result() is None:
                self.held[held.client] = held
                held.fate = "unsure"
        if closing:
            self._told([*hit, *(one for one in self.held.values() if one in them)], closed)
        if None not in verdicts and not self.is_disturbed:
            assert {code.result() for code in codes} <= verdicts
        if self.limit and self.limit.policy == "evict_oldest":
            self._unsure(crowd)
        if self.limit and self.is_lossy:
            self.over_admitted.add(who.user)
        if not self.is_disturbed:
            self._settle()
            if self.limit and not closing and verdicts == {None}:
                open_now = len(self._crowd(who))
                most = max(self.limit.max_sessions, len(crowd) * (self.limit.policy == "reject"))
                assert open_now == min(most, len(crowd) + len(them))

    @precondition(lambda self: self.attempts)
    @rule(number=CLIENTS)
    def end(self, number: int) -> None:
        held = self._held(number)
        if held is not None:
            began = time.monotonic()
            held.end()
            assert time.monotonic() - began < AT_ONCE, "ending took too long"

    @precondition(lambda self: self.attempts)
    @rule(number=CLIENTS, node=NODES)
    def reconnect(self, number: int, node: int) -> None:
        held = self._held(number)
        if held is not None:
            held.end()
            self.connect(node, held.who)

    def _attempt(self, who: Who, node: int) -> Held:
        held = Held(who, self.peers[node], self.attempts)
        self.made.append(held)
        return held

    def _connected(
        self, held: Held, code: int | None, verdicts: set[int | None], crowd: list[Held]
    ) -> None:
        excess = 0 if self.limit is None else len(crowd) + 1 - self.limit.max_sessions
        is_reject = self.limit is not None and self.limit.policy == "reject"
        if code is not None:
            if code == OVER_LIMIT:
                assert is_reject and (excess > 0 or self.is_disturbed), "refused within the limit"
            else:
                assert code in verdicts, f"refused with {code} instead of {verdicts}"
            return
        self.held[held.client] = held
        is_certain = not self.is_disturbed and not held.peer.is_pending(held.client)
        if None not in verdicts:
            assert not is_certain, f"let in instead of {verdicts}"
            held.fate = "told"
            return
        if len(verdicts) > 1 or not is_certain:
            held.fate = "unsure"
        if self.is_lossy:
            self.over_admitted.add(held.who.user)
        if excess > 0 and is_reject:
            assert held.fate == "unsure", "let in over the limit"
        elif self.limit and not is_reject and held.fate == "unsure":
            # While Redis knows too much or too little, others may have to make room.
            self._unsure(crowd)
        elif excess > 0:
            last = sorted(crowd, key=lambda one: one.number)[excess - 1].number
            older = [one for one in crowd if one.number <= last]
            if len(older) > excess or any(one.was_rewritten for one in crowd):
                # Nobody knows who of them is the oldest.
                self._unsure(crowd)
            for one in older:
                if one.fate != "unsure":
                    one.fate = "told"

    def _verdicts(self, who: Who) -> set[int | None]:
        """The codes that somebody may be refused with, and None if they may be let in."""
        causes: list[tuple[int, Cause]] = [(BLOCKED, ("blocked", who.user))]
        if who.token_id is not None:
            causes.insert(0, (INVALID, ("revoked", who.token_id)))
            causes.append((INVALID, ("issued", who.user, str(who.issued_at))))
        verdicts: set[int | None] = set()
        for code, cause in causes:
            is_out = self.kept_out.get(cause, False)
            if is_out is not False:
                verdicts.add(code)
            if is_out is True:
                return verdicts
        return {*verdicts, None}

    def _crowd(self, who: Who) -> list[Held]:
        """Whom somebody's session counts with against the limit."""
        is_per_app = self.limit is not None and self.limit.per_app
        return self._those(
            lambda one: (
                one.who.user == who.user
                and one.fate != "told"
                and not one.heard
                and (not is_per_app or one.who.app == who.app)
            )
        )

    # Closing ----------------------------------------------------------------------------------

    @rule(
        caller=CALLERS,
        user=SOME_USER,
        number=st.none() | CLIENTS,
        kept=st.lists(CLIENTS, max_size=2),
        labels=st.sampled_from([{}, {}, *LABELS]),
        revoke=SELDOM,
        again=SELDOM,
    )
    def disconnect(
        self,
        caller: int,
        user: str,
        number: int | None,
        kept: list[int],
        labels: dict[str, str],
        revoke: bool,
        again: bool,
    ) -> None:
        target = None if number is None else self._held(number)
        if number is not None and target is None:
            return
        spared = [one for one in map(self._held, kept) if one is not None]
        client = None if target is None else target.client
        whitelist = [one.client for one in spared]
        chosen = self._those(
            lambda one: (
                one.who.user == user
                and client in (None, one.client)
                and one not in spared
                and labels.items() <= one.who.labels.items()
            )
        )
        hit = self._revoking(user, chosen, spared) if revoke else chosen
        perhaps: list[Held] = []
        if revoke and self.is_disturbed:
            # Which tokens go with whom depends on whom the caller could see.
            hit, perhaps = [], self._those(lambda one: one.who.user == user)
            self._unsure(perhaps)
        close = partial(
            UserSessions.disconnect,
            user=user,
            client=client,
            whitelist=whitelist,
            label_filter=labels,
            revoke=revoke,
            timeout=self._patience(hit),
        )
        closed = self._ask(caller, lambda peer: close(peer.sessions))
        self._told(hit, closed, perhaps)
        if again:
            hit = [one for one in hit if not one.has_ended]
            self._told(hit, self._ask(caller, lambda peer: close(peer.sessions)), perhaps)
        if revoke:
            for one in chosen:
                if one.who.token_id is not None and one.who.token_id not in {
                    held.who.token_id for held in spared if held.who.user == user
                }:
                    is_sure = closed is not None and not self.is_disturbed
                    self.kept_out["revoked", one.who.token_id] = True if is_sure else None

    def _revoking(self, user: str, chosen: list[Held], spared: list[Held]) -> list[Held]:
        """Who ends where the tokens of the chosen are revoked."""
        kept = {one.who.token_id for one in spared if one.who.user == user}
        revoked = {one.who.token_id for one in chosen} - kept - {None}
        return self._those(
            lambda one: (
                one.who.user == user
                and (one.who.token_id in revoked or (one.who.token_id is None and one in chosen))
            )
        )

    @precondition(lambda self: any(kind == "blocked" for kind, *_ in self.kept_out))
    @rule(caller=CALLERS)
    def unblock_users(self, caller: int) -> None:
        for user in USERS:
            done = self._ask(caller, partial(self._unblock, user))
            self.kept_out["blocked", user] = False if done else None
        # Those without a verdict that were to be refused may be let in now.
        self._unsure(self._those(lambda one: one.fate == "told"))

    def _unblock(self, user: str, peer: Peer) -> bool:
        peer.sessions.unblock_user(user)
        return True

    @rule(caller=CALLERS, user=SOME_USER, how=st.sampled_from(["block", "t1", "t2", 150, 300]))
    def keep_out(self, caller: int, user: str, how: str | int) -> None:
        """Block a user, revoke a token of theirs, or all that were issued before a moment."""
        token_id = f"{how} of {user}"
        if how == "block":
            causes: list[Cause] = [("blocked", user)]
            hit = self._those(lambda one: one.who.user == user)
        elif isinstance(how, str):
            causes = [("revoked", token_id)]
            hit = self._those(lambda one: one.who.token_id == token_id)
        else:
            causes = [("issued", user, str(one)) for one in ISSUED if one < how]
            hit = self._those(lambda one: one.who.user == user and (one.who.issued_at or how) < how)
        timeout = self._patience(hit)

        def keep_out(peer: Peer) -> Closed:
            if how == "block":
                return peer.sessions.block_user(user, timeout=timeout)
            if isinstance(how, str):
                return peer.sessions.revoke_token(token_id, timeout=timeout)
            return peer.sessions.invalidate_user_tokens(user, issued_before=how, timeout=timeout)

        closed = self._ask(caller, keep_out)
        self.kept_out.update(dict.fromkeys(causes, None if closed is None else True))
        self._told(hit, closed)

    @rule(caller=CALLERS, user=SOME_USER, number=st.none() | CLIENTS, hours=st.integers(0, 3))
    def refresh(self, caller: int, user: str, number: int | None, hours: int) -> None:
        if self.is_disturbed:
            return
        target = None if number is None else self._held(number)
        client = None if target is None else target.client
        self._settle()
        hit = self._those(
            lambda one: one.who.user == user and not one.heard and client in (None, one.client)
        )
        expire_at = None if hours == 0 else float(int(time.time()) + 3600 * hours)
        done = self.peers[caller].sessions.refresh(user, client=client, expire_at=expire_at)
        assert set(done) == {one.client for one in hit}

        def stale() -> str:
            for number, peer in enumerate(self.peers):
                listed = peer.sessions.user_connections(user)
                if any(info.expire_at != expire_at for one, info in listed.items() if one in done):
                    return f"node {number} lists another end"
            return ""

        self._until(stale, SOON)

    def _patience(self, hit: Collection[Held]) -> float:
        """How long to wait for sessions to end: not at all for those that do not."""
        is_obedient = all(one.who.obedient for one in hit)
        return 2.0 if is_obedient and not self.is_disturbed else 0.05

    def _ask(self, caller: int, act: Callable[[Peer], T]) -> T | None:
        """Ask something of Redis; None if nobody knows whether it was done."""
        try:
            return act(self.peers[caller])
        except StoreUnavailable:
            assert self.is_disturbed, "Redis was available"
            return None

    def _told(
        self, hit: Collection[Held], closed: Closed | None, perhaps: Collection[Held] = ()
    ) -> None:
        """Note that sessions were told to end, and that a call says so."""
        if closed is None:
            self._unsure(hit)
            return
        for one in hit:
            if one.fate != "unsure":
                one.fate = "told"
        said = {*closed.closed, *closed.unconfirmed}
        certain = {one.client for one in hit if one.fate == "told"}
        known = {one.client for one in (*hit, *perhaps)} | self.gone.keys() | self._ended()
        assert said <= known | {one.client for one in self.lost}, "it closed too many"
        if self.is_disturbed:
            if not closed.partial and not self.thinned and not self.is_lossy:
                known = {one for one in certain - self._ended() if self.held[one].is_known}
                assert known <= said, f"not all, and it does not say so: {known - said}"
            return
        assert certain - self._ended() <= said, "it closed too few"

    def _unsure(self, them: Iterable[Held]) -> None:
        for one in them:
            if one.fate == "open" or not one.heard:
                one.fate = "unsure"

    # Disturbances -----------------------------------------------------------------------------

    @rule()
    def let_a_lease_pass(self) -> None:
        """Nothing happens, and lists stay as they are."""
        end = time.monotonic() + LEASE
        while time.monotonic() < end:
            if self.state == "up":
                self.lists_are_honest()
            time.sleep(0.05)

    @precondition(lambda self: self.state == "up")
    @rule(what=st.sampled_from(["everything", "leases", *USERS[1:]]), patient=st.booleans())
    def forget(self, what: str, patient: bool) -> None:
        """Redis loses data."""
        if what == "everything":
            self.server.cli("FLUSHALL")
            self._data_lost()
        elif what == "leases":
            self.server.cli("DEL", f"{self.prefix}:{{n}}:leases")
        else:
            self.server.cli("DEL", f"{self.prefix}:{{u:{what}}}")
            self.thinned.add(what)
        self._disturbed(patient, is_lossy=True)

    @precondition(lambda self: self.state == "up")
    @rule(patient=st.booleans())
    def hang_up(self, patient: bool) -> None:
        """Redis closes all connections, and knows no script any more."""
        self.server.cli("SCRIPT FLUSH")
        self.server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self._disturbed(patient)

    @precondition(lambda self: self.state == "up")
    @rule()
    def forget_scripts(self) -> None:
        self.server.cli("SCRIPT FLUSH")

    @precondition(lambda self: self.state == "up")
    @rule(is_killed=st.booleans())
    def stop(self, is_killed: bool) -> None:
        """Redis is stopped as it is, or killed, to come back without data."""
        if is_killed:
            self.server.kill()
            self._data_lost()
            self.state, self.is_lossy = "down", True
        else:
            self.server.pause()
            self.state, self.paused_at = "paused", time.monotonic()
        self.is_disturbed = True

    @precondition(lambda self: self.state == "up")
    @rule(node=NODES, refuses=st.booleans())
    def cut_off(self, node: int, refuses: bool) -> None:
        peer = self.peers[node]
        if refuses:
            peer.proxy.refuse()
        else:
            peer.proxy.blackhole()
        peer.is_cut = peer.was_cut = True
        self.is_disturbed = self.is_lossy = True

    @precondition(lambda self: self.is_disturbed)
    @rule(patient=st.booleans())
    def mend(self, patient: bool) -> None:
        self._mend()
        if patient:
            self._settle()

    @precondition(lambda self: self.state == "up")
    @rule(node=NODES, patient=st.booleans())
    def die(self, node: int, patient: bool) -> None:
        """A process is killed, and another one takes its place."""
        peer = self.peers[node]
        peer.die()
        self.dead.append(peer)
        for held in self._those(lambda one: one.peer is peer):
            self.lost.append(self.held.pop(held.client))
        self.peers[node] = self._peer()
        self.peers[node].sessions.join()
        self.heal_by = max(self.heal_by, time.monotonic() + LEASE + SOON)
        self._disturbed(patient)

    def _data_lost(self) -> None:
        for key in self.kept_out:
            self.kept_out[key] = None if self.is_disturbed else False
        for held in self.held.values():
            # Those who had not read the log yet never will.
            if held.fate == "told" and not held.heard:
                held.fate = "unsure"

    def _disturbed(self, patient: bool, *, is_lossy: bool = False) -> None:
        self.is_disturbed = True
        self.is_lossy |= is_lossy
        self.heal_by = max(self.heal_by, time.monotonic() + HEALED)
        if patient:
            self._settle()

    def _mend(self) -> None:
        if self.state == "paused":
            if time.monotonic() - self.paused_at > LEASE / 2:
                # Leases may be lost: for a moment, nobody's sessions count.
                self.is_lossy = True
                self.over_admitted |= {one.who.user for one in self._those(lambda _: True)}
            self.server.resume()
        elif self.state == "down":
            self.server.start()
        for peer in self.nodes:
            if peer.is_cut:
                peer.proxy.heal()
        if self.state != "up" or any(peer.is_cut for peer in self.nodes):
            self.heal_by = max(self.heal_by, time.monotonic() + HEALED)
        self.state = "up"
        for peer in self.nodes:
            peer.is_cut = False

    # What has to hold -------------------------------------------------------------------------

    @invariant()
    def lists_are_honest(self) -> None:
        if self.state != "up":
            return
        for user in USERS:
            for peer in self.peers:
                if not peer.is_cut:
                    self._look(peer, user)

    @invariant()
    def nobody_is_told_without_a_reason(self) -> None:
        for held in [*self.held.values(), *self.gone.values()]:
            assert len(held.heard) <= 1, f"{held} was told twice"
            assert held.fate != "open" or not held.heard, f"{held} was told"

    def _look(self, peer: Peer, user: str) -> None:
        before = self._now(user)
        try:
            listed = peer.sessions.user_connections(user)
        except StoreUnavailable:
            assert self.is_disturbed, "Redis was available"
            return
        after = self._now(user)
        own = {one for one, held in self.held.items() if held.peer is peer}
        assert before & after & own <= listed.keys(), "not all of its own sessions"
        assert listed.keys() & own <= before | after, "too many of its own sessions"
        assert not listed.keys() & self.buried, "a session has come back"
        assert self.is_disturbed or not listed.partial, "partial without a reason"
        # Whoever has no lease cannot miss it: to them, Redis looks as if nobody were there.
        is_blind = self.is_lossy and peer not in self.nodes
        if not listed.partial and user not in self.thinned and not is_blind:
            certain = {
                one
                for one in before & after
                if self.held[one].is_known and not self.held[one].peer.was_cut
            }
            missing = [self.held[one] for one in certain - listed.keys()]
            assert not missing, f"{missing} missing from the list of {self.peers.index(peer)}"

    def _now(self, user: str) -> set[str]:
        return {
            client
            for client, held in self.held.items()
            if held.who.user == user and not held.has_ended
        }

    def _ended(self) -> set[str]:
        return {client for client, held in self.held.items() if held.has_ended}

    def _settle(self) -> None:
        """Wait until everything is as it has to be, and be certain of it."""
        self._mend()
        deadline = max(self.heal_by, time.monotonic() + SOON)
        self._until(self._cannot_ask, deadline - time.monotonic())
        self._until(self._wrong, deadline - time.monotonic())
        # Who notices the loss of data last does not know that others have healed already.
        self._until(self._is_partial, deadline + LEASE / 3 + NOTICED - time.monotonic())
        for client, held in list(self.held.items()):
            if held.fate == "unsure":
                held.fate = "told" if held.heard else "open"
            if held.has_ended:
                self.gone[client] = self.held.pop(client)
            elif not held.heard:
                held.is_known = True
            held.was_rewritten |= self.is_lossy
        self.buried |= {*self.gone, *(one.client for one in self.lost)}
        self.lost = []
        self.is_disturbed = self.is_lossy = False
        self.thinned = set()
        for peer in self.nodes:
            peer.was_cut = False
        self._ask_who_is_kept_out()

    def _until(self, wrong: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            found = wrong()
            if not found:
                return
            assert time.monotonic() < deadline, f"in {seconds:.2f} s: {found}"
            time.sleep(0.01)

    def _cannot_ask(self) -> str:
        """Why not everybody answers; whoever does has read all of the log that came before."""
        try:
            closed = self.peers[2].sessions.revoke_token(secrets.token_hex(8), timeout=0.2)
        except StoreUnavailable as error:
            return str(error)
        return "not everybody answers" if closed.partial and not self.lost else ""

    def _wrong(self) -> str:
        """What is not as it has to be, yet."""
        for user in USERS:
            for number, peer in enumerate(self.peers):
                try:
                    listed = peer.sessions.user_connections(user)
                except StoreUnavailable as error:
                    return str(error)
                expected = self._now(user)
                wrong = listed.keys() ^ expected
                if {
                    one for one in wrong if one not in expected or not self._was_refused(one, peer)
                }:
                    return f"node {number} lists {[*listed]} of {user} instead of {expected}"
        for held in self.held.values():
            is_open = held.client in held.peer.open(held.who.user)
            if not held.has_ended and is_open == bool(held.heard):
                return f"{held} is being told"
            if held.fate == "told" and not held.heard and not held.has_ended:
                return f"{held} has to be told"
            if self.limit and held.who.user not in self.over_admitted:
                crowd = self._crowd(held.who)
                if len(crowd) > self.limit.max_sessions:
                    return f"{crowd} are too many"
        return ""

    def _was_refused(self, client: str, lister: Peer) -> bool:
        """Whether a session goes on though it was never let in, which its own node alone knows."""
        held = self.held[client]
        return bool(held.heard) and not held.is_known and held.peer is not lister

    def _is_partial(self) -> str:
        for number, peer in enumerate(self.peers):
            if any(peer.sessions.user_connections(user).partial for user in USERS):
                return f"node {number} lists in part"
        return ""

    def _ask_who_is_kept_out(self) -> None:
        for key, is_out in self.kept_out.items():
            kind, name, *issued_at = key
            user = name.rpartition(" ")[2]
            token_id = name if kind == "revoked" else None
            if kind == "issued" and self.kept_out.get(("blocked", user)) is not False:
                # Nobody can see whether it is kept out by itself.
                continue
            request = CheckIdentity(user, token_id, float(issued_at[0]) if issued_at else None)
            reply = self.peers[2].store.answer(request)
            why = Refusal.BLOCKED if kind == "blocked" else Refusal.REVOKED
            found = isinstance(reply, Refused) and reply.why is why
            assert is_out in (None, found), f"{key} should be {is_out}"
            self.kept_out[key] = found

    def _those(self, has_to: Callable[[Held], bool]) -> list[Held]:
        return [one for one in self.held.values() if not one.has_ended and has_to(one)]

    def _held(self, number: int) -> Held | None:
        held = self._those(lambda _: True)
        return held[number % len(held)] if held else None

    def teardown(self) -> None:
        try:
            if self.peers:
                self._settle()
                self._until(self._miscounted, HEALED + LEASE)
        finally:
            if self.state != "up":
                self._mend()
            for held in self.made:
                held.end()
            for peer in [*self.peers, *self.dead]:
                peer.close()

    def _miscounted(self) -> str:
        """How what nodes say of themselves differs from what there is."""
        said = {info.uid: info.num_clients for info in self.peers[2].sessions.info()}
        counted = {
            peer.id: sum(one.peer is peer for one in self._those(lambda _: True))
            for peer in self.nodes
        }
        return "" if said == counted else f"{said} instead of {counted}"


def test_what_is_promised_holds_whatever_happens(redis_server: RedisServer) -> None:
    class OfThisServer(SharedMachine):
        server = redis_server

    run_state_machine_as_test(
        OfThisServer,
        settings=settings(
            max_examples=1000 if SEARCHING else 6,
            stateful_step_count=30 if SEARCHING else 15,
            # It would go on for minutes to find a shorter way to what took seconds each time.
            phases=[Phase.explicit, Phase.generate],
        ),
    )
