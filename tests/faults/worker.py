"""A process that holds sessions as an app does, and does as it is told; `nodes.Worker` starts it.

1. A line of JSON on standard input is a request, `{"id", "do", "with"}`; the answer is a line on
   standard output, `{"id", "value" or "error", "took"}`. Requests run side by side.
2. It ends in good order on SIGTERM, and when its standard input ends: it outlives nobody.
3. Moments are of `time.monotonic`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import queue
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from usersessions import (
    AsyncUserSessions,
    Closed,
    ConnectionInfo,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    MemoryStore,
    RedisStore,
    SessionLimit,
    UserSessions,
)


@dataclass
class Held:
    """A session, and what became of it."""

    user: str
    client: str = ""
    opened_at: float | None = None
    code: int | None = None
    told_at: float | None = None
    ended_at: float | None = None
    refused: int | None = None
    took: float = field(default=0.0)

    def told(self, disconnect: Disconnect) -> None:
        """What its `close` is told."""
        self.told_at = time.monotonic()
        self.code = disconnect.code


class Holder(ABC):
    """Does what requests ask, whatever the face."""

    sessions: AsyncUserSessions | UserSessions

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.offset: float = arguments.clock_offset
        self.held: list[Held] = []
        limit = None
        if arguments.limit is not None:
            limit = SessionLimit(arguments.limit, policy=arguments.policy)
        self.settings: dict[str, Any] = {"store": self._store(arguments), "limit": limit}

    def _store(self, arguments: argparse.Namespace) -> MemoryStore | RedisStore:
        if arguments.url == "memory":
            return MemoryStore(clock=self._clock)
        return RedisStore(
            arguments.url,
            prefix=arguments.prefix,
            lease=arguments.lease,
            timeout=arguments.timeout,
            clock=self._clock,
        )

    def _clock(self) -> float:
        return time.time() + self.offset

    def now(self, do: str, given: Mapping[str, Any]) -> Any:
        """Do what needs no waiting.

        Raises:
            LookupError: if there is no such thing to do.
        """
        if do == "held":
            return [asdict(one) for one in self.held]
        if do == "clock":
            self.offset = given["offset"]
            return None
        if do == "join":
            return self.sessions.join()
        raise LookupError(f"no such thing to do: {do}")

    def _admit(self, given: Mapping[str, Any], client: str) -> Any:
        request = ConnectRequest(client, given["transport"], name=given.get("app_name"))
        identity = Identity(given["user"], **given.get("identity", {}))
        return self.sessions.operations.admit(request, identity=identity)

    def _clients(self, given: Mapping[str, Any]) -> Iterator[str]:
        draw = self.sessions.operations.node.client_ids.draw
        yield from given.get("clients") or (draw() for _ in range(given["count"]))

    def _chosen(self, given: Mapping[str, Any]) -> list[Held]:
        wanted = given.get("clients")
        return [one for one in self.held if wanted is None or one.client in wanted]

    @abstractmethod
    def run(self) -> None:
        """Serve until it is told to end."""


class AsyncHolder(Holder):
    """Sessions on an event loop, each held by a task."""

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.sessions = AsyncUserSessions(**self.settings)
        self.tasks: dict[int, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ending.set)
        running: set[asyncio.Task[None]] = set()

        def start(request: Mapping[str, Any]) -> None:
            task = loop.create_task(self._answer(request))
            running.add(task)
            task.add_done_callback(running.discard)

        def listen() -> None:
            for request in requests():
                loop.call_soon_threadsafe(start, request)
            loop.call_soon_threadsafe(ending.set)

        threading.Thread(target=listen, daemon=True).start()
        say({"ready": self.sessions.operations.node.id})
        await ending.wait()
        await self.sessions.aclose()

    async def _answer(self, request: Mapping[str, Any]) -> None:
        began = time.monotonic()
        try:
            value = await self._do(request["do"], request["with"])
        except Exception as error:
            say(failed(request, began, error))
        else:
            say(done(request, began, value))

    async def _do(self, do: str, given: Mapping[str, Any]) -> Any:
        assert isinstance(self.sessions, AsyncUserSessions)
        if do == "open":
            return await self._open(given)
        if do == "end":
            for one in self._chosen(given):
                self.tasks[id(one)][0].set()
            await asyncio.gather(*(self.tasks[id(one)][1] for one in self._chosen(given)))
            return None
        if do == "block":
            time.sleep(given["seconds"])
            return None
        if do == "call":
            return await getattr(self.sessions, given["method"])(**given["arguments"])
        if do == "api":
            return json.loads(await self.sessions.dispatch(given["body"].encode()))
        return self.now(do, given)

    async def _open(self, given: Mapping[str, Any]) -> Any:
        opened: list[Held] = []
        connected = []
        for client in self._clients(given):
            held = Held(given["user"], client)
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            leave = asyncio.Event()
            task = asyncio.create_task(self._hold(held, given, ready, leave))
            self.tasks[id(held)] = leave, task
            opened.append(held)
            connected.append(ready)
        self.held += opened
        await asyncio.gather(*connected)
        return [asdict(one) for one in opened]

    async def _hold(
        self,
        held: Held,
        given: Mapping[str, Any],
        ready: asyncio.Future[None],
        leave: asyncio.Event,
    ) -> None:
        assert isinstance(self.sessions, AsyncUserSessions)
        over = asyncio.Event()

        def close(disconnect: Disconnect) -> None:
            held.told(disconnect)
            over.set()

        began = time.monotonic()
        try:
            admitted = await self.sessions.run(self._admit(given, held.client))
            holding: AbstractAsyncContextManager[Any] = self.sessions.hold(admitted, close=close)
            async with holding:
                held.opened_at = time.monotonic()
                held.took = held.opened_at - began
                ready.set_result(None)
                waits = [asyncio.create_task(one.wait()) for one in (over, leave)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if not leave.is_set():
                    await asyncio.wait(waits[1:], timeout=given.get("linger"))
                for wait in waits:
                    wait.cancel()
            held.ended_at = time.monotonic()
        except ConnectRefused as error:
            held.refused, held.took = error.code, time.monotonic() - began
            ready.set_result(None)
        except Exception as error:
            ready.set_exception(error)


class BlockingHolder(Holder):
    """Sessions of blocking code, each held by a thread."""

    def run(self) -> None:
        self.sessions = UserSessions(**self.settings)
        self.threads: dict[int, tuple[Callable[[], None], threading.Thread]] = {}
        # Unlike an event, it may be used in a signal handler.
        ending: queue.SimpleQueue[None] = queue.SimpleQueue()
        signal.signal(signal.SIGTERM, lambda number, frame: ending.put(None))

        def listen() -> None:
            for request in requests():
                threading.Thread(target=self._answer, args=(request,), daemon=True).start()
            ending.put(None)

        threading.Thread(target=listen, daemon=True).start()
        say({"ready": self.sessions.operations.node.id})
        ending.get()
        self.sessions.close()

    def _answer(self, request: Mapping[str, Any]) -> None:
        began = time.monotonic()
        try:
            value = self._do(request["do"], request["with"])
        except Exception as error:
            say(failed(request, began, error))
        else:
            say(done(request, began, value))

    def _do(self, do: str, given: Mapping[str, Any]) -> Any:
        assert isinstance(self.sessions, UserSessions)
        if do == "open":
            return self._open(given)
        if do == "end":
            for one in self._chosen(given):
                self.threads[id(one)][0]()
            for one in self._chosen(given):
                self.threads[id(one)][1].join()
            return None
        if do == "call":
            return getattr(self.sessions, given["method"])(**given["arguments"])
        if do == "api":
            return json.loads(self.sessions.dispatch(given["body"].encode()))
        return self.now(do, given)
