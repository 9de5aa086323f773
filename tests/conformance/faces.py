"""The two facades behind one awaited face, so that one body of tests holds both to the same."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from typing import Any

from usersessions import AsyncUserSessions, UserSessions

__all__ = ["FACES", "AsyncFace", "BlockingFace"]


class BlockingFace:
    """`UserSessions`; calls that may wait get a thread, as in a WSGI server."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.sessions = UserSessions(*arguments, **settings)

    def connect(self, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        return self._entered(self.sessions.connect(**arguments))

    def hold(self, admitted: Any) -> AbstractAsyncContextManager[Any]:
        return self._entered(self.sessions.hold(admitted))

    @asynccontextmanager
    async def _entered(self, context: AbstractContextManager[Any]) -> AsyncGenerator[Any, None]:
        session = await asyncio.to_thread(context.__enter__)
        try:
            yield session
        except BaseException as error:
            if not context.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            context.__exit__(None, None, None)

    async def refresh_session(self, session: Any, token: str) -> None:
        session.refresh(token)

    async def aclose(self, **arguments: Any) -> None:
        await asyncio.to_thread(self.sessions.close, **arguments)

    def own(self, caller: Any) -> Any:
        return _Awaited(self.sessions.own(caller))

    def __getattr__(self, name: str) -> Any:
        return getattr(_Awaited(self.sessions), name)


class _Awaited:
    """The methods of something blocking, each awaited in a thread."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(asyncio.to_thread, getattr(self._blocking, name))


class AsyncFace:
    """`AsyncUserSessions`, as it is."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.sessions = AsyncUserSessions(*arguments, **settings)

    async def refresh_session(self, session: Any, token: str) -> None:
        await session.refresh(token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sessions, name)


FACES: list[type[Any]] = [BlockingFace, AsyncFace]
