"""A process that holds sessions as an app does, and does as it is told; `nodes.Worker` starts it.

1. A line of JSON on standard input is a request, `{"id", "do", "with"}`; the answer is a line on
   standard output, `{"id", "value" or "error", "began", "took"}`. Requests run side by side.
2. On SIGTERM it drains and ends. It ends when its standard input does, too: it outlives nobody.
   The last that it says, `{"left"}`, is what became of its sessions.
3. Moments are of `time.monotonic`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from typing import Any

from tests.conformance.faces import AsyncFace, BlockingFace
from usersessions import (
    ConnectionInfo,
    Connections,
    ConnectRefused,
    Disconnect,
    Identity,
    MemoryStore,
    SessionLimit,
)
from usersessions.stores.redis import RedisStore

THREADS = 64
DRAIN_SECONDS = 5.0


class Holding:
    """A session that is held here, and what became of it."""

    def __init__(self, user: str) -> None:
        self.seen: dict[str, Any] = {"user": user, "client": None, "refused": None, "code": None}
        self.seen |= dict.fromkeys(("opened_at", "told_at", "ended_at", "took"))
        self.over = asyncio.Event()
        self.left = asyncio.Event()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(self, **seen: Any) -> None:
        self.seen.update(seen)


class Worker:
    """Carries out requests with a facade, which is blocking or awaited."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.offset: float = arguments.clock_offset
        self.is_blocking = arguments.face == "sync"
        face = BlockingFace if self.is_blocking else AsyncFace
        limit = None
        if arguments.limit is not None:
            limit = SessionLimit(arguments.limit, policy=arguments.policy)
        self.face: Any = face(store=self._store(arguments), limit=limit)
        self.sessions = self.face.sessions
        self.holdings: list[Holding] = []
        self.tasks: dict[Holding, asyncio.Task[None]] = {}

    def _store(self, arguments: argparse.Namespace) -> MemoryStore | RedisStore:
        def clock() -> float:
            return time.time() + self.offset

        if arguments.url == "memory":
            return MemoryStore(clock=clock)
        return RedisStore(
            arguments.url,
            prefix=arguments.prefix,
            lease=arguments.lease,
            timeout=arguments.timeout,
            clock=clock,
        )

    async def serve(self) -> None:
        """Serve until it is told to end."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS))
        ending: asyncio.Queue[float] = asyncio.Queue()
        loop.add_signal_handler(signal.SIGTERM, ending.put_nowait, DRAIN_SECONDS)
        running: set[asyncio.Task[None]] = set()

        def start(request: Mapping[str, Any]) -> None:
            task = loop.create_task(self._answer(request))
            running.add(task)
            task.add_done_callback(running.discard)

        def listen() -> None:
            for line in lines():
                loop.call_soon_threadsafe(start, json.loads(line))
            # The loop may have ended by itself.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(ending.put_nowait, 0.0)

        threading.Thread(target=listen, daemon=True).start()
        say({"node": self.sessions.operations.node.id})
        await self.face.aclose(timeout=await ending.get())
        say({"left": [one.seen for one in self.holdings]})

    async def _answer(self, request: Mapping[str, Any]) -> None:
        began = time.monotonic()
        answer: dict[str, Any] = {"id": request["id"], "began": began}
        try:
            do = getattr(self, f"do_{request['do']}")
            answer["value"] = plain(await do(**request["with"]))
        except Exception as error:
            answer["error"] = {"type": type(error).__name__, "message": str(error)}
        answer["took"] = time.monotonic() - began
        say(answer)

    # What it can do ---------------------------------------------------------------------------

    async def do_open(
        self,
        *,
        user: str,
        count: int = 1,
        clients: list[str] | None = None,
        linger: float | None = 0.0,
        hang: float = 0.0,
        app_name: str | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Open sessions side by side, with these client IDs or new ones, and give what became.

        A session that is told to end ends `linger` seconds later; None is when `end` says so. Its
        `close` takes `hang` seconds before it does anything.
        """
        if clients is not None:
            # The next ones to be drawn.
            self.sessions.operations.node.client_ids._drawn.extend(reversed(clients))
            count = len(clients)
        who = Identity(user, **(identity or {}))
        opened = [Holding(user) for _ in range(count)]
        for one in opened:
            hold = self._hold(one, who, app_name, linger, hang)
            self.tasks[one] = asyncio.create_task(hold)
        self.holdings += opened
        await asyncio.gather(*(one.opened for one in opened))
        return [one.seen for one in opened]

    async def _hold(
        self,
        one: Holding,
        identity: Identity,
        app_name: str | None,
        linger: float | None,
        hang: float,
    ) -> None:
        loop = asyncio.get_running_loop()

        def close(disconnect: Disconnect) -> None:
            one.note(code=disconnect.code, told_at=time.monotonic())
            time.sleep(hang if self.is_blocking else 0)
            loop.call_soon_threadsafe(one.over.set)

        async def aclose(disconnect: Disconnect) -> None:
            await asyncio.sleep(hang)
            close(disconnect)

        began = time.monotonic()
        try:
            async with self.face.connect(
                identity=identity,
                transport="websocket",
                app_name=app_name,
                close=aclose if hang and not self.is_blocking else close,
            ) as session:
                now = time.monotonic()
                one.note(client=session.client, opened_at=now, took=now - began)
                one.opened.set_result(None)
                await one.over.wait()
                if not one.left.is_set() and linger != 0:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(one.left.wait(), linger)
            one.note(ended_at=time.monotonic())
        except ConnectRefused as error:
            one.note(refused=error.code, took=time.monotonic() - began)
            one.opened.set_result(None)
        except Exception as error:
            if one.opened.done():
                raise
            one.opened.set_exception(error)

    async def do_end(self, *, clients: list[str] | None = None) -> None:
        """End sessions as if their clients had gone: these, or all; and wait until they are."""
        chosen = [one for one in self.holdings if clients is None or one.seen["client"] in clients]
        for one in chosen:
            one.left.set()
            one.over.set()
        await asyncio.gather(*(self.tasks[one] for one in chosen))

    async def do_held(self) -> list[dict[str, Any]]:
        """What became of each session that was opened here."""
        return [one.seen for one in self.holdings]

    async def do_call(self, *, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call a method of the facade."""
        return await getattr(self.face, method)(**arguments)

    async def do_api(self, *, command: Mapping[str, Any]) -> Any:
        """Have the server API carry out a command, and give its reply."""
        return json.loads(await self.face.dispatch(json.dumps(command).encode()))

    async def do_join(self) -> None:
        """Be seen among the nodes."""
        self.sessions.join()

    async def do_clock(self, *, offset: float) -> None:
        """Have the wall clock go wrong by so many seconds."""
        self.offset = offset

    async def do_block(self, *, seconds: float) -> None:
        """Block the event loop."""
        time.sleep(seconds)


def plain(value: Any) -> Any:
    """What the facades give, as JSON."""
    if isinstance(value, Connections):
        connections = {client: plain(info) for client, info in value.items()}
        return {"connections": connections, "partial": value.partial}
    if isinstance(value, ConnectionInfo):
        names = ("app_name", "transport", "connected_at", "last_seen", "expire_at", "labels")
        return {name: getattr(value, name) for name in (*names, "meta")}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def lines() -> Iterator[bytes]:
    """The lines of standard input; read without a lock that the end of the program waits for."""
    rest = b""
    while data := os.read(0, 65536):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def say(answer: Mapping[str, Any]) -> None:
    """Write an answer, whole."""
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--prefix", default="usersessions")
    parser.add_argument("--lease", type=float, default=1.5)
    parser.add_argument("--timeout", type=float, default=2.0)
    parser.add_argument("--face", choices=("async", "sync"), default="async")
    parser.add_argument("--clock-offset", type=float, default=0.0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--policy", default="reject")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    asyncio.run(Worker(parser.parse_args()).serve())


if __name__ == "__main__":
    main()
