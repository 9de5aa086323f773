"""The server API over HTTP, without a server: what is refused in which order, and what is answered.

What the commands themselves do with their parameters stands in the tests of the floors below.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.secrecy import said
from usersessions import Disconnect, MemoryStore, UserSessions
from usersessions.dispatch import MAX_COMMANDS, ApiKeys
from usersessions.errors import ConfigError
from usersessions.http.api import ServerApi
from usersessions.http.base import MAX_BODY_BYTES, Request, Response

KEY = "the-key-of-the-server-api"
OTHER_KEY = "the-key-before-the-rotation"
WITH_KEY = {"x-api-key": KEY}
LIST = b'{"method": "user_connections", "params": {"user": "42"}}'
NO_CONNECTIONS = b'{"result":{"connections":{}}}'


class Api:
    """The server API on a store of its own, in which user 42 may have sessions."""

    def __init__(self, *keys: str) -> None:
        self.store = MemoryStore()
        self._sessions = UserSessions(store=self.store)
        self._api = ServerApi(self._sessions.operations, ApiKeys(keys))

    def add(self, client: str, told: list[Disconnect] | None = None) -> None:
        def tell(disconnect: Disconnect) -> None:
            if told is not None:
                told.append(disconnect)
            self.store.end("42", client)

        record = b'{"transport":"sse"}\n{"connected_at":0}'
        self.store.node.registry.add("42", client, record, tell)

    def __call__(self, request: Request, method: str | None = None) -> Response:
        return self._sessions.run(self._api(request, method))

    def post(self, body: bytes | None = LIST, method: str | None = None) -> Response:
        return self(Request("POST", headers=WITH_KEY, body=body), method)


@pytest.fixture
def api() -> Api:
    return Api(KEY, OTHER_KEY)


def test_a_command_is_answered_with_json(api: Api) -> None:
    api.add("c1")
    assert api.post() == Response(
        200,
        b'{"result":{"connections":{"c1":{"transport":"sse"}}}}',
        {"content-type": "application/json"},
    )


@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post", ""])
def test_only_post_is_taken(api: Api, verb: str) -> None:
    response = api(Request(verb, headers=WITH_KEY, body=LIST))
    assert (response.status, response.headers["allow"]) == (405, "POST")


def test_without_a_key_the_answer_is_401_and_empty(api: Api) -> None:
    assert api(Request("POST", body=LIST)) == Response(401, b"", {})


def test_over_64_kib_is_413(api: Api) -> None:
    response = api.post(None)
    assert (response.status, response.body) == (413, b"a request body is at most 65536 bytes\n")


def test_an_encoded_body_is_415_for_those_who_have_a_key(api: Api) -> None:
    encoded = {"content-encoding": "gzip"}
    response = api(Request("POST", headers={**WITH_KEY, **encoded}, body=LIST))
    assert (response.status, response.headers["accept-encoding"]) == (415, "identity")
    assert api(Request("POST", headers=encoded, body=LIST)) == Response(401, b"", {})


def test_what_is_no_json_is_400_and_says_where(api: Api) -> None:
    response = api.post(b'{"method": swordfish}')
    assert response.status == 400
    assert response.body == b"not valid JSON: Expecting value at line 1, column 12\n"
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("method", [None, "batch", "user_connections"])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b" ",
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": "\\ud800"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"a": 1' + b"0" * 5000 + b"}",
    ],
)
def test_malformed_json_is_400_at_every_path(api: Api, method: str | None, body: bytes) -> None:
    assert api.post(body, method).status == 400


def test_an_empty_body_is_400_but_for_a_method_of_the_path(api: Api) -> None:
    assert api.post(b"").status == 400
    assert api.post(b"", "batch").status == 400
    response = api.post(b"", "user_connections")
    assert (response.status, response.body) == (
        200,
        b'{"error":{"code":107,"message":"bad request: user is missing"}}',
    )


def test_the_verb_comes_before_the_key_the_key_before_the_size_and_all_before_the_content(
    api: Api,
) -> None:
    for verb, key, body in itertools.product(
        ["POST", "GET"], [KEY, "wrong"], [LIST, b"{", None, b""]
    ):
        expected = 200 if body == LIST else 413 if body is None else 400
        if key == "wrong":
            expected = 401
        if verb == "GET":
            expected = 405
        response = api(Request(verb, headers={"x-api-key": key}, body=body))
        assert response.status == expected, (verb, key, body)


def with_header(name: str, value: str) -> Request:
    return Request("POST", headers={name: value}, body=LIST)


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
@pytest.mark.parametrize(
    "present",
    [
        lambda key: with_header("x-api-key", key),
        lambda key: with_header("authorization", f"apikey {key}"),
        lambda key: with_header("authorization", f"APIKEY {key}"),
        lambda key: with_header("authorization", f"ApiKey   {key} "),
        lambda key: Request("POST", f"api_key={key}", body=LIST),
        lambda key: Request("POST", f"x=1&api_key=%{ord(key[0]):x}{key[1:]}", body=LIST),
        lambda key: Request("POST", f"api_key={key}", {"authorization": "Basic eDp5"}, LIST),
    ],
    ids=["header", "scheme", "scheme in capitals", "spaces", "query", "encoded", "basic besides"],
)
def test_each_key_may_be_presented_in_three_ways(
    api: Api, key: str, present: Callable[[str], Request]
) -> None:
    assert api(present(key)).body == NO_CONNECTIONS


@pytest.mark.parametrize(
    "request_",
    [
        with_header("x-api-key", ""),
        with_header("x-api-key", KEY[:-1]),
        with_header("x-api-key", KEY + "x"),
        with_header("x-api-key", KEY.upper()),
        with_header("x-api-key", f"{KEY}, {KEY}"),
        with_header("x-api-key", f"apikey {KEY}"),
        with_header("x-api-key", "\xff\xfe\xe9" * 10),
        with_header("x-api-key", "\u20ac" * 20),
        with_header("x-api-key", "\ud800" * 20),
        with_header("x-api-key", "\x00"),
        with_header("x-api-key", "k" * 60_000),
        with_header("authorization", ""),
        with_header("authorization", KEY),
        with_header("authorization", "apikey"),
        with_header("authorization", "apikey "),
        with_header("authorization", f"apikey{KEY}"),
        with_header("authorization", f"Bearer {KEY}"),
        with_header("authorization", f"\xa0apikey {KEY}"),
        with_header("authorization", "apikey \xff\xfe"),
        with_header("authorization", f"apikey {KEY}, apikey {KEY}"),
        Request("POST", "api_key=", body=LIST),
        Request("POST", "api_key=%FF%FE", body=LIST),
        Request("POST", "api_key=\xff", body=LIST),
        Request("POST", f"api_key=wrong&api_key={KEY}", body=LIST),
        Request("POST", f"API_KEY={KEY}", body=LIST),
        Request("POST", "&".join(["a=1"] * 1000 + [f"api_key={KEY}"]), body=LIST),
    ],
)
def test_whatever_else_is_presented_is_no_key(api: Api, request_: Request) -> None:
    assert api(request_) == Response(401)


def test_the_first_way_that_is_used_decides(api: Api) -> None:
    wrong_first = Request(
        "POST", f"api_key={KEY}", {"x-api-key": "wrong", "authorization": f"apikey {KEY}"}, LIST
    )
    assert api(wrong_first).status == 401
    right_first = Request("POST", "api_key=wrong", {"authorization": f"apikey {KEY}"}, LIST)
    assert api(right_first).status == 200


@pytest.mark.parametrize("key", ["", KEY, "None"])
def test_where_no_key_is_configured_nobody_is_let_in(key: str) -> None:
    assert Api()(with_header("x-api-key", key)).status == 401


def test_a_key_that_cannot_be_one_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refusal:
        Api("swordfish")
    assert "swordfish" not in said(refusal.value)


def test_several_commands_are_answered_one_a_line_each_by_itself(api: Api) -> None:
    told: list[Disconnect] = []
    api.add("c1", told)
    commands = [LIST, b'{"method": "disconnect", "params": {"user": "42"}}', b'{"method": "no"}']
    response = api.post(b"\n".join(commands))
    assert response.status == 200
    assert response.body.split(b"\n") == [
        b'{"result":{"connections":{"c1":{"transport":"sse"}}}}',
        b'{"result":{"closed":["c1"],"unconfirmed":[],"not_revocable":[]}}',
        b'{"error":{"code":104,"message":"method not found"}}',
    ]
    assert told == [Disconnect(3503, "force disconnect")]


def test_nothing_is_carried_out_of_a_body_that_is_not_json_to_its_end(api: Api) -> None:
    told: list[Disconnect] = []
    api.add("c1", told)
    body = b'{"method": "disconnect", "params": {"user": "42"}}\n{"method": '
    assert api.post(body).status == 400
    assert told == []


def test_a_method_in_the_path_takes_the_params_alone(api: Api) -> None:
    assert api.post(b'{"user": "42"}', "user_connections").body == NO_CONNECTIONS
    assert api.post(b"{}", "no\xe9such").body == (
        b'{"error":{"code":104,"message":"method not found"}}'
    )


def test_a_batch_answers_in_order_with_errors_in_their_places(api: Api) -> None:
    body = (
        b'{"commands": [{"user_connections": {"user": "42"}}, {"no": {}}, [],'
        b' {"user_connections": {"user": 42}}]}'
    )
    response = api.post(body, "batch")
    assert response.status == 200
    assert json.loads(response.body) == {
        "replies": [
            {"user_connections": {"connections": {}}},
            {"error": {"code": 104, "message": "method not found"}},
            {
                "error": {
                    "code": 107,
                    "message": "bad request: a command must be an object of one method",
                }
            },
            {"error": {"code": 107, "message": "bad request: user must be a string, not int"}},
        ]
    }


@pytest.mark.parametrize("method", [None, "user_connections"])
def test_a_failed_command_is_an_error_in_a_200(api: Api, method: str | None) -> None:
    response = api.post(b'{"method": "user_connections"}', method)
    assert response.status == 200
    assert json.loads(response.body)["error"]["code"] == 107


@given(body=st.binary(max_size=300), method=st.sampled_from([None, "batch", "disconnect"]))
def test_any_bytes_get_json_in_a_200_or_a_400(body: bytes, method: str | None) -> None:
    response = Api(KEY).post(body, method)
    assert response.status in (200, 400)
    if response.status == 200:
        for line in response.body.split(b"\n"):
            assert isinstance(json.loads(line), dict)


def test_a_body_full_of_commands_is_answered_in_full_or_refused_whole(api: Api) -> None:
    assert api.post(b"{}" * MAX_COMMANDS).body.count(b"\n") == MAX_COMMANDS - 1
    assert api.post(b"{}" * (MAX_BODY_BYTES // 2)).status == 400
