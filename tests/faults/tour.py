"""All that two nodes do with one another, in short: for each way to reach a Redis."""

from __future__ import annotations

import json
import time

import pytest

from tests.faults.here import HEALED, Here, sees, sees_all, token_of
from tests.servers import until
from usersessions import (
    ConnectRefused,
    Identity,
    SessionLimit,
    TokenRevoked,
)

USERS = [f"user {number}" for number in range(24)]
"""In a cluster, some of them on each server."""


def tour(url: str, *, prefix: str = "usersessions", timeout: float = 2.0) -> None:
    """Do everything once, over two nodes."""
    with (
        Here(url, prefix=prefix, timeout=timeout) as one,
        Here(url, prefix=prefix, timeout=timeout) as other,
    ):
        _lists(one, other)
        _ends(one, other)
        _keeps_out(one, other)
        _renews(one, other)
    with (
        Here(url, prefix=prefix, timeout=timeout, limit=SessionLimit(2, policy="reject")) as one,
        Here(
            url, prefix=prefix, timeout=timeout, limit=SessionLimit(2, policy="evict_oldest")
        ) as other,
    ):
        _limits(one, other)


def _lists(one: Here, other: Here) -> None:
    held = {user: {one.open(user), other.open(user)} for user in USERS}
    for user, clients in held.items():
        for node in (one, other):
            sees_all(node, user, clients)
    info = until(
        lambda: [node for node in other.sessions.info() if node.num_clients == len(USERS)],
        what="both nodes to say what they hold",
        seconds=HEALED,
    )
    assert len(other.sessions.info()) == 2
    assert info[0].num_users == len(USERS)
    for user, clients in held.items():
        one.end(*clients & one.held(user))
        other.end(*clients & other.held(user))
        sees_all(one, user, set())


def _ends(one: Here, other: Here) -> None:
    web = one.open(Identity("42", meta={"plan": "pro"}, labels={"app": "web"}), app_name="web")
    phone = one.open("42", app_name="phone")
    near = other.open("42")
    sees_all(other, "42", {web, phone, near})
    shown = other.list("42")[web]
    assert (shown.app_name, shown.meta, shown.labels) == ("web", {"plan": "pro"}, {"app": "web"})
    assert other.sessions.disconnect("42", label_filter={"app": "web"}).closed == (web,)
    sees_all(other, "42", {phone, near})
    closed = other.sessions.disconnect("42", whitelist=[near], code=4500, reason="enough")
    assert (closed.closed, closed.unconfirmed, closed.partial) == ((phone,), (), False)
    assert (one.code(web), one.code(phone), other.code(near)) == (3503, 4500, None)
    kept = one.open("43", told=lambda: None)
    sees_all(other, "43", {kept})
    assert other.sessions.disconnect("43", timeout=0.1).unconfirmed == (kept,)
    one.end(kept)
    asked = {"method": "disconnect", "params": {"user": "42"}}
    reply = json.loads(one.sessions.dispatch(json.dumps(asked).encode()))
    assert reply["result"]["closed"] == [near]
    sees_all(one, "42", set())


def _keeps_out(one: Here, other: Here) -> None:
    # Their marks are on other servers of a cluster than their users.
    tokens = {
        f"t{number}": one.open("42", token=token_of("42", f"t{number}")) for number in range(6)
    }
    sees_all(other, "42", set(tokens.values()))
    for token_id in ("t0", "t1", "t2"):
        assert other.sessions.revoke_token(token_id).closed == (tokens[token_id],)
        for node in (one, other):
            with pytest.raises(TokenRevoked):
                node.sessions.authenticate(token_of("42", token_id))
            _is_refused(node, "42", token_of("42", token_id), 3500)
    assert one.code(tokens["t0"]) == 3500
    own = other.sessions.own(token_of("42", "t3"))
    assert [mine.client for mine in own.list() if mine.current] == [tokens["t3"]]
    assert own.end(tokens["t4"]).closed == (tokens["t4"],)
    assert own.end_others().closed == (tokens["t5"],)
    assert other.sessions.authenticate(token_of("42", "t3")).user == "42"
    assert other.sessions.invalidate_user_tokens("42").closed == (tokens["t3"],)
    _is_refused(one, "42", token_of("42", "t9"), 3500)
    blocked = one.open("44")
    sees_all(other, "44", {blocked})
    assert other.sessions.block_user("44").closed == (blocked,)
    _is_refused(one, "44", None, 3503)
    one.sessions.unblock_user("44")
    other.end(other.open("44"))


def _renews(one: Here, other: Here) -> None:
    later = time.time() + 3600
    client = one.open("45", token=token_of("45", "n1"))
    sees_all(other, "45", {client})
    assert other.sessions.refresh("45", expire_at=later) == (client,)
    until(lambda: other.list("45")[client].expire_at == later, what="another end", seconds=HEALED)
    one.session(client).refresh(token_of("45", "n2"))
    assert other.sessions.revoke_token("n1").closed == ()
    before = other.list("45")[client].last_seen
    one.session(client).touch()
    until(
        lambda: other.list("45")[client].last_seen > before, what="a sign of life", seconds=HEALED
    )
    assert other.sessions.revoke_token("n2").closed == (client,)


def _limits(one: Here, other: Here) -> None:
    first, second = one.open("46"), other.open("46")
    sees_all(one, "46", {first, second})
    _is_refused(one, "46", None, 3504)
    third = other.open("46")
    sees(one, "46", {second, third})
    assert one.code(first) == 3504


def _is_refused(node: Here, user: str, token: str | None, code: int) -> None:
    """Connect, and be refused: at once, or a moment later where Redis took too long to say so."""
    try:
        client = node.open(user, token=token)
    except ConnectRefused as refused:
        assert refused.code == code
    else:
        until(lambda: node.code(client) == code, what="the verdict", seconds=HEALED)
