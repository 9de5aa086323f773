"""FastAPI: the router, its documentation and dependencies; and Starlette's routes as they are."""

import asyncio
import json
import logging
import re
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, WebSocket
from fastapi.middleware.gzip import GZipMiddleware
from pydantic import TypeAdapter

from tests.adapters.apps.shared import API_KEY, SECRET
from tests.adapters.apps.targets import TARGETS
from tests.adapters.serving import ENVIRONMENT, expired_token, new_user, token
from tests.conftest import Serve
from tests.http.exchange import Connection, Exchange, scope, sessions_held, settle
from tests.servers import python, serving
from tests.standins import SharedStandIn
from tests.streams import ask, open_stream
from usersessions import AsyncSession, AsyncUserSessions, ConfigError, Identity, Key, TokenVerifier
from usersessions.adapters import starlette
from usersessions.adapters.asgi import UserSessionsApp
from usersessions.adapters.fastapi import UserSessionsRouter
from usersessions.adapters.fastapi.openapi import operations
from usersessions.adapters.starlette import lifespan, routes
from usersessions.commands import Command
from usersessions.stores.base import CheckIdentity

DOCS = Path(__file__).parent.parent.parent / "docs"
VERIFIER = TokenVerifier(Key(SECRET, algorithm="HS256"))


def included(
    sessions: AsyncUserSessions, prefix: str = "", **settings: Any
) -> tuple[FastAPI, UserSessionsRouter]:
    router = UserSessionsRouter(sessions, **settings)
    app = FastAPI()
    app.include_router(router, prefix=prefix)
    return app, router


# The documentation of the API ---------------------------------------------------------------------


def references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, member in schema.items():
            if name == "$ref":
                yield member
            yield from references(member)
    elif isinstance(schema, list):
        for member in schema:
            yield from references(member)


def test_each_command_is_documented_with_its_parameters_its_result_and_its_key() -> None:
    app, _ = included(AsyncUserSessions(), "/rt")
    document = app.openapi()
    assert document["components"]["securitySchemes"].keys() == {"ServerAPIKey", "HTTPBearer"}
    for command in get_args(Command):
        operation = document["paths"][f"/rt/api/{command.method}"]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        fields = {field for field in command.__dataclass_fields__ if field != "method"}
        assert content["schema"].get("properties", {}).keys() == fields
        assert operation["summary"] and operation["description"].endswith(".")
        assert operation["security"] == [{"ServerAPIKey": []}]
        assert operation["responses"].keys() == {"200", "400", "401", "408", "413", "415"}


def test_own_sessions_and_streams_are_documented() -> None:
    app, _ = included(AsyncUserSessions())
    paths = app.openapi()["paths"]
    assert paths["/sessions"].keys() == {"get", "delete"}
    assert paths["/sessions/{client}"].keys() == {"delete"}
    assert paths["/sessions"]["get"]["security"] == [{"HTTPBearer": []}]
    assert paths["/connection/uni_http_stream"].keys() == {"post"}
    assert paths["/connection/uni_sse"].keys() == {"get", "post"}
    stream = paths["/connection/uni_sse"]["get"]["responses"]["200"]
    assert list(stream["content"]) == ["text/event-stream"]


def test_each_operation_says_what_it_takes() -> None:
    app, _ = included(AsyncUserSessions())
    for path, verbs in app.openapi()["paths"].items():
        for verb, operation in verbs.items():
            assert ("requestBody" in operation) == (verb == "post"), (verb, path)
            parameters = operation.get("parameters", [])
            named = {one["name"] for one in parameters if one["in"] == "path" and one["required"]}
            assert named == set(re.findall(r"{(\w+)}", path))
            asked = {one["name"] for one in parameters if one["in"] == "query"}
            assert asked == QUERIES.get((verb, path), set())


QUERIES = {
    ("get", "/sessions"): {"current"},
    ("delete", "/sessions"): {"current"},
    ("get", "/connection/uni_sse"): {"cf_connect"},
}


@pytest.mark.parametrize("page", ["server-api.md", "own-sessions.md"])
def test_each_request_that_a_page_tells_of_is_documented(page: str) -> None:
    app, _ = included(AsyncUserSessions())
    paths = app.openapi()["paths"]
    told = re.findall(r"`(GET|POST|DELETE) (/[\w/{}]+)`", (DOCS / page).read_text())
    assert told
    for verb, path in told:
        # M is any method, as it is on the page.
        for command in get_args(Command):
            assert verb.lower() in paths[re.sub(r"\bM$", command.method, path)]


def test_whatever_the_documentation_refers_to_is_in_it() -> None:
    app, _ = included(AsyncUserSessions())
    document = app.openapi()
    found = set(references(document))
    assert found
    for reference in found:
        at: Any = document
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
    assert not document["components"]["schemas"].keys() & {"HTTPValidationError"}


def test_names_of_operations_are_unique() -> None:
    app, _ = included(AsyncUserSessions())
    names = [
        operation["operationId"]
        for path in app.openapi()["paths"].values()
        for operation in path.values()
    ]
    assert len(set(names)) == len(names) == len(list(operations()))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(TARGETS["fastapi, router"].command, log=log, env=ENVIRONMENT) as server:
        yield server.url


def test_real_answers_are_what_the_documentation_says(url: str) -> None:
    user = new_user()
    params = {"user": user, "uid": "an-id", "expire_at": 32503680000}
    asked = {**params, "method": "info", "commands": [{"info": {}}, {"no": {}}]}
    key = {"X-API-Key": API_KEY}
    bearer = {"Authorization": f"Bearer {token(user)}"}
    with open_stream(f"{url}/rt", "uni_sse", {"token": token(user, meta=[1])}) as stream:
        client = stream.client()
        tried = 0
        for operation in operations():
            if operation.path.startswith("/connection/"):
                continue
            answer = ask(
                url,
                "/rt" + operation.path.format(client=client),
                method=operation.verb,
                body=b"" if operation.verb == "GET" else json.dumps(asked).encode(),
                headers={**key, **bearer},
            )
            model = operation.documentation["responses"][answer.status]["model"]
            checked = TypeAdapter(model).validate_json(answer.body)
            # Nothing that it has is missing from the documentation.
            shown = TypeAdapter(model).dump_json(checked, exclude_unset=True)
            assert json.loads(shown) == json.loads(answer.body)
            tried += 1
        assert tried == len(get_args(Command)) + 5


def test_the_page_of_the_documentation_is_served(url: str) -> None:
    page = ask(url, "/docs", method="GET")
    assert page.status == 200 and b"swagger" in page.body.lower()
    assert (
        "/rt/api/user_connections"
        in json.loads(ask(url, "/openapi.json", method="GET").body)["paths"]
    )


# The router ---------------------------------------------------------------------------------------


def test_settings_are_checked_when_the_router_is_made() -> None:
    with pytest.raises(ConfigError):
        UserSessionsRouter(AsyncUserSessions(), api_keys=["short"])
    with pytest.raises(ConfigError):
        UserSessionsRouter(AsyncUserSessions(), trusted_hops=-1)


def test_without_fastapi_the_adapter_says_what_to_install() -> None:
    script = """
import sys
sys.modules["fastapi"] = None
from usersessions import MissingExtraError
try:
    import usersessions.adapters.fastapi
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(python("-c", script), capture_output=True, text=True, check=True)
    assert done.stdout == 'fastapi is not installed; run: pip install "usersessions[fastapi]"\n'


@pytest.mark.anyio
@pytest.mark.parametrize("kind", Connection.KINDS)
async def test_the_router_brings_its_lifespan_and_leaves_the_apps_own(kind: str) -> None:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    said = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[None, None]:
        said.append("start")
        yield
        said.append("end")

    app = FastAPI(lifespan=own)
    app.include_router(UserSessionsRouter(sessions))
    async with app.router.lifespan_context(app):
        connection = Connection(app, kind, {})
        await connection.frame(0)
        assert sessions_held(sessions) == 1
    await connection.end()
    assert connection.frames[1:] == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]
    assert said == ["start", "end"]


@pytest.mark.anyio
async def test_a_middleware_that_compresses_holds_no_frame_back() -> None:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    app, _ = included(sessions)
    app.add_middleware(GZipMiddleware)
    accepting = [(b"accept-encoding", b"gzip")]
    stream = Connection(app, "uni_http_stream", {}, headers=accepting)
    assert "connect" in await stream.frame(0)
    await sessions.disconnect("42")
    await stream.end()
    assert "disconnect" in stream.frames[1]


def knows_the_word(word: Annotated[str, Header()]) -> None:
    if word != "sesame":
        raise HTTPException(403)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", Connection.KINDS)
async def test_dependencies_that_the_router_is_included_with_guard_each_stream(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    app = FastAPI()
    app.include_router(UserSessionsRouter(sessions), dependencies=[Depends(knows_the_word)])

    def connect(word: bytes, **options: Any) -> Connection:
        return Connection(app, kind, {}, headers=[(b"word", word)], **options)

    refused = connect(b"wheat")
    await refused.end()
    assert refused.sent[0]["status"] == 403
    let_in = connect(b"sesame")
    assert "connect" in await let_in.frame(0)
    await sessions.disconnect("42")
    await let_in.end()
    assert let_in.frames[1:] == [{"disconnect": {"code": 3503, "reason": "force disconnect"}}]
    assert let_in.was_ended
    left = connect(b"sesame")
    await left.frame(0)
    left.leave()
    await left.end()
    await connect(b"sesame", fails_at=1).end()
    assert sessions_held(sessions) == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Dependencies -------------------------------------------------------------------------------------


async def ask_me(
    sessions: AsyncUserSessions, **headers: str
) -> tuple[int, dict[bytes, bytes], Any]:
    app, router = included(sessions)

    @app.get("/me")
    async def me(caller: Annotated[Identity, Depends(router.current_identity)]) -> str:
        return caller.user

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    exchange = Exchange(
        app, scope("/me", method="GET", headers=raw), [{"type": "http.request", "body": b""}]
    )
    await exchange.end()
    start, body = exchange.sent
    return start["status"], dict(start["headers"]), json.loads(body["body"])


@pytest.mark.anyio
async def test_an_endpoint_knows_who_asks_by_their_token() -> None:
    sessions = AsyncUserSessions(VERIFIER)
    assert (await ask_me(sessions, authorization=f"Bearer {token('42')}"))[::2] == (200, "42")
    for refused in ("", "Bearer ", "Bearer no", "Basic 42", f"Bearer {expired_token('42')}"):
        status, headers, body = await ask_me(sessions, authorization=refused)
        assert (status, headers[b"www-authenticate"]) == (401, b"Bearer")
        assert list(body) == ["detail"]
    await sessions.block_user("42")
    assert (await ask_me(sessions, authorization=f"Bearer {token('42')}"))[0] == 401


@pytest.mark.anyio
async def test_an_endpoint_answers_503_while_nobody_can_say_who_asks() -> None:
    store = SharedStandIn()
    store.away = (CheckIdentity,)
    sessions = AsyncUserSessions(VERIFIER, store=store)
    status, _, body = await ask_me(sessions, authorization=f"Bearer {token('42')}")
    assert status == 503
    assert body == {"detail": "not available: sessions cannot be reached now"}


@pytest.mark.anyio
async def test_a_router_whose_requests_need_a_token_may_have_websockets() -> None:
    sessions = AsyncUserSessions(VERIFIER)
    app, router = included(sessions)
    own = APIRouter(dependencies=[Depends(router.current_identity)])
    ran = []

    @own.websocket("/own")
    async def echo(
        websocket: WebSocket, caller: Annotated[Identity, Depends(router.current_identity)]
    ) -> None:
        ran.append(caller.user)
        await websocket.close()

    app.include_router(own)
    for headers, answer in (
        ([], {"type": "websocket.http.response.start", "status": 401}),
        ([(b"authorization", b"Bearer no")], {"status": 401}),
        ([(b"authorization", f"Bearer {token('42')}".encode())], {"type": "websocket.close"}),
    ):
        opened: list[Any] = [{"type": "websocket.connect"}]
        exchange = Exchange(app, scope("/own", kind="websocket", headers=headers), opened)
        await exchange.end()
        assert exchange.sent[0].items() >= answer.items()
    assert ran == ["42"]
    assert "HTTPBearer" in app.openapi()["components"]["securitySchemes"]


@pytest.mark.anyio
async def test_a_websocket_that_is_refused_is_told_why_and_its_endpoint_does_not_run() -> None:
    sessions = AsyncUserSessions(VERIFIER)
    app, router = included(sessions)
    ran = []

    @app.websocket("/own")
    async def own(
        websocket: WebSocket, session: Annotated[AsyncSession, Depends(router.track)]
    ) -> None:
        ran.append(session.user)
        assert sessions_held(sessions) == 1
        await websocket.receive_text()

    opened: list[Any] = [{"type": "websocket.connect"}]
    exchange = Exchange(app, scope("/own", kind="websocket", query=b"access_token=no"), opened)
    await exchange.end()
    assert exchange.sent == [
        {"type": "websocket.accept", "subprotocol": None, "headers": []},
        {"type": "websocket.close", "code": 3500, "reason": "invalid token"},
    ]
    assert ran == []
    query = f"a=1&access_token={token('42')}".encode()
    exchange = Exchange(app, scope("/own", kind="websocket", query=query), opened)
    await exchange.message(0)
    await settle()
    assert ran == ["42"]
    assert exchange.scope["query_string"] == b"a=1"
    exchange.push({"type": "websocket.disconnect", "code": 1001})
    await exchange.end()
    assert sessions_held(sessions) == 0


# Starlette's routes -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_endpoint_that_only_sends_is_ended_when_its_session_is_told_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starlette, "END_TIMEOUT", 0.05)
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    app, router = included(sessions)

    @app.websocket("/own")
    async def own(
        websocket: WebSocket, session: Annotated[AsyncSession, Depends(router.track)]
    ) -> None:
        await asyncio.Event().wait()

    opened = Exchange(app, scope("/own", kind="websocket"), [{"type": "websocket.connect"}])
    await opened.message(0)
    await settle()
    ended = await sessions.disconnect("42")
    assert len(ended.closed) == 1
    await opened.end()
    assert [message.get("code") for message in opened.sent] == [None, 3503]


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


def test_the_documentation_pages_are_served(serve: Serve) -> None:
    server = serve(TARGETS["fastapi, routes"].command, env=ENVIRONMENT)
    schema = json.loads(ask(server.url, "/openapi.json", method="GET").body)
    assert not [path for path in schema["paths"] if path.startswith(("/api", "/connection"))]
    page = ask(server.url, "/docs", method="GET")
    assert page.status == 200 and b"swagger" in page.body.lower()


def test_an_endpoint_of_the_app_lists_the_sessions_of_a_user(serve: Serve) -> None:
    server = serve(TARGETS["fastapi, routes"].command, env=ENVIRONMENT)
    user = new_user()
    with open_stream(
        server.url, "uni_websocket", {"token": token(user), "name": "phone"}
    ) as stream:
        stream.client()
        devices = ask(server.url, f"/users/{user}/devices", method="GET")
        assert json.loads(devices.body) == ["phone"]
