"""What the documentation lists is what the code has: codes, bounds, claims, methods, paths."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import get_args
from uuid import uuid4

import pytest
from jwt.api_jws import PyJWS

import usersessions.adapters
from tests.modules import module_names
from tests.standins import SharedStandIn
from usersessions import (
    Closed,
    ConnectionInfo,
    ConnectRefused,
    Identity,
    Key,
    KeysUnavailable,
    NodeInfo,
    OwnSession,
    OwnSessions,
    TokenError,
    TokenVerifier,
    UserSessions,
)
from usersessions.commands import Command
from usersessions.config import Settings, load
from usersessions.dispatch import MAX_BODY_BYTES
from usersessions.errors import DisconnectCode, ErrorCode
from usersessions.execution import closed_json
from usersessions.fetch import Fetch, Fetched
from usersessions.flows import Flow, Reply, Request, run
from usersessions.http.aio import FIRST_MESSAGE_TIMEOUT, SEND_TIMEOUT
from usersessions.http.base import MAX_BODY_BYTES as MAX_REQUEST_BYTES
from usersessions.http.base import Request as HttpRequest
from usersessions.http.base import Response
from usersessions.http.connection import HTTP_STREAM, SSE, WEBSOCKET, check_origin
from usersessions.http.endpoints import PATHS
from usersessions.http.own_sessions import OwnSessionsApi
from usersessions.jwks import MAX_SET_BYTES
from usersessions.keys import ALGORITHMS
from usersessions.models import (
    MAX_DATA_BYTES,
    MAX_ID_LENGTH,
    MAX_LABELS,
    MAX_REASON_BYTES,
    ConnectRequest,
    Disconnect,
    LimitPolicy,
)
from usersessions.operations import TIMEOUT_SECONDS
from usersessions.proxy import ERROR_DISCONNECTS, MAX_ANSWER_BYTES, HttpConnectProxy
from usersessions.refusals import KEPT_SECONDS
from usersessions.stores.base import GRACE_SECONDS, ListUser
from usersessions.strictjson import MAX_DEPTH
from usersessions.tokens import MAX_TOKEN_BYTES
from usersessions.transports.unidirectional import ConnectMessage

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SECRET = "a secret of at least thirty-two bytes"

Row = tuple[str, ...]


def read(page: str) -> str:
    return (DOCS / page).read_text()


def table(page: str, heading: str) -> list[Row]:
    """The rows of the first table under a heading, without its head, each a tuple of cells."""
    text = read(page)
    found = re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE)
    assert found, f"{page} has no heading {heading!r}"
    lines = re.search(r"(?:^\|.*\n)+", text[found.end() :], re.MULTILINE)
    assert lines, f"{page} has no table under {heading!r}"
    return [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in lines[0].splitlines()[2:]
    ]


def column(page: str, heading: str, *, number: int = 0) -> list[str]:
    """A column of a table, without the backquotes."""
    return [row[number].replace("`", "") for row in table(page, heading)]


def names(record: type) -> list[str]:
    return [field.name for field in fields(record)]


def question() -> ConnectRequest:
    return ConnectRequest("c1", "uni_sse")


def test_every_disconnect_code_is_listed_with_its_reason_and_reconnect_rule() -> None:
    shown = [
        (code, reason, reconnect.startswith("yes"))
        for code, reason, reconnect, _ in table("streams.md", "Disconnect codes")
    ]
    assert shown == [
        (str(int(known)), known.reason, Disconnect.of(known).reconnect) for known in DisconnectCode
    ]


def test_every_error_of_the_api_is_listed_with_its_message() -> None:
    shown = [row[:2] for row in table("server-api.md", "Errors")]
    assert shown == [(str(int(known)), known.message) for known in ErrorCode]


def test_every_error_of_a_backend_is_listed_with_what_it_does_to_the_client() -> None:
    *shown, other = table("connect-proxy.md", "What an `error` does to the client")
    assert shown == [
        (str(int(error)), ErrorCode(error).message, str(int(known)), known.reason)
        for error, known in ERROR_DISCONNECTS.items()
    ]
    failed = DisconnectCode.INTERNAL_SERVER_ERROR
    assert other == ("any other", "", str(int(failed)), failed.reason)


def test_the_question_to_a_backend_is_the_one_shown() -> None:
    found = re.search(r'```json title="question"\n(.*?)```', read("connect-proxy.md"), re.DOTALL)
    assert found
    shown = json.loads(found[1])
    said = {name: shown[name] for name in ("client", "transport", "name", "version", "data")}
    asked = next(HttpConnectProxy("https://app.example").decide(ConnectRequest(**said)))
    assert isinstance(asked, Fetch)
    assert json.loads(asked.body or b"") == shown


def test_the_answers_of_a_backend_that_are_shown_are_understood() -> None:
    answers = re.findall(r'```json title="answer: .*"\n(.*)\n```', read("connect-proxy.md"))
    outcomes: list[object] = []
    for answer in answers:

        def reply(request: Request, body: str = answer) -> Reply:
            return Fetched(200, body.encode())

        try:
            identity = run(HttpConnectProxy("https://app.example").decide(question()), reply)
            outcomes.append(identity.user)
        except ConnectRefused as refused:
            outcomes.append((refused.code, refused.reason))
    assert outcomes == ["42", (4501, "account closed"), (3507, "permission denied")]


def test_the_members_of_a_backends_result_are_those_of_an_identity() -> None:
    shown = set(column("connect-proxy.md", "An HTTP backend"))
    of_tokens = {"token_id", "issued_at", "token_expires"}
    assert shown == {name.removesuffix("_json") for name in names(Identity)} - of_tokens


def test_the_members_of_a_connect_request_are_listed() -> None:
    assert sorted(column("streams.md", "The connect request")) == sorted(names(ConnectMessage))


def test_the_paths_of_the_streams_are_listed() -> None:
    transports = (HTTP_STREAM, SSE, WEBSOCKET)
    rows = table("streams.md", "Streams")
    for row, transport in zip(rows, transports, strict=True):
        assert f"/connection/{transport.name}" in row[0]


@pytest.mark.parametrize("command", [one for one in get_args(Command) if names(one)])
def test_every_method_of_the_api_is_listed_with_its_parameters(command: type[Command]) -> None:
    assert column("server-api.md", f"`{command.method}`") == names(command)


def test_the_members_of_a_node_are_listed() -> None:
    assert column("server-api.md", "`info`") == names(NodeInfo)


def test_no_method_of_the_api_is_listed_that_is_not_there() -> None:
    methods = re.findall(r"^### `(\w+)`$", read("server-api.md"), re.MULTILINE)
    assert methods == [command.method for command in get_args(Command)]
    for method in methods:
        asked = json.dumps({"method": method, "params": {"user": "42", "uid": "a-jti"}})
        assert UserSessions().dispatch(asked.encode()).startswith(b'{"result"')


@pytest.mark.parametrize(
    ("page", "heading"),
    [("server-api.md", "`disconnect`"), ("control.md", "Close one, and keep it out")],
)
def test_what_is_said_of_connections_that_were_told_to_end_is_listed(
    page: str, heading: str
) -> None:
    tables = re.split(rf"^#+ {re.escape(heading)}$", read(page), flags=re.MULTILINE)[1]
    rows = re.findall(r"^\| `(closed|unconfirmed|not_revocable)` \|", tables, re.MULTILINE)
    assert [*rows, "partial"] == names(Closed)
    assert page == "control.md" or '`"partial": true`' in tables


def test_every_way_to_keep_somebody_out_is_in_the_table_of_which_call_when() -> None:
    calls = " ".join(column("control.md", "Which call, when", number=1))
    named = set(re.findall(r"(\w+)\(", calls))
    others = {"user_connections", "refresh", "info"}
    ending = {command.method for command in get_args(Command)} - others
    assert named == ending
    assert all(hasattr(UserSessions, name) for name in named)


def test_what_each_call_closes_with_is_what_it_closes_with() -> None:
    sessions = UserSessions()
    identity = Identity("42", token_id="a-jti", issued_at=0)
    for call, shown in [row[1:] for row in table("control.md", "Which call, when")]:
        source = call.strip("`").partition("`")[0]
        source = source.replace("client=...", "client=client").replace("[...]", '["other"]')
        with sessions.connect(identity=identity, transport="websocket") as session:
            known = {"user": "42", "jti": "a-jti", "exp": 1, "client": session.client}
            eval(f"sessions.{source[:-1]}, timeout=0)", {"sessions": sessions, **known})
            assert session.disconnect
            assert str(session.disconnect.code) == shown.partition(",")[0]
        sessions = UserSessions()


def test_every_policy_of_a_limit_is_listed() -> None:
    assert column("control.md", "Limits") == list(get_args(LimitPolicy))


def test_the_numbers_of_expiry_and_waiting_are_those_of_the_code() -> None:
    control = " ".join(read("control.md").split())
    assert f"closed with 3005 `connection expired` {GRACE_SECONDS:g} s later" in control
    assert f"or for {KEPT_SECONDS / 86400:g} days where it has none" in control
    assert f"{TIMEOUT_SECONDS:g} s at most (`timeout`)" in control
    assert f"and have not within {TIMEOUT_SECONDS:g} s" in read("server-api.md")


def test_the_log_lines_that_are_shown_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    found = re.search(r"```text\n(client .*?)```", read("control.md"), re.DOTALL)
    assert found
    caplog.set_level("INFO", logger="usersessions")
    token = PyJWS().encode(b'{"sub": "42", "jti": "a-jti"}', SECRET, algorithm="HS256")
    sessions = UserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))
    with sessions.connect(token=token, transport="uni_sse"):
        sessions.disconnect("42", revoke=True, timeout=0)
    with pytest.raises(ConnectRefused), sessions.connect(token=token, transport="uni_sse"):
        raise AssertionError("it was revoked")
    page = {"origin": "https://evil.example.com", "host": "app.example.com"}
    with pytest.raises(ConnectRefused):
        check_origin(page, (), client=str(uuid4()))
    logged = [re.sub(r"client \S{36} ", "client ID ", line) for line in caplog.messages]
    shown = [re.sub(r"client \S+ ", "client ID ", line) for line in found[1].splitlines()]
    settled = [re.sub(r"after [\d.]+ s", "after N s", line) for line in (*logged, *shown)]
    assert settled[: len(logged)] == settled[len(logged) :]


def test_the_calls_for_users_themselves_are_listed() -> None:
    calls = column("own-sessions.md", "In Python")
    public = [name for name in vars(OwnSessions) if not name.startswith("_")]
    assert [call.removeprefix("own.").partition("(")[0] for call in calls] == public


def test_the_requests_of_users_are_listed_by_their_paths() -> None:
    paths = [row.split()[1] for row in column("own-sessions.md", "Over HTTP")]
    assert set(paths) == {path for path in PATHS if path.startswith("/sessions")}


def test_each_answer_that_is_shown_has_the_members_of_the_code() -> None:
    page = read("own-sessions.md")
    listed = re.search(r'^\{"sessions":.*', page, re.MULTILINE)
    assert listed
    phone, laptop = json.loads(listed[0])["sessions"]
    assert set(phone) | set(laptop) == set(names(OwnSession))
    assert not any(value is None for one in (phone, laptop) for value in one.values())
    answers = [json.loads(line) for line in re.findall(r'^\{"closed":.*', page, re.MULTILINE)]
    assert [list(answer) for answer in answers] == [list(json.loads(closed_json(Closed())))] * 2


def test_every_error_that_users_get_is_listed_with_its_message() -> None:
    rows = [row[1:3] for row in table("own-sessions.md", "Errors")]
    assert rows == [(code, ErrorCode(int(code)).message) for code, _ in rows]
    here = {row[0] for row in table("server-api.md", "Errors") if row[2] == "reserved here"}
    assert here == {code for code, _ in rows} - {"107", "108"}


def own_request(
    sessions: UserSessions, token: str | None, *, method: str = "GET", client: str | None = None
) -> Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    asked = HttpRequest(method, headers=headers)
    return sessions.run(OwnSessionsApi(sessions.operations)(asked, client))


class Away(TokenVerifier):
    """A verifier whose keys cannot be fetched."""

    def identify(self, token: str, *, now: float) -> Flow[Identity]:
        raise KeysUnavailable("the issuer is away")


def test_every_error_that_users_get_is_listed_with_its_status() -> None:
    def signed(**claims: object) -> str:
        return PyJWS().encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")

    verifier = TokenVerifier(Key(SECRET, algorithm="HS256"))
    sessions = UserSessions(verifier, end_others_min_age=60)
    away = SharedStandIn()
    away.away = {ListUser}
    good = signed(sub="42")
    answers = [
        own_request(UserSessions(verifier), good, method="DELETE"),
        own_request(sessions, None),
        own_request(sessions, signed(sub="42", exp=1)),
        own_request(sessions, signed(sub="42", jti="a-jti"), method="DELETE"),
        own_request(sessions, good, method="DELETE", client="nobody's"),
        own_request(sessions, good, method="PUT"),
        own_request(UserSessions(Away(Key(SECRET, algorithm="HS256"))), good),
        own_request(UserSessions(verifier, store=away), good),
    ]
    errors = [json.loads(answer.body)["error"] for answer in answers]
    assert [row[:3] for row in table("own-sessions.md", "Errors")] == [
        (str(answer.status), str(error["code"]), error["message"].partition(":")[0])
        for answer, error in zip(answers, errors, strict=True)
    ]


def test_what_a_list_from_python_shows_is_listed() -> None:
    shown = ", ".join(column("in-your-app.md", "What a list shows")).split(", ")
    public = {name for name in dir(ConnectionInfo) if not name.startswith("_")}
    assert set(shown) == public


def test_every_algorithm_is_listed() -> None:
    shown = column("tokens.md", "Keys and algorithms")
    assert ", ".join(shown).split(", ") == list(ALGORITHMS)


@pytest.mark.parametrize("claim", column("tokens.md", "Claims"))
def test_a_claim_that_is_listed_is_kept_or_checked(claim: str) -> None:
    value = {"neither": "text nor number nor list"}
    token = PyJWS().encode(json.dumps({claim: value}).encode(), SECRET, algorithm="HS256")
    verifier = TokenVerifier(Key(SECRET, algorithm="HS256"))
    if claim in ("meta", "info"):
        assert getattr(verifier.verify(token), claim) == value
        return
    with pytest.raises(TokenError, match="user" if claim == "sub" else claim):
        verifier.verify(token)


def test_every_bound_is_listed_with_its_value() -> None:
    assert MAX_REQUEST_BYTES == MAX_BODY_BYTES
    assert [row[1] for row in table("security.md", "What is bounded")] == [
        f"{MAX_TOKEN_BYTES} bytes",
        f"{MAX_BODY_BYTES} bytes",
        f"{MAX_ANSWER_BYTES} bytes",
        f"{MAX_SET_BYTES} bytes",
        f"{MAX_DATA_BYTES} bytes",
        f"{MAX_DEPTH}",
        f"{MAX_ID_LENGTH} characters",
        f"{MAX_LABELS}",
        f"{MAX_REASON_BYTES} bytes",
        f"{SEND_TIMEOUT:g} s",
        f"{FIRST_MESSAGE_TIMEOUT:g} s",
        "[your server's limit](deploy.md#the-size-of-websocket-messages)",
    ]


def floors() -> list[list[str]]:
    """The lines of the diagram of the floors, from the top, as the modules on each."""
    found = re.search(r"```text\n(.*?)```", read("architecture.md"), re.DOTALL)
    assert found
    return [line[:16].strip().split(", ") for line in found[1].splitlines()]


def test_every_module_stands_on_a_floor_that_is_described() -> None:
    modules = {name.split(".")[1] for name in module_names() if "." in name} - {"version"}
    assert {name for line in floors() for name in line} == modules


def test_the_floors_are_described_from_top_to_bottom() -> None:
    contracts = re.search(
        r"layers = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )
    assert contracts
    described = {name: place for place, line in enumerate(floors()) for name in line}
    places = [
        described[name]
        for name in re.findall(r"\w+", contracts[1])
        if name not in ("__main__", "version")
    ]
    assert places == sorted(places)


def test_every_setting_is_listed_with_its_kind_its_default_and_its_meaning() -> None:
    shown = [
        (*row[:-1], row[-1].replace("`", ""))
        for heading in (
            "Tokens",
            "Server API",
            "Clients without a token",
            "Sessions of a user",
            "Where sessions are",
            "The server",
        )
        for row in table("configuration.md", heading)
    ]
    assert shown == [
        (
            f"`{setting.name}`",
            setting.metadata["kind"].wanted.removesuffix(" that is not empty"),
            default(setting.default),
            setting.metadata["meaning"],
        )
        for setting in fields(Settings)
    ]


def default(value: object) -> str:
    """A default as the table has it: as JSON, without quotes."""
    if not isinstance(value, (str, int, float)):
        return "-"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_the_config_files_that_are_shown_work(kind: str, tmp_path: Path) -> None:
    found = re.search(rf"```{kind} title=[^\n]*\n(.*?)```", read("configuration.md"), re.DOTALL)
    assert found
    path = tmp_path / f"config.{kind}"
    text = re.sub(r"<[^>]* or more>", SECRET.replace(" ", "-"), found[1])
    path.write_text(text)
    settings = load(path, environ={})
    assert settings.app()
    assert (settings.allowed_origins, settings.ping_interval) == (("https://app.example.com",), 20)


def test_the_variables_that_are_shown_work() -> None:
    lines = re.findall(r"^export (\w+)=(.*)$", read("configuration.md"), re.MULTILINE)
    environ = {
        name: shlex.split(value.replace("$(openssl rand -hex 32)", SECRET))[0]
        for name, value in lines
    }
    assert len(environ) == 4
    settings = load(None, environ=environ)
    assert settings.store.startswith("redis://:")
    assert replace(settings, store="memory").app()
    assert settings.api_keys == ("first-key-of-yours", "second-key-of-yours")
    assert settings.meta_from_claim == {"role": "user.role"}


@pytest.mark.parametrize("page", ["index.md", "reference/index.md"])
def test_every_extra_is_listed(page: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    extras = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\n", text, re.DOTALL)
    assert extras
    known = re.findall(r"^(\w+) = \[", extras[1], re.MULTILINE)
    rows = re.findall(r"^\| (`.*?) \| ", read(page), re.MULTILINE)
    assert "`, `".join(row.strip("`") for row in rows).split("`, `") == known


def test_every_public_name_has_a_place_in_the_reference() -> None:
    documented: set[object] = set()
    for page in sorted((DOCS / "reference").glob("*.md")):
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            thing = pkgutil.resolve_name(path)
            listed = getattr(thing, "__all__", None)
            documented |= {thing} if listed is None else {getattr(thing, name) for name in listed}
    public = {name: getattr(usersessions, name) for name in usersessions.__all__}
    assert [name for name, thing in public.items() if thing not in documented] == ["__version__"]


def test_every_name_of_an_adapter_has_a_place_in_the_reference() -> None:
    documented = {
        pkgutil.resolve_name(path)
        for path in re.findall(r"^::: (\S+)$", read("reference/adapters.md"), re.MULTILINE)
    }
    adapters = [found.name for found in pkgutil.iter_modules(usersessions.adapters.__path__)]
    assert len(adapters) == 9
    for name in adapters:
        module = import_module(f"usersessions.adapters.{name}")
        missing = [public for public in module.__all__ if getattr(module, public) not in documented]
        assert missing in ([], ["Identify"]), f"{name} has {missing}"


def test_what_is_insecure_is_listed_by_name() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert set(re.findall(r"insecure_\w+", code)) == set(
        re.findall(r"insecure_\w+", read("security.md"))
    )
