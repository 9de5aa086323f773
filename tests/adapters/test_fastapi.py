"""FastAPI uses Starlette's adapter as it is, and its own pages and dependencies go on working."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI

from tests.adapters.apps import TARGETS
from tests.adapters.serving import ENVIRONMENT, new_user, token
from tests.conftest import Serve
from tests.http.exchange import Connection, sessions_held
from tests.streams import ask, open_stream
from usersessions import AsyncUserSessions, Identity
from usersessions.adapters.asgi import UserSessionsApp
from usersessions.adapters.starlette import lifespan, routes


def test_the_openapi_page_has_the_apps_own_endpoints_and_none_of_ours() -> None:
    sessions = AsyncUserSessions()
    app = FastAPI(lifespan=lifespan(sessions))
    app.router.routes.extend(routes(sessions))

    @app.get("/users")
    def users() -> list[str]:
        return []

    assert list(app.openapi()["paths"]) == ["/users"]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["constructor", "router", "mount"])
@pytest.mark.parametrize("kind", Connection.KINDS)
async def test_routes_may_be_given_added_or_mounted(way: str, kind: str) -> None:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    if way == "constructor":
        app = FastAPI(routes=routes(sessions), lifespan=lifespan(sessions))
    else:
        app = FastAPI(lifespan=lifespan(sessions))
        if way == "router":
            app.router.routes.extend(routes(sessions))
        else:
            app.mount("", UserSessionsApp(sessions))
    async with lifespan(sessions)(app):
        connection = Connection(app, kind, {})
        await connection.frame(0)
        assert sessions_held(sessions) == 1
    await connection.end()
    assert connection.frames[1:] == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]


@pytest.mark.parametrize("name", ["fastapi", "fastapi, routes", "fastapi, mounted"])
def test_the_documentation_pages_are_served(name: str, serve: Serve) -> None:
    server = serve(TARGETS[name].command, env=ENVIRONMENT)
    schema = json.loads(ask(server.url, "/openapi.json", method="GET").body)
    assert not [path for path in schema["paths"] if path.startswith(("/api", "/connection"))]
    page = ask(server.url, "/docs", method="GET")
    assert page.status == 200 and b"swagger" in page.body.lower()


@pytest.mark.parametrize("name", ["fastapi", "fastapi, routes"])
def test_an_endpoint_of_the_app_lists_the_sessions_of_a_user(name: str, serve: Serve) -> None:
    server = serve(TARGETS[name].command, env=ENVIRONMENT)
    user = new_user()
    with open_stream(
        server.url, "uni_websocket", {"token": token(user), "name": "phone"}
    ) as stream:
        stream.client()
        devices = ask(server.url, f"/users/{user}/devices", method="GET")
        assert json.loads(devices.body) == ["phone"]
