"""FastAPI: its own router, and Starlette's routes."""

from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse

from usersessions import AsyncSession, AsyncUserSessions, Identity
from usersessions.adapters.fastapi import UserSessionsRouter
from usersessions.adapters.starlette import lifespan, routes
from usersessions.http.asgi import ASGIApp

from .shared import new_sessions, settings, uvicorn


def _add_own(app: FastAPI, sessions: AsyncUserSessions, realtime: UserSessionsRouter) -> None:
    @app.get("/me", response_class=PlainTextResponse)
    async def me(caller: Annotated[Identity, Depends(realtime.current_identity)]) -> str:
        return caller.user

    @app.get("/users/{user}/devices")
    async def devices(user: str) -> list[str | None]:
        return [info.app_name for info in (await sessions.user_connections(user)).values()]

    @app.websocket("/own/echo")
    async def echo(
        websocket: WebSocket, session: Annotated[AsyncSession, Depends(realtime.track)]
    ) -> None:
        async for text in websocket.iter_text():
            await websocket.send_text(text)


def router() -> ASGIApp:
    sessions = new_sessions()
    realtime = UserSessionsRouter(sessions, **settings())
    app = FastAPI()
    app.include_router(realtime, prefix="/rt")
    _add_own(app, sessions, realtime)
    return app


def starlettes_routes() -> ASGIApp:
    """Not shown in the API documentation; the router is there for its dependencies alone."""
    sessions = new_sessions()
    app = FastAPI(routes=routes(sessions, **settings()), lifespan=lifespan(sessions))
    _add_own(app, sessions, UserSessionsRouter(sessions, **settings()))
    return app


TARGETS = {
    "fastapi, router": uvicorn("fastapi:router", "/rt", "--root-path=/proxied", ends_slow=False),
    "fastapi, routes": uvicorn("fastapi:starlettes_routes", ends_slow=False),
}
