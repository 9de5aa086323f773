"""The two facades behind one awaited face, so that one body of tests holds both to the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from usersessions import (
    AsyncUserSessions,
    ConnectionInfo,
    Session,
    UserSessions,
)

__all__ = ["FACES", "AsyncFace", "BlockingFace", "Face"]


class Face(Protocol):
    """What the tests use; arguments are those of the facades."""

    def connect(self, **arguments: Any) -> Any: ...

    async def user_connections(self, user: str) -> Mapping[str, ConnectionInfo]: ...

    async def disconnect(self, user: str, **arguments: Any) -> tuple[str, ...]: ...

    async def dispatch(self, body: bytes) -> bytes: ...

    async def aclose(self, **arguments: Any) -> None: ...


class BlockingFace:
    """`UserSessions`; each call runs where it stands, as none of it blocks on the memory store."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.sessions = UserSessions(*arguments, **settings)

    @asynccontextmanager
    async def connect(self, **arguments: Any) -> AsyncGenerator[Session, None]:
        # Admitting may block on a connect proxy, so it gets a thread as in a WSGI server.
        context = self.sessions.connect(**arguments)
        session = await asyncio.to_thread(context.__enter__)
        try:
            yield session
        except BaseException as error:
            if not context.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            context.__exit__(None, None, None)

    async def user_connections(self, user: str) -> Mapping[str, ConnectionInfo]:
        return self.sessions.user_connections(user)

    async def disconnect(self, user: str, **arguments: Any) -> tuple[str, ...]:
        return self.sessions.disconnect(user, **arguments)

    async def dispatch(self, body: bytes) -> bytes:
        return self.sessions.dispatch(body)

    async def aclose(self, **arguments: Any) -> None:
        await asyncio.to_thread(self.sessions.close, **arguments)


class AsyncFace:
    """`AsyncUserSessions`, as it is."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.sessions = AsyncUserSessions(*arguments, **settings)
        self.user_connections: Callable[[str], Awaitable[Mapping[str, ConnectionInfo]]] = (
            self.sessions.user_connections
        )
        self.disconnect = self.sessions.disconnect
        self.dispatch = self.sessions.dispatch
        self.connect = self.sessions.connect
        self.aclose = self.sessions.aclose


FACES: list[type[Any]] = [BlockingFace, AsyncFace]
