"""Connections as the handlers of an app hold them, and the tokens that they come with."""

from __future__ import annotations

import asyncio
from typing import Any

import jwt
import pytest

from tests.conformance.stores import SECRET, Clock
from usersessions import ConnectRefused, Disconnect

__all__ = ["Connections", "refused_code", "token"]


def token(clock: Clock, **claims: object) -> str:
    """A token of user 42, issued now."""
    return jwt.encode({"sub": "42", "iat": int(clock.now), **claims}, SECRET, algorithm="HS256")


class Connections:
    """Connections as handlers hold them: each ends as soon as it is told to."""

    def __init__(self, face: Any) -> None:
        self.face = face
        self.ended: dict[str, Disconnect] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, **arguments: Any) -> Any:
        """Connect, and give the session."""
        loop = asyncio.get_running_loop()
        connected: asyncio.Future[Any] = loop.create_future()
        self._tasks.append(loop.create_task(self._hold(connected, arguments)))
        return await connected

    async def _hold(self, connected: asyncio.Future[Any], arguments: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Disconnect] = loop.create_future()

        def settle(disconnect: Disconnect) -> None:
            # The test may be over by now.
            if not told.done():
                told.set_result(disconnect)

        def close(disconnect: Disconnect) -> None:
            loop.call_soon_threadsafe(settle, disconnect)

        try:
            async with self.face.connect(transport="websocket", close=close, **arguments) as one:
                connected.set_result(one)
                self.ended[one.client] = await told
        except ConnectRefused as refused:
            connected.set_exception(refused)

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def refused_code(connections: Connections, **arguments: Any) -> int:
    """The code with which a connection is refused."""
    with pytest.raises(ConnectRefused) as refused:
        await connections.open(**arguments)
    return refused.value.code
