"""Closing, revoking, blocking, expiring, limiting and refreshing, step by step against a model.

`HYPOTHESIS_PROFILE=search` looks further: some hundred thousand steps, other ones at each run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TypeVar
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from usersessions import (
    Closed,
    ConnectRefused,
    Disconnect,
    Identity,
    InvalidValue,
    MemoryStore,
    NoSuchSession,
    Session,
    SessionLimit,
    TokenError,
    TokenRevoked,
    UserSessions,
)
from usersessions.flows import Flow, Reply, Request, run
from usersessions.own_sessions import OwnOperations
from usersessions.refusals import Refusal
from usersessions.stores.base import Allowed, CheckIdentity, EndRequest, Refused, StoreRequest

T = TypeVar("T")

USERS = st.sampled_from(["42", "42", "41"])
APPS = st.sampled_from([None, "web"])
LABELS: list[dict[str, str]] = [{}, {"device": "phone"}, {"device": "phone", "beta": "yes"}]
AGES = st.sampled_from([None, 0, 1, 30, 600])
SPANS = st.sampled_from([None, -5, 1, 30, 600])
# Those that the machine has, by number: there are always some, also where few rules are drawn.
TOKENS = st.integers(0, 5)
CLIENTS = st.integers(0, 9)
SOME_CLIENT = st.none() | CLIENTS
OBEDIENT = st.sampled_from([False, False, True])
# Now and then, and not so often that hardly any session lives.
SELDOM = st.sampled_from([True, False, False, False])
MONTH = 30 * 24 * 3600
GRACE = 25
SET_BACK = 3600

FORCED = Disconnect(3503, "force disconnect")
INVALID = Disconnect(3500, "invalid token")
EXPIRED = Disconnect(3005, "connection expired")
TOLD = Disconnect(4001)


@dataclass(frozen=True)
class Token:
    """What a verified token says; written as text, it stands for itself."""

    user: str
    token_id: str | None
    issued_at: float | None
    expires: float | None

    def text(self) -> str:
        return repr((self.user, self.token_id, self.issued_at, self.expires))


class PlainVerifier:
    """Believes tokens that are written in plain text."""

    def identify(self, token: str, *, now: float) -> Flow[Identity]:
        user, token_id, issued_at, expires = eval(token)
        if expires is not None and now >= expires:
            raise TokenError("expired")
        return Identity(
            user,
            token_id=token_id,
            issued_at=issued_at,
            token_expires=expires,
            expire_at=expires,
        )
        yield

    def verify(self, token: str, *, now: float | None = None) -> Identity:
        raise NotImplementedError


@dataclass
class Held:
    """What the model knows of a session; one that is `obedient` ends as soon as it is told to."""

    user: str
    app: str | None
    obedient: bool
    token: Token | None
    labels: Mapping[str, str]
    expire_at: float | None
    connected_at: float
    context: AbstractContextManager[Session]
    session: Session = field(init=False)
    seen: float | None = None
    told: Disconnect | None = None
    heard: list[Disconnect] = field(default_factory=list)

    @property
    def token_id(self) -> str | None:
        return None if self.token is None else self.token.token_id

    @property
    def token_expires(self) -> float | None:
        return None if self.token is None else self.token.expires

    def issued_before(self, moment: float) -> bool:
        return self.token is not None and (self.token.issued_at or 0) < moment

    def close(self, disconnect: Disconnect) -> None:
        self.heard.append(disconnect)
        if self.obedient:
            self.context.__exit__(None, None, None)


class ControlMachine(RuleBasedStateMachine):
    """Everything that ends sessions or keeps them out, and time going on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.latest = 1_000_000.0
        self.tokens = [
            Token(user, token_id and f"{token_id} of {user}", self.now, None)
            for user in ("42", "41")
            for token_id in (None, "t1", "t2")
        ]
        self.held: dict[str, Held] = {}
        self.gone: dict[str, tuple[Held, Disconnect]] = {}
        self.connected: list[str] = []
        self.disconnected: list[tuple[str, Disconnect]] = []
        self.blocked: dict[str, float] = {}
        self.revoked: dict[str, float] = {}
        self.invalidated: dict[str, tuple[float, float]] = {}
        # What has ended is swept out as soon as there are a few.
        self.few = patch("usersessions.refusals._FEW", 2)
        self.few.start()

    @initialize(
        limit=st.one_of(
            st.none(),
            st.builds(
                SessionLimit,
                st.integers(1, 3),
                policy=st.sampled_from(["reject", "evict_oldest", "evict_idle"]),
                per_app=st.booleans(),
            ),
        )
    )
    def begin(self, limit: SessionLimit | None) -> None:
        self.limit = limit
        self.store = MemoryStore(clock=lambda: self.now)
        self.sessions = UserSessions(
            PlainVerifier(),
            store=self.store,
            limit=limit,
            on_connect=lambda session: self.connected.append(session.client),
            on_disconnect=lambda session, disconnect, lived: self.disconnected.append(
                (session.client, disconnect)
            ),
        )
        # Time goes on by steps of this test alone.
        self.sessions.arm = lambda: None  # type: ignore[method-assign]

    # Connecting -------------------------------------------------------------------------------

    @rule(number=TOKENS, age=AGES, life=st.sampled_from([None, None, 1, 30, 600, 5000]))
    def issue(self, number: int, age: int | None, life: int | None) -> None:
        """Issue a token anew, with the same ID: its sessions go by the one that they have."""
        self.tokens[number] = replace(
            self.tokens[number],
            issued_at=None if age is None else self.now - age,
            expires=None if life is None else self.now + life,
        )

    @rule(numbers=st.lists(TOKENS, min_size=1, max_size=4), app=APPS, obedient=OBEDIENT)
    def connect(self, numbers: list[int], app: str | None, obedient: bool) -> None:
        for number in numbers:
            token = self.tokens[number]
            self._connect(token.user, token, app, obedient, {})

    @rule(user=USERS, app=APPS, obedient=OBEDIENT, labels=st.sampled_from(LABELS))
    def connect_by_the_app(
        self, user: str, app: str | None, obedient: bool, labels: dict[str, str]
    ) -> None:
        self._connect(user, None, app, obedient, labels)

    def _client(self, number: int | None) -> str | None:
        """One of the sessions that are held, or that are gone, or none at all."""
        clients = [*self.held, *list(self.gone)[-2:], "nobody"]
        return None if number is None else clients[number % len(clients)]

    def _clients(self, numbers: list[int]) -> list[str]:
        return [client for number in numbers if (client := self._client(number))]

    def _connect(
        self,
        user: str,
        token: Token | None,
        app: str | None,
        obedient: bool,
        labels: dict[str, str],
    ) -> None:
        expected = self._refusal(user, token)
        rivals = self._those(
            lambda _, held: (
                held.user == user
                and held.told is None
                and (self.limit is None or not self.limit.per_app or held.app == app)
            )
        )
        excess = 0 if self.limit is None else len(rivals) + 1 - self.limit.max_sessions
        if expected is None and excess > 0 and self.limit and self.limit.policy == "reject":
            expected = 3504
        held = Held(
            user,
            app,
            obedient,
            token,
            labels,
            None if token is None else token.expires,
            self.now,
            self.sessions.connect(
                transport="websocket",
                app_name=app,
                close=lambda disconnect: held.close(disconnect),
                token=None if token is None else token.text(),
                identity=Identity(user, labels=labels) if token is None else None,
            ),
        )
        try:
            held.session = held.context.__enter__()
        except ConnectRefused as refused:
            assert refused.code == expected
            return
        assert expected is None
        if self.limit and self.limit.policy == "evict_idle":
            rivals.sort(key=lambda one: self.held[one].seen or self.held[one].connected_at)
        self._told(rivals[: max(0, excess)], Disconnect(3504, "connection limit"))
        self.held[held.session.client] = held

    def _refusal(self, user: str, token: Token | None) -> int | None:
        if token is not None and token.expires is not None and self.now >= token.expires:
            return 3500
        if self.now < self.blocked.get(user, 0):
            return 3503
        if token is None:
            return None
        if token.token_id is not None and self.now < self.revoked.get(token.token_id, 0):
            return 3500
        before, until = self.invalidated.get(user, (0, 0))
        return 3500 if self.now < until and (token.issued_at or 0) < before else None

    @rule(number=CLIENTS)
    def end(self, number: int) -> None:
        client = self._client(number)
        if client in self.held:
            self.held[client].context.__exit__(None, None, None)
            self._gone(client)

    @rule(number=CLIENTS)
    def touch(self, number: int) -> None:
        client = self._client(number)
        if client in self.held:
            self.held[client].session.touch()
            self.held[client].seen = self.now
        elif client in self.gone:
            self.gone[client][0].session.touch()

    # Ending -----------------------------------------------------------------------------------

    @rule(
        user=USERS,
        number=SOME_CLIENT,
        kept=st.lists(CLIENTS, max_size=2),
        labels=st.sampled_from([{}, {}, *LABELS]),
        revoke=st.booleans(),
    )
    def disconnect(
        self,
        user: str,
        number: int | None,
        kept: list[int],
        labels: dict[str, str],
        revoke: bool,
    ) -> None:
        client, keep = self._client(number), self._clients(kept)
        chosen = self._those(
            lambda one, held: (
                held.user == user
                and one not in keep
                and client in (None, one)
                and labels.items() <= held.labels.items()
            )
        )
        spared = {
            self.held[one].token_id
            for one in keep
            if one in self.held and self.held[one].user == user
        }
        hit = self._revoking(user, chosen, spared) if revoke else chosen
        ended = self.sessions.disconnect(
            user,
            client=client,
            whitelist=keep,
            label_filter=labels,
            code=4001,
            revoke=revoke,
            timeout=0,
        )
        self._expect(ended, hit, TOLD, revoke=revoke)

    def _revoking(self, user: str, chosen: list[str], spared: set[str | None]) -> list[str]:
        """Who ends where the tokens of the chosen are revoked; note that these are."""
        revoked = {self.held[one].token_id for one in chosen} - spared - {None}
        hit = self._those(
            lambda one, held: (
                held.user == user
                and (held.token_id in revoked or (held.token_id is None and one in chosen))
            )
        )
        for one in hit:
            held = self.held[one]
            if held.token_id is not None:
                until = self.now + MONTH if held.token_expires is None else held.token_expires
                self._revoke(held.token_id, until)
        return hit

    @rule(user=USERS, span=SPANS, really=SELDOM)
    def block_user(self, user: str, span: int | None, really: bool) -> None:
        if not really:
            self.unblock_user(user)
            return
        until = math.inf if span is None else self.now + span
        self.blocked[user] = max(until, self.blocked.get(user, 0))
        hit = self._those(lambda one, held: held.user == user)
        ended = self.sessions.block_user(user, expire_at=None if span is None else until, timeout=0)
        self._expect(ended, hit, FORCED)

    def unblock_user(self, user: str) -> None:
        self.blocked.pop(user, None)
        self.sessions.unblock_user(user)

    @rule(number=TOKENS, span=SPANS)
    def revoke_token(self, number: int, span: int | None) -> None:
        token = self.tokens[number]
        if token.token_id is not None:
            until = self.now + (MONTH if span is None else span)
            self._revoke(token.token_id, until)
            hit = self._those(lambda one, held: held.token_id == token.token_id)
            ended = self.sessions.revoke_token(
                token.token_id, expire_at=None if span is None else until, timeout=0
            )
            self._expect(ended, hit, INVALID)

    @rule(user=USERS, age=AGES, span=SPANS)
    def invalidate(self, user: str, age: int | None, span: int | None) -> None:
        before = self.now if age is None else self.now - age
        until = self.now + (MONTH if span is None else span)
        earlier = self.invalidated.get(user, (0, 0))
        if self.now >= earlier[1]:
            earlier = (0, 0)
        self.invalidated[user] = max(before, earlier[0]), max(until, earlier[1])
        hit = self._those(lambda one, held: held.user == user and held.issued_before(before))
        ended = self.sessions.invalidate_user_tokens(
            user,
            issued_before=None if age is None else before,
            expire_at=None if span is None else until,
            timeout=0,
        )
        self._expect(ended, hit, INVALID)

    @rule(user=USERS, number=SOME_CLIENT)
    def expire_now(self, user: str, number: int | None) -> None:
        client = self._client(number)
        hit = self._those(lambda one, held: held.user == user and client in (None, one))
        reached = self.sessions.refresh(user, client=client, expired=True, timeout=0)
        assert sorted(reached) == sorted(hit)
        self._told(hit, EXPIRED)

    @rule(really=SELDOM)
    def drain_and_serve_again(self, really: bool) -> None:
        if not really:
            return
        node = self.sessions.operations.node
        assert list(node.drain(0)) == []
        self._told(list(self.held), Disconnect(3001, "shutdown"))
        assert self.sessions.drain(timeout=0) == len(self.held)
        try:
            with self.sessions.connect(user="43", transport="websocket"):
                raise AssertionError("registered while draining")
        except ConnectRefused as refused:
            assert refused.code == 3001
        node.draining = False

    def _revoke(self, token_id: str, until: float) -> None:
        self.revoked[token_id] = max(until, self.revoked.get(token_id, 0))

    def _those(self, hit: Callable[[str, Held], bool]) -> list[str]:
        return [client for client, held in self.held.items() if hit(client, held)]

    def _expect(
        self, ended: Closed, hit: list[str], disconnect: Disconnect, *, revoke: bool = False
    ) -> None:
        obedient = [client for client in hit if self.held[client].obedient]
        assert sorted(ended.closed) == sorted(obedient)
        assert sorted(ended.unconfirmed) == sorted(set(hit) - set(obedient))
        tokenless = [client for client in hit if self.held[client].token_id is None]
        assert list(ended.not_revocable) == (tokenless if revoke else [])
        self._told(hit, disconnect)

    def _told(self, clients: list[str], disconnect: Disconnect) -> None:
        for client in clients:
            held = self.held[client]
            held.told = held.told or disconnect
            if held.obedient:
                self._gone(client)

    def _gone(self, client: str) -> None:
        held = self.held.pop(client)
        self.gone[client] = held, held.told or Disconnect(3000, "connection closed")

    # Time -------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 1, 5, 24, 30, 600, 5000]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.latest = max(self.latest, self.now)
        self.sessions.operations.node.expire()
        self._told(
            self._those(
                lambda _, held: (
                    held.expire_at is not None
                    and held.told is None
                    and self.now >= held.expire_at + GRACE
                )
            ),
            EXPIRED,
        )

    @rule(seconds=st.sampled_from([1, 600]))
    def set_the_clock_back(self, seconds: float) -> None:
        if self.latest - (self.now - seconds) < SET_BACK:
            self.now -= seconds

    @rule(user=USERS, number=SOME_CLIENT, span=SPANS)
    def refresh(self, user: str, number: int | None, span: int | None) -> None:
        client = self._client(number)
        hit = self._those(
            lambda one, held: held.user == user and held.told is None and client in (None, one)
        )
        expire_at = None if span is None else self.now + span
        assert list(self.sessions.refresh(user, client=client, expire_at=expire_at)) == hit
        for one in hit:
            self.held[one].expire_at = expire_at

    @rule(client_number=CLIENTS, number=TOKENS)
    def refresh_by_token(self, client_number: int, number: int) -> None:
        client, token = self._client(client_number), self.tokens[number]
        if client == "nobody" or client is None:
            return
        held = self.held[client] if client in self.held else self.gone[client][0]
        refused = self._refusal(token.user, token) is not None
        try:
            held.session.refresh(token.text())
        except TokenRevoked:
            assert refused
        except TokenError:
            assert refused or token.user != held.user
        except ConnectRefused as ended:
            assert ended.code == 3000
            assert held.told is not None or client in self.gone
        else:
            assert not refused
            assert token.user == held.user
            assert held.told is None
            assert client in self.held
            held.token, held.expire_at = token, token.expires

    # For the user themselves ------------------------------------------------------------------

    @rule(number=TOKENS)
    def authenticate(self, number: int) -> None:
        token = self.tokens[number]
        refused = self._refusal(token.user, token) is not None
        try:
            assert self.sessions.authenticate(token.text()).user == token.user
        except TokenError:
            assert refused
        else:
            assert not refused

    @rule(number=TOKENS, current_number=SOME_CLIENT)
    def list_own(self, number: int, current_number: int | None) -> None:
        token, current = self.tokens[number], self._client(current_number)
        try:
            listed = self.sessions.own(token.text()).list(current=current)
        except TokenError:
            assert self._refusal(token.user, token) is not None
            return
        assert [(one.client, one.current) for one in listed] == [
            (
                client,
                client == current
                if current
                else held.token_id is not None and held.token_id == token.token_id,
            )
            for client, held in self.held.items()
            if held.user == token.user
        ]

    @rule(number=TOKENS, client_number=CLIENTS, revoke=st.booleans())
    def end_own(self, number: int, client_number: int, revoke: bool) -> None:
        (client,) = self._clients([client_number])
        token = self.tokens[number]
        chosen = self._those(lambda one, held: one == client and held.user == token.user)
        try:
            ended = self._own(token, lambda own: own.end(client, revoke=revoke))
        except TokenError:
            assert self._refusal(token.user, token) is not None
            return
        except NoSuchSession:
            assert chosen == []
            return
        assert chosen == [client]
        hit = self._revoking(token.user, chosen, set()) if revoke else chosen
        self._expect(ended, hit, FORCED, revoke=revoke)

    @rule(number=TOKENS, current_number=SOME_CLIENT, revoke=st.booleans())
    def end_own_others(self, number: int, current_number: int | None, revoke: bool) -> None:
        token, current = self.tokens[number], self._client(current_number)
        held = None if current is None else self.held.get(current)
        known = held is not None and held.user == token.user
        spared = token.token_id if held is None else held.token_id
        try:
            ended = self._own(token, lambda own: own.end_others(current=current, revoke=revoke))
        except TokenError:
            assert self._refusal(token.user, token) is not None
            return
        except NoSuchSession:
            assert current is not None and not known
            return
        except InvalidValue:
            assert current is None and token.token_id is None
            return
        assert known if current is not None else token.token_id is not None
        chosen = self._those(
            lambda one, held: (
                held.user == token.user
                and one != current
                and (held.token_id is None or held.token_id != spared)
            )
        )
        hit = self._revoking(token.user, chosen, {spared}) if revoke else chosen
        self._expect(ended, hit, FORCED, revoke=revoke)

    def _own(self, token: Token, ask: Callable[[OwnOperations], Flow[T]]) -> T:
        def answer(request: Request) -> Reply:
            assert isinstance(request, StoreRequest)
            if isinstance(request, EndRequest):
                request = replace(request, timeout=0)
            return self.store.answer(request)

        return run(ask(OwnOperations(self.sessions.operations, token.text())), answer)

    # What always holds ------------------------------------------------------------------------

    @invariant()
    def lists_say_what_the_model_says(self) -> None:
        for user in ("41", "42"):
            listed = self.sessions.user_connections(user)
            expected = {one: held for one, held in self.held.items() if held.user == user}
            assert list(listed) == list(expected)
            for client, info in listed.items():
                held = expected[client]
                assert info.expire_at == held.expire_at
                assert info.last_seen == (held.connected_at if held.seen is None else held.seen)

    @invariant()
    def the_registry_holds_that_and_nothing_else(self) -> None:
        registry = self.store.node.registry
        users = {held.user for held in self.held.values()}
        assert registry.counts() == (len(self.held), len(users))
        assert registry.clients() == list(self.held)
        assert {one for one, tell in registry._tell.items() if tell is None} == {
            one for one, held in self.held.items() if held.told is not None
        }
        tokens: dict[str, set[str]] = {}
        for client, held in self.held.items():
            if held.token_id is not None:
                tokens.setdefault(held.token_id, set()).add(client)
        assert {one: set(clients) for one, clients in registry._tokens.items()} == tokens
        assert registry._seen.keys() == {
            one for one, held in self.held.items() if held.seen is not None
        }
        assert registry._deadlines._by_client == {
            one: held.expire_at + GRACE
            for one, held in self.held.items()
            if held.expire_at is not None and held.told is None
        }
        assert registry._farewells == {}

    @invariant()
    def each_session_heard_of_its_end_once(self) -> None:
        for held in (*self.held.values(), *(held for held, _ in self.gone.values())):
            assert held.heard == ([] if held.told is None else [held.told])
        for held in self.held.values():
            assert held.session.disconnect == held.told

    @invariant()
    def each_session_has_its_two_events(self) -> None:
        assert sorted(self.connected) == sorted([*self.held, *self.gone])
        assert sorted(self.disconnected, key=lambda one: one[0]) == sorted(
            ((client, ended) for client, (_, ended) in self.gone.items()), key=lambda one: one[0]
        )

    @invariant()
    def those_are_kept_out_that_have_to_be(self) -> None:
        for user in ("41", "42"):
            for token_id in (None, f"t1 of {user}", f"t2 of {user}"):
                for age in (None, 0, 1, 30, 601):
                    token = Token(user, token_id, None if age is None else self.now - age, None)
                    code = self._refusal(user, token)
                    why = Refusal.BLOCKED if code == 3503 else Refusal.REVOKED
                    reply = self.store.answer(CheckIdentity(user, token_id, token.issued_at or 0))
                    assert reply == (Allowed() if code is None else Refused(code, why))  # type: ignore[arg-type]

    def teardown(self) -> None:
        self.few.stop()
        for held in self.held.values():
            held.context.__exit__(None, None, None)


TestControlMachine = ControlMachine.TestCase
# The profile says how many examples there are; each has up to so many steps.
SEARCHING = os.environ.get("HYPOTHESIS_PROFILE") == "search"
TestControlMachine.settings = settings(
    max_examples=3000 if SEARCHING else 100, stateful_step_count=50
)
