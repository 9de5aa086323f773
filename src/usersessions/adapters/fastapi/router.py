"""The router. FastAPI is built on Starlette: what holds for requests and WebSockets there is used
as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from typing import Annotated

from fastapi import APIRouter, Request, Response, Security, WebSocket, WebSocketDisconnect
from fastapi.requests import HTTPConnection

from ...http.app import UserSessionsApp
from ...http.asgi import ASGIApp, Message, Receive, Scope, Send
from ...http.endpoints import NAMELESS_PATH, PATHS, WEBSOCKET_PATH
from ...live import AsyncSession
from ...models import Identity
from ...sessions import AsyncUserSessions
from .. import starlette
from .openapi import BEARER, operations

_VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

__all__ = ["UserSessionsRouter"]


class UserSessionsRouter(APIRouter):
    """A router of the server API, users' own sessions and the three streams, to be included.

    It brings the lifespan along: when the server stops, open streams get 3001 `shutdown`. The
    `dependencies` of `include_router` guard all of it; for the WebSocket stream, they have to do
    without a `Request`, which FastAPI has for HTTP alone, and can take an `HTTPConnection`.

    Args:
        sessions: what it serves.
        api_keys: who may use the server API, each of 16 to 255 visible ASCII characters; without
            any, it answers 401 to all.
        ping_interval: seconds of silence before a ping on a stream, from 1 to 3600.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`, so
            that lists show the client's address; 0 believes no such header.

    Raises:
        ConfigError: if a value is outside of its bounds.

    >>> from fastapi import FastAPI
    >>> sessions = AsyncUserSessions()
    >>> realtime = UserSessionsRouter(sessions, api_keys=["an-api-key-of-yours"])
    >>> app = FastAPI()
    >>> app.include_router(realtime, prefix="/rt")
    >>> sorted(app.openapi()["paths"])[0]
    '/rt/api'
    """

    def __init__(
        self,
        sessions: AsyncUserSessions,
        *,
        api_keys: Iterable[str] = (),
        ping_interval: int = 25,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
    ) -> None:
        super().__init__(lifespan=starlette.lifespan(sessions))
        self._sessions = sessions
        self._allowed_origins = allowed_origins
        self._trusted_hops = trusted_hops
        self._app = UserSessionsApp(
            sessions,
            api_keys=api_keys,
            ping_interval=ping_interval,
            allowed_origins=allowed_origins,
            trusted_hops=trusted_hops,
        )
        for operation in operations():
            self.add_api_route(
                operation.path,
                self._endpoint(operation.path),
                methods=[operation.verb],
                **operation.documentation,
            )
        for path in (*PATHS, NAMELESS_PATH):
            # Other verbs, and methods that there are not: what answers them is the app itself.
            self.add_api_route(path, self._endpoint(path), methods=_VERBS, include_in_schema=False)
        # Unlike Starlette's own, it has the dependencies that the router is included with.
        self.add_api_websocket_route(WEBSOCKET_PATH, self._websocket)

    async def current_identity(
        self,
        request: HTTPConnection,
        _: Annotated[object, Security(BEARER)],
    ) -> Identity:
        """A dependency of your endpoints: who makes the request, by its bearer token.

        A WebSocket has to bring it as a header, which browsers cannot: use `track` there.

        Raises:
            HTTPException: with 401 if there is no token, or it is refused, was revoked, or its user
                is blocked; with 503 if that cannot be said now.

        >>> realtime = UserSessionsRouter(AsyncUserSessions())
        >>> Caller = Annotated[Identity, Security(realtime.current_identity)]
        """
        return await starlette.current_identity(request, self._sessions)

    async def track(self, websocket: WebSocket) -> AsyncGenerator[AsyncSession, None]:
        """A dependency of your WebSocket endpoints: accepts it, and is its session.

        Who connects is said by a bearer token or the query parameter `access_token`; without one
        by the connect proxy. From which app, the client says in the query parameters `app_name` and
        `app_version`. A client that may not connect is told so, and the endpoint does not run. When
        the session has to end, the WebSocket is closed with the code and the reason.

        Raises:
            WebSocketException: if the client may not connect, with the code and the reason; FastAPI
                closes the WebSocket with it.

        >>> realtime = UserSessionsRouter(AsyncUserSessions())
        >>> Tracked = Annotated[AsyncSession, Security(realtime.track)]
        """
        async with starlette.track(
            websocket,
            self._sessions,
            allowed_origins=self._allowed_origins,
            trusted_hops=self._trusted_hops,
        ) as session:
            yield session

    def _endpoint(self, path: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return _Handed(_At(path.format(**request.path_params), self._app))

        return endpoint

    async def _websocket(self, websocket: WebSocket) -> None:
        async def send(message: Message) -> None:
            try:
                await websocket.send(message)
            except WebSocketDisconnect as error:
                raise OSError("the client has left") from error

        at = _At(WEBSOCKET_PATH, self._app)
        await at(websocket.scope, websocket.receive, send)


class _At:
    """An app that is served at one of its paths, below wherever the router is included."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        self._path = path
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = scope["path"].removesuffix(self._path)
        await self._app(scope, receive, send)


class _Handed(Response):
    """Whatever an app answers."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
