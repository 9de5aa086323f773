"""The memory store answers the store's requests, and nothing else."""

from __future__ import annotations

import pytest

from usersessions.flows import Request
from usersessions.models import Disconnect
from usersessions.stores.base import (
    DisconnectUser,
    Entries,
    ListUser,
    Register,
    Registered,
    StoreRequest,
    Told,
)
from usersessions.stores.memory import MemoryStore


def test_it_registers_lists_tells_and_forgets() -> None:
    store = MemoryStore()
    told: list[Disconnect] = []
    assert store.answer(Register("42", "c1", b"{}", told.append)) == Registered()
    assert store.answer(ListUser("42")) == Entries({"c1": b"{}"})
    assert store.answer(DisconnectUser("42", Disconnect(4001))) == Told(("c1",))
    assert told == [Disconnect(4001)]
    store.end("42", "c1")
    store.end("42", "c1")
    assert store.answer(ListUser("42")) == Entries({})


@pytest.mark.anyio
async def test_it_may_be_awaited() -> None:
    assert await MemoryStore().aanswer(ListUser("42")) == Entries({})


def test_a_request_it_does_not_know_is_a_mistake_of_ours() -> None:
    class Unknown(StoreRequest):
        pass

    with pytest.raises(TypeError, match="Unknown"):
        MemoryStore().answer(Unknown())


def test_two_stores_share_nothing() -> None:
    first, second = MemoryStore(), MemoryStore()
    first.answer(Register("42", "c1", b"{}", print))
    assert second.answer(ListUser("42")) == Entries({})
    assert first.node.id != second.node.id


@pytest.mark.parametrize("request_", [ListUser("42"), DisconnectUser("42", Disconnect(4001))])
def test_a_request_decodes_only_its_own_reply(request_: Request) -> None:
    flow = iter(request_)  # type: ignore[call-overload]
    assert next(flow) is request_
    with pytest.raises(TypeError, match="got Registered"):
        flow.send(Registered())
