"""What is served at which path, and who may open a stream: without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest

from usersessions import (
    ConfigError,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    Key,
    TokenVerifier,
    UserSessions,
)
from usersessions.http.base import Request, Response
from usersessions.http.connection import HTTP_STREAM, SSE
from usersessions.http.endpoints import PATHS, WEBSOCKET_PATH, Endpoints
from usersessions.operations import Admitted
from usersessions.transports.unidirectional import read_connect

SECRET = "a secret of at least thirty-two bytes"
KEY = "the-key-of-the-server-api"
LIST = b'{"user": "42"}'


class Served:
    """Endpoints, and a connect proxy that lets all in and notes what it was asked."""

    def __init__(self, **settings: Any) -> None:
        self.asked: list[ConnectRequest] = []
        self.sessions = UserSessions(
            TokenVerifier(Key(SECRET, algorithm="HS256")), connect_proxy=self._decide
        )
        self.endpoints = Endpoints(self.sessions.operations, **settings)

    def _decide(self, request: ConnectRequest) -> Identity:
        self.asked.append(request)
        return Identity("cookie user")

    def __call__(self, path: str, request: Request) -> Response:
        return self.sessions.run(self.endpoints.answer(path, request))

    def admit(
        self, message: Mapping[str, object], *, peer: str | None = "192.0.2.1", **headers: str
    ) -> Admitted:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connect = read_connect(json.dumps(message).encode())
        return self.sessions.run(self.endpoints.admit("c1", connect, SSE, headers=given, peer=peer))

    def refusal(self, message: Mapping[str, object], **headers: str) -> tuple[int, str]:
        with pytest.raises(ConnectRefused) as refused:
            self.admit(message, **headers)
        return refused.value.code, refused.value.reason


def token(user: str = "42") -> str:
    return jwt.encode({"sub": user}, SECRET, algorithm="HS256")


# Paths --------------------------------------------------------------------------------------------


def test_the_paths_are_these() -> None:
    assert PATHS == (
        "/api",
        "/api/{method}",
        "/sessions",
        "/sessions/{client}",
        "/connection/uni_http_stream",
        "/connection/uni_sse",
    )
    assert WEBSOCKET_PATH == "/connection/uni_websocket"


def test_a_stream_is_at_the_path_of_its_transport_and_nowhere_else() -> None:
    transport = Served().endpoints.transport
    assert transport("/connection/uni_http_stream") is HTTP_STREAM
    assert transport("/connection/uni_sse") is SSE
    for path in ("", "/", "/api", "/connection/uni_sse/", "/x/connection/uni_sse", WEBSOCKET_PATH):
        assert transport(path) is None


def test_the_server_api_takes_a_method_in_its_path() -> None:
    served = Served(api_keys=[KEY])
    listed = b'{"result":{"connections":{}}}'
    in_body = b'{"method": "user_connections", "params": {"user": "42"}}'
    for path, body in (("/api", in_body), ("/api/user_connections", LIST)):
        assert served(path, Request("POST", headers={"x-api-key": KEY}, body=body)).body == listed
        assert served(path, Request("POST", body=body)).status == 401


def test_without_api_keys_nobody_may_use_the_server_api() -> None:
    assert Served()("/api", Request("POST", headers={"x-api-key": ""}, body=LIST)).status == 401


def test_users_have_their_own_sessions_by_path() -> None:
    served = Served()
    headers = {"authorization": f"Bearer {token()}"}
    assert served("/sessions", Request("GET", headers=headers)).body == b'{"sessions":[]}'
    assert served("/sessions/c1", Request("GET", headers=headers)).headers["allow"] == "DELETE"
    assert served("/sessions/c1", Request("DELETE", headers=headers)).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "api",
        "//api",
        "/API",
        "/apis",
        "/api/",
        "/api//",
        "/api/a/b",
        "/sessions/",
        "/sessions/c1/",
        "/sessions//c1",
        "/connection",
        "/connection/uni_sse",
        "/connection/uni_websocket",
    ],
)
def test_at_other_paths_nothing_is_answered(path: str) -> None:
    served = Served(api_keys=[KEY])
    headers = {"x-api-key": KEY, "authorization": f"Bearer {token()}"}
    for method in ("GET", "POST", "DELETE"):
        response = served(path, Request(method, headers=headers, body=LIST))
        assert (response.status, response.body) == (404, b"nothing is served at this path\n")


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, 25, 3600])
def test_pings_may_be_seconds_or_an_hour_apart(interval: int) -> None:
    assert Served(ping_interval=interval).endpoints.ping_interval == interval


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        *(({"ping_interval": value}, "ping_interval") for value in (0, -1, 3601, 25.0, "25", True)),
        *(({"trusted_hops": value}, "trusted_hops") for value in (-1, 1.0, "1", None)),
        ({"allowed_origins": "https://app.example.com"}, "a list of strings, not one string"),
        *(
            ({"allowed_origins": [value]}, "an entry of allowed_origins")
            for value in ("*", "", "null", "app.example.com", "https://a/", "https://a b", 1)
        ),
        ({"api_keys": ["short"]}, "16"),
    ],
)
def test_a_setting_that_cannot_work_is_one_clear_error(setting: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Served(**setting)


def test_a_refused_api_key_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        Served(api_keys=["swordfish"])
    assert "swordfish" not in str(refused.value)


# Who may open a stream ----------------------------------------------------------------------------

PAGE = {"host": "api.example.com", "origin": "https://evil.example.com"}


def test_with_a_token_any_page_may_connect() -> None:
    served = Served()
    admitted = served.admit({"token": token()}, **PAGE)
    assert (admitted.identity.user, admitted.request.client) == ("42", "c1")
    assert served.asked == []
    assert served.admit({"token": token()}, host="a", origin="null").identity.user == "42"


def test_without_a_token_the_origin_is_checked_before_anybody_is_asked() -> None:
    served = Served(allowed_origins=["https://App.example.com"])
    denied = (3507, "permission denied")
    for message in ({}, {"token": ""}, {"token": None}):
        assert served.refusal(message, **PAGE) == denied
    assert served.refusal({}, host="api.example.com", origin="null") == denied
    assert served.asked == []
    for origin in ("https://app.example.com", "https://api.example.com"):
        assert served.admit({}, host="api.example.com", origin=origin).identity.user
    assert served.admit({}).identity.user == "cookie user"
    assert len(served.asked) == 3


def test_an_origin_written_into_the_connect_message_does_not_count() -> None:
    served = Served(allowed_origins=["https://app.example.com"])
    for allowed in ("https://app.example.com", "https://api.example.com"):
        message: Mapping[str, object] = {"headers": {"origin": allowed, "Host": "evil.example.com"}}
        assert served.refusal(message, **PAGE) == (3507, "permission denied")
    # Nor does it speak against whoever is no page.
    foreign: dict[str, object] = {"headers": {"Origin": "https://evil.example.com"}}
    assert served.admit(foreign, host="api.example.com").identity.user == "cookie user"


def test_the_proxy_is_asked_with_what_came_over_http_before_what_the_message_claims() -> None:
    served = Served()
    message = {
        "name": "web",
        "version": "1.2",
        "data": [1],
        "headers": {"Cookie": "user=forged", "X-Room": "5"},
    }
    served.admit(message, cookie="user=42", user_agent="a-browser")
    (asked,) = served.asked
    assert asked.headers == {"cookie": "user=42", "x-room": "5", "user-agent": "a-browser"}
    assert (asked.client, asked.transport) == ("c1", "uni_sse")
    assert (asked.name, asked.version, asked.data) == ("web", "1.2", [1])
    assert (asked.token, asked.user_agent) == (None, "a-browser")


@pytest.mark.parametrize(
    ("hops", "address"), [(0, "192.0.2.1"), (1, "198.51.100.2"), (2, "203.0.113.9")]
)
def test_an_address_is_taken_from_as_many_proxies_as_are_trusted(hops: int, address: str) -> None:
    served = Served(trusted_hops=hops)
    served.admit({}, x_forwarded_for="203.0.113.9, 198.51.100.2")
    assert served.asked[0].remote_addr == address


def test_where_the_server_knows_no_peer_there_is_no_address() -> None:
    served = Served()
    served.admit({}, peer=None)
    assert served.asked[0].remote_addr is None


def test_whoever_the_proxy_does_not_want_is_refused_as_it_says() -> None:
    served = Served()
    refusing = UserSessions(connect_proxy=lambda request: Disconnect(4500, "banned"))
    endpoints = Endpoints(refusing.operations)
    flow = endpoints.admit("c1", read_connect(b"{}"), HTTP_STREAM, headers={}, peer=None)
    with pytest.raises(ConnectRefused) as refused:
        refusing.run(flow)
    assert (refused.value.code, refused.value.reason) == (4500, "banned")
    assert served.refusal({"token": "swordfish"}) == (3500, "invalid token")
