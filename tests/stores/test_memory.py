"""The memory store answers the store's requests, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from typing import get_args

import pytest

from usersessions.errors import DisconnectCode
from usersessions.flows import Reply, Request
from usersessions.models import Disconnect, LimitPolicy, SessionLimit
from usersessions.records import Facts
from usersessions.refusals import Refusal
from usersessions.registry import Tell
from usersessions.stores.base import (
    Allowed,
    BlockUser,
    CheckIdentity,
    Closed,
    DisconnectUser,
    EndRequest,
    Entries,
    ListUser,
    Reached,
    RefreshUser,
    Refused,
    Register,
    RevokeToken,
    StoreRequest,
)
from usersessions.stores.memory import MemoryStore

FACTS = Facts(connected_at=0.0)
RECORD = b"{}\n" + FACTS.to_json()


def register(
    client: str, tell: Tell, *, facts: Facts = FACTS, limit: SessionLimit | None = None
) -> Register:
    return Register("42", client, b"{}\n" + facts.to_json(), facts, tell, limit)


def ignore(disconnect: Disconnect) -> None:
    pass


def test_it_registers_lists_tells_and_forgets() -> None:
    store = MemoryStore()
    told: list[Disconnect] = []
    assert store.answer(register("c1", told.append)) == Allowed()
    assert store.answer(ListUser("42")) == Entries({"c1": RECORD}, {})
    disconnect = DisconnectUser("42", Disconnect(4001), timeout=0)
    assert store.answer(disconnect) == Closed(unconfirmed=("c1",))
    assert told == [Disconnect(4001)]
    store.end("42", "c1")
    store.end("42", "c1")
    assert store.answer(ListUser("42")) == Entries({}, {})


def test_a_touch_is_seen_in_lists_while_the_client_is_there() -> None:
    store = MemoryStore(clock=lambda: 7.0)
    store.answer(register("c1", ignore))
    store.touch("42", "c1")
    store.touch("42", "c2")
    assert store.answer(ListUser("42")) == Entries({"c1": RECORD}, {"c1": 7.0})


def test_a_session_that_ends_in_time_is_closed() -> None:
    store = MemoryStore()

    def close(disconnect: Disconnect) -> None:
        threading.Thread(target=store.end, args=("42", "c1")).start()

    store.answer(register("c1", close))
    disconnect = DisconnectUser("42", Disconnect(4001), timeout=30)
    assert store.answer(disconnect) == Closed(closed=("c1",))


@pytest.mark.anyio
async def test_a_session_that_ends_in_time_is_closed_also_where_it_is_awaited() -> None:
    store = MemoryStore()
    loop = asyncio.get_running_loop()

    def close(disconnect: Disconnect) -> None:
        loop.call_soon(store.end, "42", "c1")

    store.answer(register("c1", close))
    store.answer(register("c2", ignore))
    reply = await store.aanswer(DisconnectUser("42", Disconnect(4001), client="c1", timeout=30))
    assert reply == Closed(closed=("c1",))
    reply = await store.aanswer(DisconnectUser("42", Disconnect(4001), timeout=0.01))
    assert reply == Closed(unconfirmed=("c2",))


def test_nothing_is_left_of_who_waited_in_vain() -> None:
    store = MemoryStore()
    store.answer(register("c1", ignore))
    for _ in range(3):
        store.answer(DisconnectUser("42", Disconnect(4001), timeout=0))
    assert store.node.registry._farewells == {}


def test_a_session_that_outlives_the_loop_of_who_waited_ends_without_harm() -> None:
    store = MemoryStore()
    store.answer(register("c1", ignore))

    async def wait() -> Reply:
        waiting = asyncio.ensure_future(
            store.aanswer(DisconnectUser("42", Disconnect(4001), timeout=30))
        )
        await asyncio.sleep(0)
        farewells.extend(store.node.registry._farewells["c1"])
        waiting.cancel()
        return await asyncio.gather(waiting, return_exceptions=True)  # type: ignore[return-value]

    farewells: list[object] = []
    asyncio.run(wait())
    (farewell,) = farewells
    farewell()  # type: ignore[operator]
    assert store.node.registry._farewells == {}


@pytest.mark.anyio
async def test_it_may_be_awaited() -> None:
    assert await MemoryStore().aanswer(ListUser("42")) == Entries({}, {})


def test_a_request_it_does_not_know_is_a_mistake_of_ours() -> None:
    class Unknown(StoreRequest):
        pass

    class UnknownEnd(EndRequest):
        pass

    for request in (Unknown(), UnknownEnd(timeout=0)):
        with pytest.raises(TypeError, match="Unknown"):
            MemoryStore().answer(request)


def test_two_stores_share_nothing() -> None:
    first, second = MemoryStore(), MemoryStore()
    first.answer(register("c1", ignore))
    assert second.answer(ListUser("42")) == Entries({}, {})
    assert first.node.id != second.node.id


@pytest.mark.parametrize(
    "request_",
    [
        ListUser("42"),
        DisconnectUser("42", Disconnect(4001), timeout=0),
        register("c1", ignore),
        RefreshUser("42", None, None),
    ],
)
def test_a_request_decodes_only_its_own_reply(request_: Request) -> None:
    class Other(Reply):
        pass

    flow = iter(request_)  # type: ignore[call-overload]
    assert next(flow) is request_
    with pytest.raises(TypeError, match="got Other"):
        flow.send(Other())


def test_a_close_may_use_the_store_while_it_is_told() -> None:
    store = MemoryStore()
    seen: list[Reply] = []

    def close(disconnect: Disconnect) -> None:
        seen.append(store.answer(CheckIdentity("42", None, None)))
        store.end("42", "c1")

    store.answer(register("c1", close))
    assert store.answer(BlockUser("42", None, timeout=0)) == Closed(closed=("c1",))
    refused = Refused(DisconnectCode.FORCE_DISCONNECT, Refusal.BLOCKED)
    assert seen == [refused]
    assert store.answer(register("c2", ignore)) == refused


def test_no_session_is_both_refreshed_and_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(clock=lambda: 125.0)
    told: list[Disconnect] = []
    store.answer(register("c1", told.append, facts=Facts(0.0, expire_at=100.0)))
    replies: list[Reply] = []
    refresh = threading.Thread(
        target=lambda: replies.append(store.answer(RefreshUser("42", None, 200.0)))
    )
    expired = store.node.registry.expired

    def expired_while_refreshed(now: float) -> list[str]:
        clients = expired(now)
        refresh.start()
        # It has to wait until this is over; if it had not, it would be done by then.
        refresh.join(0.1)
        return clients

    monkeypatch.setattr(store.node.registry, "expired", expired_while_refreshed)
    store.node.expire()
    refresh.join()
    assert (len(told), replies) == (1, [Reached(())])


def test_nobody_is_registered_once_draining_has_begun() -> None:
    store = MemoryStore()
    list(store.node.drain(0))
    assert store.answer(register("c1", ignore)) == Refused(DisconnectCode.SHUTDOWN)
    assert store.answer(ListUser("42")) == Entries({}, {})


def test_what_a_close_raises_keeps_no_other_from_being_told() -> None:
    def fail(disconnect: Disconnect) -> None:
        raise KeyboardInterrupt

    evicting = register("c4", ignore, limit=SessionLimit(1, policy="evict_oldest"))
    for request in (DisconnectUser("42", Disconnect(4001), timeout=0), evicting):
        store = MemoryStore()
        told: list[Disconnect] = []
        for client, tell in (("c1", told.append), ("c2", fail), ("c3", told.append)):
            store.answer(register(client, tell))
        with pytest.raises(KeyboardInterrupt):
            store.answer(request)
        assert len(told) == 2
        assert store.node.registry._farewells == {}


def test_a_revocation_lasts_as_long_as_the_last_token_of_its_id() -> None:
    now = 0.0
    store = MemoryStore(clock=lambda: now)
    for client, ends in (("c1", 10.0), ("c2", 20.0)):
        facts = Facts(0.0, token_id="t1", token_expires=ends)
        store.answer(register(client, ignore, facts=facts))
    store.answer(DisconnectUser("42", Disconnect(4001), client="c1", revoke=True, timeout=0))
    now = 19.0
    refused = Refused(DisconnectCode.INVALID_TOKEN, Refusal.REVOKED)
    assert store.answer(CheckIdentity("42", "t1", None)) == refused
    now = 20.0
    assert store.answer(CheckIdentity("42", "t1", None)) == Allowed()


def test_a_disconnect_of_one_user_ends_nobody_elses_session_whatever_its_token() -> None:
    store = MemoryStore()
    facts = Facts(0.0, token_id="t1")
    record = b"{}\n" + facts.to_json()
    for user, client in (("42", "c1"), ("43", "c2")):
        store.answer(Register(user, client, record, facts, ignore))
    reply = store.answer(DisconnectUser("42", Disconnect(4001), revoke=True, timeout=0))
    assert reply == Closed(unconfirmed=("c1",))


def test_a_spared_token_is_neither_revoked_nor_are_its_sessions_told() -> None:
    store = MemoryStore()
    for client, token_id in (("c1", "t1"), ("c2", "t2"), ("c3", None)):
        store.answer(register(client, ignore, facts=Facts(0.0, token_id=token_id)))
    for revoke in (False, True):
        disconnect = DisconnectUser(
            "42", Disconnect(4001), revoke=revoke, spared_token="t1", timeout=0
        )
        reply = store.answer(disconnect)
        assert isinstance(reply, Closed)
        assert reply.unconfirmed == ("c2", "c3")
    assert store.answer(CheckIdentity("42", "t1", None)) == Allowed()


def test_a_session_that_was_told_has_no_deadline_any_more() -> None:
    store = MemoryStore()
    store.answer(register("c1", ignore, facts=Facts(0.0, expire_at=100.0)))
    assert store.node.registry.next_deadline == 125.0
    store.answer(DisconnectUser("42", Disconnect(4001), timeout=0))
    assert store.node.registry.next_deadline is None


def test_ending_says_whether_there_was_a_session() -> None:
    store = MemoryStore()
    store.answer(register("c1", ignore))
    assert (store.end("43", "c1"), store.end("42", "c1"), store.end("42", "c1")) == (
        False,
        True,
        False,
    )


def test_a_hundred_registrations_at_once_leave_exactly_the_limit() -> None:
    for policy in get_args(LimitPolicy):
        store = MemoryStore()
        limit = SessionLimit(5, policy=policy)
        told: list[str] = []
        replies: list[Reply] = []
        start = threading.Barrier(20)

        def work(
            number: int,
            store: MemoryStore = store,
            limit: SessionLimit = limit,
            told: list[str] = told,
            replies: list[Reply] = replies,
            start: threading.Barrier = start,
        ) -> None:
            start.wait()
            for turn in range(5):
                client = f"{number}-{turn}"
                tell: Tell = lambda disconnect, client=client: told.append(client)  # type: ignore[misc] # noqa: E731
                replies.append(store.answer(register(client, tell, limit=limit)))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.node.registry.open("42")) == 5
        allowed = sum(reply == Allowed() for reply in replies)
        assert len(told) == allowed - 5
        assert (allowed == 5) == (policy == "reject")


def test_a_token_is_revoked_together_with_all_its_sessions() -> None:
    store = MemoryStore()
    facts = Facts(connected_at=0.0, token_id="t1")
    told: list[str] = []
    store.answer(register("c1", lambda disconnect: told.append("c1"), facts=facts))
    store.answer(register("c2", lambda disconnect: told.append("c2"), facts=facts))
    reply = store.answer(
        DisconnectUser("42", Disconnect(4001), client="c1", revoke=True, timeout=0)
    )
    assert reply == Closed(unconfirmed=("c1", "c2"))
    assert told == ["c1", "c2"]
    refused = Refused(DisconnectCode.INVALID_TOKEN, Refusal.REVOKED)
    assert store.answer(register("c3", ignore, facts=facts)) == refused
    assert store.answer(RevokeToken("t1", None, timeout=0)) == Closed(unconfirmed=("c1", "c2"))
