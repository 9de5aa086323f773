"""Django: what there is beside that which all adapters have in common."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path, set_script_prefix

from tests.adapters.apps import django as project
from tests.adapters.apps.shared import API_KEY, SECRET, gunicorn, uvicorn
from tests.adapters.serving import (
    ENVIRONMENT,
    Running,
    bearer,
    connections,
    last,
    new_user,
    served,
    token,
)
from tests.pages import blocks
from tests.redis_servers import RedisServer
from tests.secrecy import said
from tests.servers import python, serving, until
from tests.streams import Stream, ask, open_stream
from usersessions import ConnectRequest, Disconnect, Identity
from usersessions.adapters.django import (
    get_async_sessions,
    get_sessions,
    token_required,
    with_usersessions,
)
from usersessions.adapters.django.apps import check_settings
from usersessions.adapters.django.auth import identity_of
from usersessions.adapters.django.conf import Configured
from usersessions.adapters.django.logins import login_of, note_logins

if not settings.configured:
    settings.configure()

DOCS = Path(__file__).parents[2] / "docs/frameworks"
CSRF_TOKEN = "0123456789abcdef" * 2
TOKENS = {"TOKEN_HMAC_SECRET_KEY": SECRET}


def managed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a command of the project's manage.py does."""
    script = (
        "import sys\n"
        "from django.conf import settings\n"
        "from django.core.management import execute_from_command_line\n"
        "from tests.adapters.apps.django import project\n"
        "settings.configure(**project())\n"
        "execute_from_command_line(['manage.py', *sys.argv[1:]])\n"
    )
    return subprocess.run(
        python("-c", script, *arguments),
        env={**os.environ, **ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


# Settings -----------------------------------------------------------------------------------------


def test_settings_that_work_make_both_faces_over_one_store_once() -> None:
    with override_settings(USERSESSIONS=TOKENS):
        assert check_settings() == []
        with ThreadPoolExecutor(8) as pool:
            made = set(pool.map(lambda _: get_sessions(), range(32)))
        assert made == {get_sessions()}
        with get_sessions().connect(user="42", transport="sse") as session:
            found = asyncio.run(get_async_sessions().user_connections("42"))
            assert list(found) == [session.client]
    with override_settings(USERSESSIONS=TOKENS):
        assert get_sessions() not in made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"STOR": "memory"}, "USERSESSIONS: 'STOR' is no setting; did you mean STORE?"),
        ({"api_key": "x" * 16}, "USERSESSIONS: 'api_key' is no setting; did you mean API_KEY?"),
        ({"ON_CONECT": "a.b"}, "USERSESSIONS: 'ON_CONECT' is no setting; did you mean ON_CONNECT?"),
        ({"PORT": 8000}, "USERSESSIONS: 'PORT' is no setting"),
        ({"PING_INTERVAL": "20"}, "USERSESSIONS: PING_INTERVAL must be a whole number"),
        (
            {"PING_INTERVAL": 0},
            "USERSESSIONS: ping_interval must be a whole number of seconds from",
        ),
        (
            {"TOKEN_HMAC_SECRET_KEY": "swordfish"},
            "USERSESSIONS: token_hmac_secret_key: HS256 needs a secret of 32",
        ),
        (
            {"TOKEN_HMAC_SECRET_KEY": None},
            "USERSESSIONS: TOKEN_HMAC_SECRET_KEY must be a string that is not empty",
        ),
        ({"API_KEYS": ["swordfish"]}, "USERSESSIONS: an API key must be a string of 16"),
        ({"STORE": "redis://swordfish:no-port"}, "USERSESSIONS: store: "),
        (
            {"CONNECT_PROXY": "no.such"},
            "USERSESSIONS: CONNECT_PROXY: No module named 'no'",
        ),
        (
            {"ON_CONNECT": "os.path"},
            "USERSESSIONS: ON_CONNECT must be a function, or the dotted path to one",
        ),
        (
            {"CONNECT_PROXY": print, "CONNECT_PROXY_URL": "http://127.0.0.1:1/swordfish"},
            "USERSESSIONS: set one of CONNECT_PROXY and CONNECT_PROXY_URL, not both",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_one_error_of_the_system_check(
    given: dict[str, Any], message: str
) -> None:
    with override_settings(USERSESSIONS={**TOKENS, **given}):
        (error,) = check_settings()
        assert error.id == "usersessions.E001"
        assert error.msg.startswith(message)
        assert error.hint
        with pytest.raises(ImproperlyConfigured) as raised:
            get_sessions()
        assert "swordfish" not in said(raised.value)


@pytest.mark.parametrize("given", [{}, {"API_KEYS": ("an-api-key-of-yours",)}])
def test_somebody_has_to_be_able_to_connect(given: dict[str, Any]) -> None:
    with override_settings(USERSESSIONS=given):
        (error,) = check_settings()
        assert error.msg.startswith("USERSESSIONS: no setting says who may connect: set TOKEN_HMAC")


def test_settings_that_are_no_dict_or_not_there_are_said_so() -> None:
    with override_settings(USERSESSIONS=[TOKENS]):
        assert [error.msg for error in check_settings()] == ["USERSESSIONS must be a dict"]
    with override_settings(USERSESSIONS=TOKENS):
        del settings.USERSESSIONS
        (error,) = check_settings()
        assert error.msg.startswith("USERSESSIONS is not set")


def test_manage_py_check_shows_the_error_without_a_traceback() -> None:
    assert managed("check").stdout == "System check identified no issues (0 silenced).\n"
    checked = managed("check", PING_INTERVAL="0")
    assert checked.returncode == 1
    assert "(usersessions.E001) USERSESSIONS: ping_interval must be" in checked.stderr
    assert "HINT: `usersessions serve --help` lists the settings" in checked.stderr
    assert "Traceback" not in checked.stderr


# The project's functions --------------------------------------------------------------------------


def test_functions_of_the_project_may_be_plain_or_async_for_either_face() -> None:
    called: list[tuple[str, bool]] = []

    def note(what: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            called.append((what, False))
        else:
            called.append((what, True))

    def plain(request: ConnectRequest) -> Identity:
        note("plain")
        return Identity("42")

    async def awaited(request: ConnectRequest) -> Identity:
        note("async")
        return Identity("42")

    def began(session: object) -> None:
        note("began")

    async def ended(session: object, disconnect: Disconnect, lived: float) -> None:
        note("ended")

    async def hold(made: Configured) -> None:
        async with made.async_sessions.connect(transport="sse"):
            pass
        # A callback that is awaited runs on by itself at the end of a session.
        while len(called) < 3:
            await asyncio.sleep(0)

    for proxy, name in ((plain, "plain"), (awaited, "async")):
        made = Configured.of({"CONNECT_PROXY": proxy, "ON_CONNECT": began, "ON_DISCONNECT": ended})
        with made.sessions.connect(transport="sse"):
            pass
        assert called == [(name, name == "async"), ("began", False), ("ended", True)]
        called.clear()
        asyncio.run(hold(made))
        assert called == [(name, name == "async"), ("began", False), ("ended", True)]
        called.clear()


def test_a_function_that_asks_the_database_leaves_no_connection_open(tmp_path: Path) -> None:
    script = (
        "from django.conf import settings\n"
        "from tests.adapters.apps.django import project\n"
        "settings.configure(**project())\n"
        "from django.db import connection\n"
        "from usersessions import Identity\n"
        "from usersessions.adapters.django.conf import Configured\n"
        "def who(request):\n"
        "    connection.ensure_connection()\n"
        "    return Identity('42')\n"
        "sessions = Configured.of({'CONNECT_PROXY': who}).sessions\n"
        "with sessions.connect(transport='sse'):\n"
        "    print(connection.connection)\n"
        "who(None)\n"
        "print(connection.connection is None)\n"
    )
    env = {**os.environ, **ENVIRONMENT, "DATABASE": str(tmp_path / "db")}
    done = subprocess.run(
        python("-c", script), env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["None", "False"]


def test_a_stream_holds_no_database_connection_not_even_one_that_persists(tmp_path: Path) -> None:
    script = (
        "from wsgiref.util import setup_testing_defaults\n"
        "from django.conf import settings\n"
        "from tests.adapters.apps.django import project\n"
        "from usersessions import Identity\n"
        "def who(request):\n"
        "    connection.ensure_connection()\n"
        "    return Identity('42')\n"
        "def middleware(get_response):\n"
        "    def answer(request):\n"
        "        response = get_response(request)\n"
        "        connection.ensure_connection()\n"
        "        return response\n"
        "    return answer\n"
        "options = project()\n"
        "options['DATABASES']['default'] |= {'CONN_MAX_AGE': 600, 'ATOMIC_REQUESTS': True}\n"
        "options['MIDDLEWARE'] = ['__main__.middleware']\n"
        "options['USERSESSIONS'] |= {'CONNECT_PROXY': who, 'ON_DISCONNECT': print}\n"
        "settings.configure(**options)\n"
        "from django.core.wsgi import get_wsgi_application\n"
        "from django.db import connection, transaction\n"
        "application = get_wsgi_application()\n"
        "def begin():\n"
        "    environ = {'PATH_INFO': '/rt/connection/uni_sse', 'QUERY_STRING': 'cf_connect={}'}\n"
        "    setup_testing_defaults(environ)\n"
        "    response = application(environ, lambda *_: None)\n"
        "    frame = next(iter(response))\n"
        "    return response, b'connect' in frame, connection.connection is None\n"
        "response, *found = begin()\n"
        "print(found)\n"
        "response.close()\n"
        "with transaction.atomic():\n"
        "    response, *found = begin()\n"
        "    print(found)\n"
        "response.close()\n"
    )
    env = {**os.environ, **ENVIRONMENT, "DATABASE": str(tmp_path / "db")}
    done = subprocess.run(python("-c", script), env=env, capture_output=True, text=True, timeout=60)
    said_of_streams = done.stdout.splitlines()
    assert said_of_streams[0] == "[True, True]", done.stderr
    # What the app does with it in a block of its own is its business, as in a test of it.
    assert "[True, False]" in said_of_streams
    # Its session ended with the stream.
    assert len(said_of_streams) == 4


# Views of the project's own -----------------------------------------------------------------------


@token_required
def plain_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.identity.user)  # type: ignore[attr-defined]


@token_required
async def async_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.identity.user)  # type: ignore[attr-defined]


def answered(view: Any, request: HttpRequest) -> HttpResponse:
    response = view(request)
    found: HttpResponse = asyncio.run(response) if asyncio.iscoroutine(response) else response
    return found


@pytest.mark.parametrize("view", [plain_view, async_view])
def test_a_view_is_reached_with_a_good_token_alone(view: Any) -> None:
    assert view.csrf_exempt and not view.login_required
    request = RequestFactory().get("/")
    with override_settings(USERSESSIONS=TOKENS):
        refused = answered(view, request)
        assert (refused.status_code, refused["www-authenticate"]) == (401, "Bearer")
        request.META["HTTP_AUTHORIZATION"] = f"Bearer {token('42', jti='a')}"
        assert answered(view, request).content == b"42"
        get_sessions().revoke_token("a")
        assert json.loads(answered(view, request).content)["error"]["code"] == 101


@pytest.mark.parametrize("view", [plain_view, async_view])
def test_a_view_says_503_where_nobody_can_say_whether_a_token_is_good(view: Any) -> None:
    request = RequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {token('42')}")
    with override_settings(USERSESSIONS={**TOKENS, "STORE": "redis://127.0.0.1:1"}):
        assert answered(view, request).status_code == 503
        get_sessions().close()


# WSGI ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wsgi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("wsgi") / "log"
    with served(project.TARGETS["django, wsgi"], log=log) as running:
        yield running


def test_a_stream_is_not_held_back_by_the_middleware_that_compresses(wsgi: Running) -> None:
    user, headers = new_user(), {"Accept-Encoding": "gzip"}
    request = {"token": token(user)}
    with open_stream(wsgi.url, "uni_http_stream", request, headers=headers) as stream:
        assert stream.head.headers["content-encoding"] == "identity"
        assert list(connections(wsgi.url, user)) == [stream.client()]


@pytest.mark.parametrize("path", ["/me", "/me/awaited"])
def test_a_post_with_a_token_needs_no_csrf_token(path: str, wsgi: Running) -> None:
    answer = ask(wsgi.server.url, path, body=b"x=1", headers=bearer(token("42")))
    assert (answer.status, answer.body) == (200, b"42")
    assert ask(wsgi.server.url, path, body=b"x=1").status == 401


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("site")
    target = gunicorn("django_rest:wsgi", "/rt", "--threads=16")
    with served(target, log=folder / "log", DATABASE=str(folder / "db")) as running:
        yield running


def test_rest_framework_knows_the_user_of_a_token(site: Running) -> None:
    def me(**headers: str) -> tuple[int, Any]:
        answer = ask(site.server.url, "/me", headers=headers)
        if answer.status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
        return answer.status, json.loads(answer.body)

    status, shown = me(**bearer(token("1", meta={"plan": "pro"})))
    assert (status, shown) == (200, {"user": "anna", "meta": {"plan": "pro"}})
    # What Django's field would take for a 1 is another user to everything else here.
    for user in ("2", "3", "anna", "", "01", " 1", "\u0661"):
        assert me(**bearer(token(user)))[0] == 401
    assert me(**bearer("no-token"))[1] == {"detail": "unauthorized: the token is refused"}
    assert me()[1] == {"detail": "Authentication credentials were not provided."}
    assert me(Authorization="Basic YTpi")[0] == 401


def log_in(site: Running, *, browser: Mapping[str, str] | None = None) -> dict[str, str]:
    """The cookies of a browser in which anna has just logged in, ready to send forms."""
    answer = ask(site.server.url, "/log-in", method="GET", headers=browser)
    session = re.search(r"sessionid=\w+", answer.headers["set-cookie"])
    assert session is not None
    return {"Cookie": f"{session[0]}; csrftoken={CSRF_TOKEN}", "X-CSRFToken": CSRF_TOKEN}


def entered(site: Running, headers: dict[str, str]) -> Stream:
    return open_stream(site.url, "uni_sse", {}, headers=headers)


def refused(site: Running, headers: dict[str, str]) -> bytes:
    """What a client is told that may not connect."""
    with entered(site, headers) as stream:
        (frame,) = stream.frames()
        return frame


def test_whoever_is_logged_in_may_connect(site: Running) -> None:
    anna, denied = log_in(site), last(3507, "permission denied")
    with entered(site, anna) as stream:
        assert list(connections(site.url, "1")) == [stream.client()]
    _, _, session = anna["Cookie"].partition("sessionid=")
    for cookie in ("", "sessionid=", "sessionid=no-such-session", f"other={session}"):
        assert refused(site, {"Cookie": cookie}) == denied
    assert refused(site, {**anna, "Origin": "https://evil.example.com"}) == denied


def test_a_device_that_its_user_ends_stays_out_until_they_log_in_there_and_others_stay(
    site: Running,
) -> None:
    url, (phone, web) = site.server.url, (log_in(site), log_in(site))
    form = {**web, "Content-Type": "application/x-www-form-urlencoded"}
    with entered(site, phone) as lost, entered(site, web) as kept:
        clients = [lost.client(), kept.client()]
        listed = json.loads(ask(url, "/devices", method="GET", headers=web).body)["devices"]
        assert [[client, current] for client, _, current in listed] == [
            [clients[0], False],
            [clients[1], True],
        ]
        ended = ask(url, "/devices", body=f"client={clients[0]}".encode(), headers=form)
        assert [client for client, *_ in json.loads(ended.body)["devices"]] == clients[1:]
        # It is gone by now, which is no error.
        again = ask(url, "/devices", body=f"client={clients[0]}".encode(), headers=form)
        assert again.status == 200
        assert lost.frames() == [last(3503, "force disconnect")]
        assert refused(site, phone) == last(3500, "invalid token")
        for headers in (web, log_in(site, browser=phone)):
            with entered(site, headers) as stream:
                stream.client()
        assert clients[1] in connections(site.url, "1")
    assert ask(url, "/devices", method="GET").status == 302


def test_logins_up_to_a_moment_are_kept_out_with_the_tokens_and_later_ones_are_not(
    site: Running,
) -> None:
    before, headers = log_in(site), bearer(token("1", iat=int(time.time())))
    with entered(site, before) as stream:
        stream.client()
        answer = ask(site.server.url, "/log-out-everywhere", headers=headers)
        assert json.loads(answer.body) == {"ended": 1}
        assert stream.frames() == [last(3500, "invalid token")]
    assert refused(site, before) == last(3500, "invalid token")
    with entered(site, log_in(site)) as stream:
        stream.client()


def test_who_logs_out_is_closed_and_cannot_come_back_by_the_cookie(site: Running) -> None:
    url, (phone, web) = site.server.url, (log_in(site), log_in(site))
    with entered(site, phone) as left, entered(site, web) as other:
        for stream in (left, other):
            stream.client()
        assert ask(url, "/log-out", headers=phone).headers["location"] == "/"
        for stream in (left, other):
            assert stream.frames() == [last(3011, "force reconnect")]
    assert refused(site, phone) == last(3507, "permission denied")
    with entered(site, web) as stream:
        stream.client()
        # Nobody is logged in there any more, and nobody is closed.
        assert ask(url, "/log-out", headers=phone).headers["location"] == "/"
        assert len(connections(site.url, "1")) == 1


LOG_OUT = """
import sys
from types import ModuleType, SimpleNamespace

import django
from django.conf import settings

from tests.adapters.apps.django import project
from tests.pages import blocks
from usersessions import StoreUnavailable

options = project("site_urls")
options["INSTALLED_APPS"].append("django.contrib.sessions")
options["SESSION_ENGINE"] = "django.contrib.sessions.backends.db"
options["ALLOWED_HOSTS"] = ["testserver"]
options["DATABASES"]["default"]["ATOMIC_REQUESTS"] = True
settings.configure(**options)
django.setup()

from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import path


def disconnect(user, **options):
    print("told", user, connection.in_atomic_block, Session.objects.count())
    raise StoreUnavailable("Redis is away")


sessions = SimpleNamespace(disconnect=disconnect)
sys.modules["live"] = SimpleNamespace(blocking_sessions=sessions)
names = {"__name__": "page"}
exec(next(each.code for each in blocks(sys.stdin.read()) if "def log_out(" in each.code), names)
names["get_sessions"] = lambda: sessions
names["log_out"].login_required = False
sys.modules["site_urls"] = ModuleType("site_urls")
sys.modules["site_urls"].urlpatterns = [path("log-out", names["log_out"])]

call_command("migrate", verbosity=0)
browser = Client()
browser.force_login(User.objects.create(pk=7, username="anna"))
print("a foreign image", browser.get("/log-out").status_code, Session.objects.count())
print("a form", browser.post("/log-out").status_code < 400, Session.objects.count())
print("once more", browser.post("/log-out").status_code < 400)
"""


@pytest.mark.parametrize("page", ["django", "channels"])
def test_the_logout_of_a_page_stands_before_its_connections_are_closed_and_if_they_cannot_be(
    page: str,
) -> None:
    done = subprocess.run(
        python("-c", LOG_OUT),
        input=(DOCS / f"{page}.md").read_text(),
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "a foreign image 405 1",
        # No transaction is open any more, and the login is gone.
        "told 7 False 0",
        "a form True 0",
        # Who has no login is nobody, and no user of the name "None".
        "once more True",
    ], done.stderr


@pytest.mark.parametrize("page", ["django", "channels"])
def test_the_project_of_a_page_is_protected_from_forged_requests(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    settings_py = next(block.code for block in blocks(text) if block.title == "settings.py")
    assert "django.middleware.csrf.CsrfViewMiddleware" in settings_py


class Login(dict[str, Any]):
    """A Django session, and the user whom it says, or something else."""

    pk = 1


def test_a_login_is_known_by_the_note_in_its_session_alone() -> None:
    note_logins()
    login, user = Login({SESSION_KEY: "1"}), Login()
    request = HttpRequest()
    # Older than the note, or made by another program.
    assert login_of(user, login) == login_of(user, None) == Identity("1")
    for sender in (None, HttpRequest()):
        user_logged_in.send(sender=Login, request=sender, user=user)
    for session in (login, empty := Login()):
        request.session = session  # type: ignore[assignment]
        user_logged_in.send(sender=Login, request=request, user=user)
    assert empty == {}
    noted = login_of(user, login)
    assert noted.user == "1" and noted.token_id
    assert noted.issued_at == pytest.approx(time.time(), abs=60)
    # Another way to log in, such as a token, says who it is; and says nothing of the login.
    user.pk = 2
    assert login_of(user, login) == Identity("2")
    request.session = login  # type: ignore[assignment]
    user_logged_in.send(sender=Login, request=request, user=user)
    user.pk = 1
    assert login_of(user, login) == noted


def test_nobody_has_no_sessions_of_their_own() -> None:
    request: Any = HttpRequest()
    request.user = SimpleNamespace(is_authenticated=False, pk=None)
    with pytest.raises(PermissionDenied):
        identity_of(request)


# ASGI ---------------------------------------------------------------------------------------------


def test_without_the_wrapper_a_stream_is_refused_with_what_to_do(tmp_path: Path) -> None:
    target = uvicorn("django:bare", "/rt", has_websockets=False)
    with served(target, log=tmp_path / "log") as running:
        assert connections(running.url, "42") == {}
        answer = ask(running.url, "/connection/uni_sse?cf_connect=swordfish", method="GET")
        assert answer.status == 400
        answer = ask(running.url, "/connection/uni_sse?cf_connect={}", method="GET")
        assert answer.status == 501
        assert b"application = with_usersessions(get_asgi_application())" in answer.body
        assert ask(running.url, "/api", body=b" " * 65537).status == 401
        # In chunks, without a length.
        key, body = {"X-API-Key": API_KEY}, [b'{"method": "in', b'fo"}']
        assert b'"num_clients":0' in ask(running.url, "/api", body=body, headers=key).body
        for secret in ("swordfish", "several worker processes"):
            assert secret not in running.server.output


def test_the_prefix_of_a_front_proxy_may_be_in_the_settings(tmp_path: Path) -> None:
    target = replace(project.TARGETS["django, asgi"], env={"SCRIPT_NAME": "/app"})
    with served(target, log=tmp_path / "log") as running:
        for prefix in ("/app/rt", "/rt"):
            with open_stream(running.server.url + prefix, "uni_websocket", {}) as stream:
                assert stream.frames() == [last(3507, "permission denied")]
        assert ask(running.server.url, "/app/api", body=b"{}").status == 404


def test_urls_that_do_not_include_ours_are_an_error() -> None:
    set_script_prefix("/")
    with (
        override_settings(USERSESSIONS=TOKENS, ROOT_URLCONF=()),
        pytest.raises(ImproperlyConfigured, match=r'add path\("rt/", include\("usersessions.adap'),
    ):
        with_usersessions(lambda scope, receive, send: asyncio.sleep(0))


OURS = include("usersessions.adapters.django.urls")


@pytest.mark.parametrize(
    ("urls", "prefix"),
    [
        ([path("rt/", OURS)], "/rt"),
        ([path("v1/", include(([path("rt/", OURS)], "api")))], "/v1/rt"),
        ([path("v1/", include(([path("", include(([path("", OURS)], "b")))], "a")))], "/v1"),
        ([path("v1/", include(([], "other"))), path("v2/", include([path("", OURS)]))], "/v2"),
    ],
    ids=["plain", "in a namespace", "in two", "beside one"],
)
@pytest.mark.anyio
async def test_ours_may_be_in_a_namespace_of_the_project(urls: list[Any], prefix: str) -> None:
    set_script_prefix("/")
    with override_settings(USERSESSIONS=TOKENS, ROOT_URLCONF=tuple(urls)):
        served = with_usersessions(StandIn())
        for path_, status in ((f"{prefix}/api", 401), ("/api", 299), (f"{prefix}/other", 299)):
            transport = httpx.ASGITransport(app=served)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                assert (await client.post(path_)).status_code == status


class StandIn:
    """Stands for Django, and answers 299 to all."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body"})


def test_ours_at_a_path_that_varies_are_an_error_that_says_so() -> None:
    set_script_prefix("/")
    with (
        override_settings(USERSESSIONS=TOKENS, ROOT_URLCONF=(path("<slug:tenant>/rt/", OURS),)),
        pytest.raises(ImproperlyConfigured, match="no part of the path before it may vary, as in"),
    ):
        with_usersessions(StandIn())


# The project's own tests --------------------------------------------------------------------------


def test_the_test_client_is_no_server_of_several_workers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with override_settings(
        USERSESSIONS=TOKENS, ROOT_URLCONF=(path("rt/", OURS),), ALLOWED_HOSTS=["testserver"]
    ):
        assert Client().post("/rt/api").status_code == 401
    assert "several worker processes" not in caplog.text


# manage.py ----------------------------------------------------------------------------------------


def test_sessions_in_memory_are_out_of_reach_for_a_command() -> None:
    done = managed("usersessions", "list", "42")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: sessions are in the memory of your server")
    assert 'set "STORE": "redis://..."' in done.stderr


def test_a_command_lists_and_closes_what_the_servers_hold(tmp_path: Path) -> None:
    target, user = project.TARGETS["django, asgi"], new_user()
    with RedisServer() as redis, served(target, log=tmp_path / "log", REDIS_URL=redis.url) as one:
        # A client may call itself what it likes: no terminal does what that says.
        name = "web\x1b[2J\nb"
        request = {"token": token(user, jti="a", meta={"pin": "swordfish"}), "name": name}
        with open_stream(one.url, "uni_sse", request) as stream:
            client = stream.client()
            listed = managed("usersessions", "list", user, REDIS_URL=redis.url)
            assert listed.stderr == ""
            named = re.escape("web\\u001b[2J\\u000ab")
            shown = rf"{client}  \d{{4}}-[\d-]+ [\d:]+ UTC  uni_sse  {named}  127.0.0.1\n"
            assert re.fullmatch(shown, listed.stdout)
            options = ("--client", client, "--code", "4001", "--reason", "bye", "--revoke")
            closed = managed("usersessions", "close", user, *options, REDIS_URL=redis.url)
            assert (closed.stdout, closed.stderr) == (f"{client}  closed\n", "")
            assert stream.frames() == [last(4001, "bye")]
        again = managed("usersessions", "close", user, REDIS_URL=redis.url)
        assert (again.returncode, again.stdout) == (0, "There is no such session.\n")
        assert managed("usersessions", "list", user, REDIS_URL=redis.url).stdout == ""
        wrong = managed("usersessions", "close", user, "--code", "1", REDIS_URL=redis.url)
        assert wrong.stderr == "CommandError: disconnect code must be from 3000 to 4999\n"
        long = managed("usersessions", "close", user, "--reason", "x" * 300, REDIS_URL=redis.url)
        assert long.stderr == "CommandError: disconnect reason is over 123 bytes of UTF-8\n"


def test_the_development_server_serves_streams_and_reloads(tmp_path: Path) -> None:
    (tmp_path / "site_settings.py").write_text(
        "import tests.adapters.apps.django as app\n"
        "globals().update(app.project())\n"
        "WSGI_APPLICATION = 'site_wsgi.application'\n"
    )
    (tmp_path / "site_wsgi.py").write_text(
        "from django.core.wsgi import get_wsgi_application\n"
        "from usersessions.adapters.django import end_with_server, get_sessions\n"
        "application = get_wsgi_application()\n"
        "end_with_server(get_sessions())\n"
        "print('wsgi.py was loaded', flush=True)\n"
    )
    command = python("-m", "django", "runserver", "127.0.0.1:0", "--settings=site_settings")
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    with serving(command, log=tmp_path / "log", env={"PYTHONPATH": path}) as server:
        user = new_user()

        def reloaded() -> bool:
            # It looks for changes once a second, and for the first time some time after its start.
            os.utime(tmp_path / "site_wsgi.py")
            return server.output.count("wsgi.py was loaded") > 1

        with open_stream(server.url + "/rt", "uni_sse", {"token": token(user)}) as stream:
            assert list(connections(server.url + "/rt", user)) == [stream.client()]
            until(reloaded, what="a reload", seconds=30.0)
        assert "Traceback" not in server.output
