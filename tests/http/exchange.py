"""ASGI without a server: an app in a task of the test, with a receive and a send made by hand."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.guards import GuardedLoop
from usersessions import AsyncUserSessions
from usersessions.http.asgi import ASGIApp, Message, Scope

GRACE_STEPS = 50
"""How many steps of the event loop something may take that waits for nothing but other tasks."""


def scope(
    path: str,
    *,
    kind: str = "http",
    method: str = "POST",
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    root_path: str | None = None,
) -> Scope:
    made: Scope = {"type": kind, "path": path, "query_string": query, "headers": list(headers)}
    if kind == "http":
        made["method"] = method
    if root_path is not None:
        made["root_path"] = root_path
    return made


class Exchange:
    """One scope, being served.

    Args:
        app: the app.
        scope: what it serves.
        incoming: the messages that it receives at first.
        blocks_at: the number of the message that `send` never gets rid of, counted from 0, as for
            a client that does not read; then all the others.
        fails_at: the number of the message from which on `send` raises, as servers do when the
            client has left.
        error: what it raises then.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        incoming: Sequence[Message] = (),
        *,
        blocks_at: int | None = None,
        fails_at: int | None = None,
        error: type[Exception] = OSError,
    ) -> None:
        self.sent: list[Message] = []
        self.received = 0
        self.scope = scope
        self._blocks_at = blocks_at
        self._fails_at, self._error = fails_at, error
        self._incoming: asyncio.Queue[Message | Exception] = asyncio.Queue()
        for message in incoming:
            self._incoming.put_nowait(message)
        self._changed = asyncio.Event()
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))
        self.task.add_done_callback(lambda _: self._changed.set())

    def push(self, message: Message | Exception) -> None:
        """Let the app receive something, or have its `receive` raise."""
        self._incoming.put_nowait(message)

    async def message(self, number: int) -> Message:
        """What the app sent, by number; it is waited for as long as the app runs."""
        while len(self.sent) <= number:
            if self.task.done():
                self.task.result()
                raise AssertionError(f"the app ended after {len(self.sent)} messages")
            self._changed.clear()
            await self._changed.wait()
        return self.sent[number]

    async def end(self) -> None:
        """Wait until the app has ended."""
        await asyncio.shield(self.task)

    async def _receive(self) -> Message:
        message = await self._incoming.get()
        self.received += 1
        if isinstance(message, Exception):
            raise message
        return message

    async def _send(self, message: Message) -> None:
        await asyncio.sleep(0)
        number = len(self.sent)
        if self._fails_at is not None and number >= self._fails_at:
            raise self._error("the client has left")
        if self._blocks_at is not None and number >= self._blocks_at:
            await asyncio.Event().wait()
        self.sent.append(message)
        self._changed.set()
        await asyncio.sleep(0)


class Group(Exception):
    """As the groups of Python 3.11 are, and those of anyio before it."""

    def __init__(self, *exceptions: Exception) -> None:
        super().__init__("a group")
        self.exceptions = exceptions

    def split(self, is_over: Callable[[BaseException], bool]) -> tuple[None, Exception | None]:
        rest = [one for one in self.exceptions if not is_over(one)]
        return None, Group(*rest) if rest else None


class Connection(Exchange):
    """One client of a stream: `kind` is the transport's name.

    Args:
        app: serves the streams.
        kind: the name of a transport.
        request: the connect request; None is one that the client does not send as yet, which it
            can over a WebSocket alone.
        headers: those of the HTTP request.
        options: those of `Exchange`.
    """

    KINDS = ("uni_http_stream", "uni_sse", "uni_websocket")

    def __init__(
        self,
        app: ASGIApp,
        kind: str,
        request: Mapping[str, object] | None,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        **options: Any,
    ) -> None:
        self.kind = kind
        over = "websocket" if kind == "uni_websocket" else "http"
        incoming: list[Message] = []
        if over == "websocket":
            incoming.append({"type": "websocket.connect"})
        if request is not None:
            text = json.dumps(request)
            incoming.append(
                {"type": "websocket.receive", "text": text}
                if over == "websocket"
                else {"type": "http.request", "body": text.encode()}
            )
        path = scope(f"/connection/{kind}", kind=over, headers=headers)
        super().__init__(app, path, incoming, **options)

    async def frame(self, number: int) -> Any:
        """The frame of a number, parsed; the head of the response, or the acceptance, is none."""
        return self._frame(await self.message(number + 1))

    @property
    def frames(self) -> list[Any]:
        """All frames so far."""
        kinds = ("http.response.body", "websocket.send")
        return [self._frame(sent) for sent in self.sent if sent["type"] in kinds]

    @property
    def was_ended(self) -> bool:
        """Whether the app said that there is no more to come."""
        if self.kind == "uni_websocket":
            return bool(self.sent[-1]["type"] == "websocket.close")
        return not bool(self.sent[-1].get("more_body", False))

    def leave(self) -> None:
        """The client goes."""
        kind = "websocket" if self.kind == "uni_websocket" else "http"
        self.push({"type": f"{kind}.disconnect"})

    def _frame(self, message: Message) -> Any:
        if self.kind == "uni_websocket":
            return json.loads(message["text"])
        body: bytes = message["body"]
        before, after = {"uni_http_stream": (b"", b"\n"), "uni_sse": (b"data: ", b"\n\n")}[
            self.kind
        ]
        assert body.startswith(before) and body.endswith(after)
        frame = body[len(before) : -len(after)]
        assert b"\n" not in frame
        return json.loads(frame)


async def settle() -> None:
    """Let all tasks run until each waits for something from outside."""
    for _ in range(GRACE_STEPS):
        await asyncio.sleep(0)


def sessions_held(sessions: AsyncUserSessions) -> int:
    """How many sessions are registered."""
    return sessions.operations.node.registry.counts()[0]


class _LeapingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("nothing is due: the event loop would wait for ever")
            self.now += max(0.0, timeout)
        return ready


class LeapingLoop(GuardedLoop):
    """An event loop whose clock stands at 0 and leaps to the next deadline when all is quiet."""

    def __init__(self) -> None:
        self._leaping = _LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now
