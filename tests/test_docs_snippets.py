"""Code and settings that pages show apart from their walks do what the text around them says."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.websockets import WebSocketDisconnect

from tests.http.exchange import Exchange, scope
from tests.pages import blocks
from tests.test_docs_code import blocks as python_blocks
from tests.test_docs_code import execute
from usersessions import (
    AsyncUserSessions,
    ConnectRefused,
    Identity,
    Key,
    TokenVerifier,
    UserSessions,
)

DOCS = Path(__file__).parent.parent / "docs"
SECRET = "a secret of at least thirty-two bytes"

# Until all have httpx2, which pages ask for.
OLD_TEST_CLIENT = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next one as high."""
    text = (DOCS / page).read_text()
    found = re.search(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert found, f"{page} has no heading {heading!r}"
    return found[2]


def made_by(page: str, heading: str) -> dict[str, Any]:
    """The names that the code under a heading makes, all of which is run."""
    names: dict[str, Any] = {"__name__": "__docs__"}
    code = [block for block in python_blocks(section(page, heading)) if block.runs]
    assert code
    for block in code:
        execute(block, page, names)
    return names


def client_of(app: object) -> Any:
    # Imported in a test, where its warning is ignored.
    return import_module("starlette.testclient").TestClient(app)


@contextmanager
def connected(app: object, path: str, **headers: str) -> Iterator[Any]:
    with client_of(app) as client, client.websocket_connect(path, headers=headers) as websocket:
        yield websocket


def closed(websocket: Any) -> tuple[int, str]:
    with pytest.raises(WebSocketDisconnect) as why:
        websocket.receive_text()
    return why.value.code, why.value.reason


async def let_in(sessions: AsyncUserSessions, headers: dict[str, str]) -> bool:
    try:
        async with sessions.connect(transport="test", headers=headers):
            return True
    except ConnectRefused:
        return False


# Who connects ---------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_login_by_cookie_that_has_an_id_is_kept_out_and_no_other() -> None:
    identity_of = (await to_thread.run_sync(made_by, "connect-proxy.md", "A function"))[
        "identity_of"
    ]
    sessions = AsyncUserSessions()
    async with sessions.connect(identity=identity_of("42", "phone"), transport="test") as session:
        ended = await sessions.disconnect("42", client=session.client, revoke=True, timeout=0)
        assert not ended.not_revocable
    with pytest.raises(ConnectRefused):
        async with sessions.connect(identity=identity_of("42", "phone"), transport="test"):
            raise AssertionError("it was revoked")
    async with sessions.connect(identity=identity_of("42", "laptop"), transport="test"):
        pass


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("in-your-app.md", "An event stream"),
        ("connect-proxy.md", "A function"),
        ("frameworks/fastapi.md", "Your own login"),
    ],
)
@pytest.mark.anyio
async def test_it_takes_a_cookie_of_a_login_and_no_other_header(page: str, heading: str) -> None:
    sessions = (await to_thread.run_sync(made_by, page, heading))["sessions"]
    assert await let_in(sessions, {"cookie": "sessionid=c00kie"})
    for name in ("x-user", "x-user-id", "remote-user", "x-forwarded-user"):
        assert not await let_in(sessions, {name: "42"})
    assert not await let_in(sessions, {"cookie": "sessionid=42"})
    assert not await let_in(sessions, {})


async def streamed(app: Any, sessions: AsyncUserSessions, **headers: str) -> tuple[int, bytes]:
    """What a client gets of an event stream that is closed at once, where it may have it."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asked: list[Any] = [{"type": "http.request", "body": b""}]
    exchange = Exchange(app, scope("/ticks", method="GET", headers=raw), asked)
    await exchange.message(1)
    assert not (await sessions.disconnect("42")).unconfirmed
    await exchange.end()
    start, *chunks = exchange.sent
    return start["status"], b"".join(chunk.get("body", b"") for chunk in chunks)


@pytest.mark.anyio
async def test_an_event_stream_of_the_apps_own_is_closed_and_refused_as_the_page_says() -> None:
    names = await to_thread.run_sync(made_by, "in-your-app.md", "An event stream")
    app, sessions = names["app"], names["sessions"]
    cookie = {"cookie": "sessionid=c00kie"}
    foreign = {**cookie, "origin": "https://elsewhere.example"}
    assert await streamed(app, sessions, **cookie) == (200, b"data: tick for user 42\n\n")
    assert await streamed(app, sessions) == (403, b"permission denied\n")
    assert await streamed(app, sessions, **foreign) == (403, b"permission denied\n")

    by_hand = Starlette(routes=[Route("/ticks", names["ticks_by_hand"])])
    assert await streamed(by_hand, sessions, **cookie) == (200, b"data: tick\n\n")
    assert await streamed(by_hand, sessions) == (200, b"event: refused\ndata: 3507\n\n")


def test_no_page_believes_a_header_that_only_names_a_user() -> None:
    read = {
        name.lower()
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"headers(?:\.get\(|\[)b?[\"']([\w-]+)", page.read_text())
    }
    assert read <= {"authorization", "cookie", "user-agent", "www-authenticate"}


@pytest.mark.anyio
async def test_pages_hand_over_the_number_of_a_user_as_a_string() -> None:
    user = SimpleNamespace(id=42)

    def code(page: str, heading: str, function: str) -> str:
        found = python_blocks(section(page, heading))
        return next(block.code for block in found if f"def {function}(" in block.code)

    async def your_login(cookie: str | None) -> object:
        return user if cookie else None

    names: dict[str, Any] = {"DefineMiddleware": Mock(), "TrackWebSockets": None, "sessions": None}
    exec(code("frameworks/litestar.md", "Your own WebSockets", "who"), names)
    assert names["who"]({"user": user}) == "42"
    assert names["who"]({"user": None}) is names["who"]({}) is None
    names = {"your_login": your_login, "track": Mock(), "sio": None, "sessions": None}
    exec(code("frameworks/socketio.md", "Who connects", "identify"), names)
    assert await names["identify"]("a sid", {"HTTP_COOKIE": "sessionid=c00kie"}, None) == "42"
    assert await names["identify"]("a sid", {}, None) is None


@OLD_TEST_CLIENT
def test_a_client_that_sends_no_token_is_closed_when_its_time_is_over() -> None:
    shown = section("in-your-app.md", "A token in the first message")
    code = next(block.code for block in python_blocks(shown))
    assert "timeout=10)" in code
    names: dict[str, Any] = {}
    exec(code.replace("timeout=10)", "timeout=0.01)"), names)
    with connected(names["app"], "/echo") as websocket:
        assert closed(websocket) == (3502, "stale")


@OLD_TEST_CLIENT
def test_with_fastapi_a_cookie_opens_a_websocket_that_is_listed_with_its_app() -> None:
    names = made_by("frameworks/fastapi.md", "Your own login")
    backend = UserSessions(store=names["sessions"].store)
    cookie = {"cookie": "sessionid=c00kie"}
    for path in ("/chat?app_name=web", "/room"):
        with connected(names["app"], path, **cookie) as websocket:
            assert websocket.receive_text() == "hello, user 42"
            (info,) = backend.user_connections("42").values()
            assert info.app_name == "web"
        with connected(names["app"], path) as websocket:
            assert closed(websocket) == (3507, "permission denied")
        foreign = {**cookie, "origin": "https://elsewhere.example"}
        with connected(names["app"], path, **foreign) as websocket:
            assert closed(websocket) == (3507, "permission denied")


@OLD_TEST_CLIENT
def test_with_fastapi_only_admins_close_what_others_hold() -> None:
    names = made_by("frameworks/fastapi.md", "Endpoints that close")
    app, who = names["app"], names["realtime"].current_identity

    def status(path: str, caller: str | None) -> int:
        app.dependency_overrides = {} if caller is None else {who: lambda: Identity(caller)}
        with client_of(app) as client:
            return int(client.post(path).status_code)

    assert [status("/logout-everywhere", caller) for caller in (None, "2", "1")] == [401, 200, 200]
    assert [status("/users/7/block", caller) for caller in (None, "2", "1")] == [401, 403, 200]


# Where a token comes from -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", sorted((DOCS / "frameworks").glob("*.md")), ids=lambda page: page.stem
)
def test_a_framework_says_how_its_app_makes_a_token(page: Path) -> None:
    (code,) = [
        block.code for block in python_blocks(page.read_text()) if "encode(claims" in block.code
    ]
    names: dict[str, Any] = {"SECRET": SECRET}
    exec(code, names)
    identity = TokenVerifier(Key(SECRET, algorithm="HS256")).verify(names["token"])
    assert identity.user == "42" and identity.token_id
    assert identity.issued_at is not None and identity.token_expires is not None
    assert identity.issued_at <= time.time() < identity.token_expires


@pytest.mark.parametrize(
    "page", sorted((DOCS / "frameworks").glob("*.md")), ids=lambda page: page.stem
)
def test_a_framework_says_how_to_install_it_from_a_clone(page: Path) -> None:
    text = page.read_text()
    install = re.search(r"^(pip install [^\n]*)$", text, re.MULTILINE)
    assert install
    clone = re.sub(
        r'"usersessions(\[[\w,]*\])?"', lambda found: f'"{"." + (found[1] or "")}"', install[1]
    )
    assert f"Not on PyPI yet: in a clone, `{clone}`." in text.replace("\n", " ")


# Before it goes live ----------------------------------------------------------------------------


def test_uvicorn_believes_the_proxies_that_the_page_names() -> None:
    said = section("own-sessions.md", "Addresses")
    config = uvicorn.Config("app:app")
    assert config.proxy_headers
    assert all(f"`{host}`" in said for host in str(config.forwarded_allow_ips).split(","))


@OLD_TEST_CLIENT
def test_the_tests_of_an_app_that_are_shown_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def titled(page: str, title: str) -> str:
        text = (DOCS / page).read_text()
        return next(block.code for block in blocks(text) if block.title == title)

    with monkeypatch.context() as patched:
        patched.setattr(os, "environ", dict(os.environ))
        exec(titled("testing.md", "conftest.py"), {})
        app = ModuleType("app")
        exec(titled("frameworks/fastapi.md", "app.py"), app.__dict__)
        patched.setitem(sys.modules, "app", app)
        names: dict[str, Any] = {}
        exec(titled("testing.md", "test_app.py"), names)
        tests = [name for name in names if name.startswith("test_")]
        assert len(tests) == 3
        for name in tests:
            names[name]()
