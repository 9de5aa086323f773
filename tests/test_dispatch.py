"""The server API as bytes: for any bytes, a documented answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.secrecy import said
from usersessions import ConfigError, Disconnect, Identity, JSONError, UserSessions
from usersessions.dispatch import (
    MAX_BODY_BYTES,
    ApiKeys,
    answer_batch,
    answer_body,
    answer_method,
    error_json,
)
from usersessions.errors import CommandError, ErrorCode
from usersessions.strictjson import JSON, dumps, loads

LIST_42 = b'{"method":"user_connections","params":{"user":"42"}}'
NOBODY = b'{"result":{"connections":{}}}'
SECRET = "s3cret"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> UserSessions:
    # The thread that asks for an end holds the connections here: it would wait for itself.
    monkeypatch.setattr("usersessions.dispatch.TIMEOUT_SECONDS", 0.0)
    return UserSessions()


NOTHING = b'{"result":{"closed":[],"unconfirmed":[],"not_revocable":[]}}'


def unconfirmed(*clients: str) -> bytes:
    ended = {"closed": [], "unconfirmed": clients, "not_revocable": []}
    return json.dumps({"result": ended}, separators=(",", ":")).encode()


def body_of(method: str, sessions: UserSessions, body: bytes) -> bytes:
    return sessions.run(answer_method(sessions.operations, method, body))


def batch(sessions: UserSessions, body: bytes) -> JSON:
    return loads(sessions.run(answer_batch(sessions.operations, body)))


def replies(answer: bytes) -> list[dict[str, JSON]]:
    """The replies of an answer, each of a documented shape."""
    found = []
    for line in answer.split(b"\n"):
        reply = loads(line)
        assert isinstance(reply, dict)
        assert list(reply) in (["result"], ["error"])
        if "error" in reply:
            error = reply["error"]
            assert isinstance(error, dict)
            assert list(error) == ["code", "message"]
            code, message = error["code"], error["message"]
            assert isinstance(code, int)
            assert isinstance(message, str)
            assert message.startswith(ErrorCode(code).message)
        found.append(reply)
    return found


def error_of(answer: bytes) -> tuple[JSON, JSON]:
    (reply,) = replies(answer)
    error = reply["error"]
    assert isinstance(error, dict)
    return error["code"], error["message"]


# What is asked ----------------------------------------------------------------------------------


def test_a_list_has_an_entry_for_each_connection(sessions: UserSessions) -> None:
    identity = Identity("42", meta={"plan": "pro"})
    with (
        sessions.connect(user="42", transport="uni_http_stream", app_name="terminal") as first,
        sessions.connect(identity=identity, transport="uni_sse", app_version="1.2") as second,
        sessions.connect(user="43", transport="uni_sse"),
    ):
        assert sessions.dispatch(LIST_42) == (
            b'{"result":{"connections":{"%b":{"app_name":"terminal","transport":"uni_http_stream",'
            b'"protocol":"json"},"%b":{"app_version":"1.2","transport":"uni_sse",'
            b'"protocol":"json","meta":{"plan":"pro"}}}}}'
            % (first.client.encode(), second.client.encode())
        )
    assert sessions.dispatch(LIST_42) == NOBODY


def test_disconnect_ends_what_it_names_and_says_what_became_of_it(sessions: UserSessions) -> None:
    ended: dict[str, Disconnect] = {}
    with (
        sessions.connect(user="42", transport="a", close=lambda how: ended.update(a=how)) as a,
        sessions.connect(user="42", transport="b", close=lambda how: ended.update(b=how)) as b,
        sessions.connect(user="42", transport="c", close=lambda how: ended.update(c=how)) as c,
        sessions.connect(user="43", transport="d", close=lambda how: ended.update(d=how)),
    ):

        def disconnect(**params: object) -> bytes:
            command = {"method": "disconnect", "params": {"user": "42", **params}}
            return sessions.dispatch(json.dumps(command).encode())

        assert disconnect(client="no such client") == NOTHING
        assert ended == {}
        own = {"code": 4500, "reason": "logged out"}
        assert disconnect(client=a.client, disconnect=own) == unconfirmed(a.client)
        assert ended == {"a": Disconnect(4500, "logged out")}
        assert disconnect(whitelist=[b.client]) == unconfirmed(a.client, c.client)
        assert ended.keys() == {"a", "c"}
        everybody = unconfirmed(a.client, b.client, c.client)
        assert disconnect() == disconnect() == everybody
        assert ended.keys() == {"a", "b", "c"}
        assert ended["b"] == ended["c"] == Disconnect(3503, "force disconnect")


def test_several_commands_are_answered_one_a_line_in_their_order(sessions: UserSessions) -> None:
    with sessions.connect(user="42", transport="sse") as session:
        answer = sessions.dispatch(
            LIST_42
            + b'\n{"method": "publish"}\n'
            + b'{"method": "disconnect", "params": {"user": 42}}'
            + b'[1] {"method": "disconnect", "params": {"user": "42"}}\r\n'
        )
        assert session.disconnect == Disconnect(3503, "force disconnect")
    listed, unknown, wrong, not_a_command, ended = replies(answer)
    assert listed == {
        "result": {"connections": {session.client: {"transport": "sse", "protocol": "json"}}}
    }
    assert unknown == {"error": {"code": 104, "message": "method not found"}}
    assert wrong == {
        "error": {"code": 107, "message": "bad request: user must be a string, not int"}
    }
    assert not_a_command == {
        "error": {"code": 107, "message": "bad request: a command must be an object"}
    }
    assert ended == json.loads(unconfirmed(session.client))


def test_a_body_that_is_not_json_to_its_end_carries_nothing_out(sessions: UserSessions) -> None:
    with sessions.connect(user="42", transport="sse") as session:
        for rest in (b"{", b'{"a":1,"a":2}', b'"\\ud800"', b"NaN", b"[" * 33, b"\xff"):
            answer = sessions.dispatch(
                b'{"method": "disconnect", "params": {"user": "42"}}\n' + rest
            )
            assert error_of(answer)[0] == 107
        assert session.disconnect is None


def test_members_beside_method_and_params_are_ignored(sessions: UserSessions) -> None:
    body = b'{"id": 1, "method": "user_connections", "params": {"user": "42", "x": 1}, "y": []}'
    assert sessions.dispatch(body) == NOBODY


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        (b"", 107, "bad request: not valid JSON: the text is empty"),
        (b" \n", 107, "bad request: not valid JSON: the text is empty"),
        (b"{", 107, "bad request: not valid JSON: Expecting property name"),
        (b"not JSON", 107, "bad request: not valid JSON: Expecting value"),
        (b"\xff\xfe{\x00}\x00", 107, "bad request: not valid JSON: the text is not UTF-8"),
        (
            b"\xef\xbb\xbf" + LIST_42,
            107,
            "bad request: not valid JSON: the text begins with a byte",
        ),
        (b'{"method": NaN}', 107, "bad request: not valid JSON: NaN and Infinity"),
        (b'{"method": -Infinity}', 107, "bad request: not valid JSON: NaN and Infinity"),
        (b'{"method": 1e999}', 107, "bad request: not valid JSON: a number is out of range"),
        (b"9" * 65536, 107, "bad request: not valid JSON: a number has too many digits"),
        (b'{"method": "\\ud800"}', 107, "bad request: not valid JSON: a lone surrogate"),
        (b'{"method": "\xed\xa0\x80"}', 107, "bad request: not valid JSON: the text is not UTF-8"),
        (LIST_42[:-1] + b',"method":""}', 107, "bad request: not valid JSON: a member name stands"),
        (b"[" * 65536, 107, "bad request: not valid JSON: nesting is deeper than 32"),
        (b'{"params":' * 6553, 107, "bad request: not valid JSON: nesting is deeper than 32"),
        (b'"' + b"\\" * 65535, 107, "bad request: not valid JSON: Unterminated string"),
        (b" " * 65536, 107, "bad request: not valid JSON: the text is empty"),
        (b" " * 65537, 107, "bad request: the body is over 65536 bytes"),
        (b"null", 107, "bad request: a command must be an object"),
        (b"[]", 107, "bad request: a command must be an object"),
        (b'"user_connections"', 107, "bad request: a command must be an object"),
        (b"{}", 107, "bad request: method must be a string"),
        (b'{"method": 7}', 107, "bad request: method must be a string"),
        (b'{"method": "user_connections"}', 107, "bad request: user is missing"),
        (b'{"method": "user_connections", "params": []}', 107, "bad request: params must be an"),
        (b'{"method": "user_connections", "params": {"user": 42}}', 107, "bad request: user must"),
        (b'{"method": "publish", "params": {"user": "42"}}', 104, "method not found"),
        (b'{"method": ""}', 104, "method not found"),
    ],
    ids=lambda value: f"{value[:30]!r}" if isinstance(value, bytes) else "",
)
def test_what_cannot_be_carried_out_is_a_documented_error(
    sessions: UserSessions, body: bytes, code: int, why: str
) -> None:
    found, message = error_of(sessions.dispatch(body))
    assert found == code
    assert isinstance(message, str)
    assert message.startswith(why)


def test_a_million_members_are_over_the_bound_and_as_many_as_fit_are_ignored(
    sessions: UserSessions,
) -> None:
    million = b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}"
    assert error_of(sessions.dispatch(million)) == (
        107,
        "bad request: the body is over 65536 bytes",
    )
    extra = b",".join(b'"%x":0' % number for number in range(7000))
    body = b'{"method":"user_connections","params":{"user":"42",' + extra + b"}}"
    assert len(body) <= MAX_BODY_BYTES
    assert sessions.dispatch(body) == NOBODY


def test_a_body_of_exactly_the_bound_is_answered(sessions: UserSessions) -> None:
    assert sessions.dispatch(LIST_42.ljust(MAX_BODY_BYTES)) == NOBODY
    assert error_of(sessions.dispatch(LIST_42.ljust(MAX_BODY_BYTES + 1)))[0] == 107


def test_an_answer_quotes_nothing_of_a_body_it_refuses(sessions: UserSessions) -> None:
    for body in (
        f'{{"{SECRET}": 1, "{SECRET}": 2}}',
        f'{{"method": "{SECRET}", "params": "{SECRET}"}}',
        f'{{"method": "disconnect", "params": {{"user": ["{SECRET}"]}}}}',
        f'{{"method": "disconnect", "params": {{"user": "4", "client": {{"{SECRET}": 1}}}}}}',
        f'{{"{SECRET}',
        SECRET,
    ):
        answer = sessions.dispatch(body.encode())
        assert error_of(answer)[0] in (104, 107)
        assert SECRET.encode() not in answer


# Any bytes --------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["user", "client", "whitelist", "disconnect", "code", "reason"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
users = st.sampled_from(["42", "", "ü", 42, None])
params = st.fixed_dictionaries(
    {"user": users},
    optional={
        "client": json_values,
        "whitelist": st.lists(st.text()) | json_values,
        "disconnect": st.fixed_dictionaries(
            {}, optional={"code": st.integers(2998, 5001), "reason": st.text()}
        ),
        "more": json_values,
    },
)
methods = st.sampled_from(["user_connections", "disconnect", "publish", ""])
commands = st.fixed_dictionaries({"method": methods, "params": params}) | json_values
bodies = st.lists(commands, min_size=1, max_size=4).flatmap(
    lambda several: st.sampled_from(["\n", "", " \r\n"]).map(
        lambda between: between.join(map(json.dumps, several)).encode()
    )
)
damaged = st.tuples(bodies, st.integers(0, 200), st.binary(max_size=3)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
)


@given(st.binary() | bodies | damaged)
@example(b"\x00")
@example(b'{"method":"user_connections","params":{"user":"42"}}\x00')
@example(
    b'{"method":"disconnect","params":{"user":"42","disconnect":{"code":' + b"9" * 4300 + b"}}}"
)
def test_any_bytes_are_answered_by_lines_of_a_result_or_a_documented_error(body: bytes) -> None:
    sessions = UserSessions()
    with (
        sessions.connect(identity=Identity("42", meta="\n"), transport="\r\n\u2028"),
        # The session does not end when it is told to.
        patch("usersessions.dispatch.TIMEOUT_SECONDS", 0.0),
    ):
        assert replies(sessions.dispatch(body))
        for answer in (answer_body, answer_batch):
            try:
                loads(sessions.run(answer(sessions.operations, body)))
            except JSONError as error:
                assert error.__context__ is None
        for method in ("user_connections", "disconnect", "batch", "\ud800"):
            try:
                replies(body_of(method, sessions, body))
            except JSONError as error:
                assert error.__context__ is None


@given(st.lists(commands, min_size=1, max_size=5))
def test_there_are_as_many_replies_as_commands(several: list[object]) -> None:
    body = "\n".join(json.dumps(each) for each in several).encode()
    answer = UserSessions().dispatch(body)
    assert len(replies(answer)) == (1 if b"not valid JSON" in answer else len(several))


# One method, and batches ------------------------------------------------------------------------


def test_a_method_of_the_path_takes_its_params_alone(sessions: UserSessions) -> None:
    assert body_of("user_connections", sessions, b'{"user": "42"}') == NOBODY
    assert body_of("disconnect", sessions, b'{"user": "42"}') == NOTHING
    assert error_of(body_of("publish", sessions, b'{"user": "42"}'))[0] == 104
    # What a body says of methods is nothing but an unknown member.
    body = b'{"user": "42", "method": "disconnect", "params": {}}'
    assert body_of("user_connections", sessions, body) == NOBODY


def test_an_empty_body_stands_for_no_params(sessions: UserSessions) -> None:
    assert error_of(body_of("disconnect", sessions, b"")) == (107, "bad request: user is missing")
    assert error_of(body_of("publish", sessions, b"")) == (104, "method not found")


def test_a_batch_is_answered_in_its_order_by_method_or_error(sessions: UserSessions) -> None:
    with sessions.connect(user="42", transport="sse") as session:
        answer = batch(
            sessions,
            b'{"commands": [{"user_connections": {"user": "42"}}, {"publish": {}},'
            b' {"disconnect": {"user": 42}}, {"disconnect": {"user": "42"}}, {"disconnect": null},'
            b' {}, {"disconnect": {"user": "42"}, "user_connections": {"user": "42"}}, 7],'
            b' "parallel": true}',
        )
        assert session.disconnect is not None
    entry = {"transport": "sse", "protocol": "json"}
    one_method = {
        "error": {"code": 107, "message": "bad request: a command must be an object of one method"}
    }
    assert answer == {
        "replies": [
            {"user_connections": {"connections": {session.client: entry}}},
            {"error": {"code": 104, "message": "method not found"}},
            {"error": {"code": 107, "message": "bad request: user must be a string, not int"}},
            {"disconnect": json.loads(unconfirmed(session.client))["result"]},
            {"error": {"code": 107, "message": "bad request: user is missing"}},
            one_method,
            one_method,
            one_method,
        ]
    }


def test_an_empty_batch_has_no_replies(sessions: UserSessions) -> None:
    assert batch(sessions, b'{"commands": []}') == {"replies": []}


@pytest.mark.parametrize("body", [b"{}", b"[]", b"7", b'{"commands": {}}', b'{"commands": null}'])
def test_a_batch_without_an_array_of_commands_is_a_bad_request(
    sessions: UserSessions, body: bytes
) -> None:
    assert batch(sessions, body) == {
        "error": {"code": 107, "message": "bad request: commands must be an array"}
    }


@pytest.mark.parametrize("body", [b"{", b" ", b"{} {}", b" " * 65537, b"\xff", b'{"a":1,"a":1}'])
def test_a_body_that_is_not_json_is_left_to_the_transport_to_refuse(
    sessions: UserSessions, body: bytes
) -> None:
    with pytest.raises(JSONError):
        body_of("user_connections", sessions, body)
    with pytest.raises(JSONError):
        batch(sessions, body)
    if body != b"{} {}":
        with pytest.raises(JSONError):
            sessions.run(answer_body(sessions.operations, body))


def test_an_error_is_written_with_its_code_and_message() -> None:
    for code in ErrorCode:
        assert error_of(error_json(CommandError(code))) == (int(code), code.message)
    detailed = error_json(CommandError(ErrorCode.BAD_REQUEST, 'a "quoted" wörd'))
    assert error_of(detailed) == (107, 'bad request: a "quoted" wörd')


# Naughty strings --------------------------------------------------------------------------------

NAUGHTY = Path(
    os.environ.get("BLNS_JSON")
    or Path(__file__).parents[2] / "shared" / "vectors" / "blns" / "blns.json"
)


@pytest.mark.skipif(
    "BLNS_JSON" not in os.environ and not NAUGHTY.exists(),
    reason="BLNS_JSON does not name the big list of naughty strings",
)
def test_naughty_strings_come_out_as_they_went_in() -> None:
    sessions = UserSessions(allow_anonymous=True)
    naughty: list[str] = json.loads(NAUGHTY.read_text(encoding="utf-8"))
    assert len(naughty) > 500
    for text in naughty:
        name = text[:255]
        meta = {text: [text, {"": text}]}
        entry = {"app_name": name, "app_version": name, "transport": name, "protocol": "json"}
        shown = {key: value for key, value in entry.items() if value or key == "transport"}
        with sessions.connect(
            identity=Identity(name, meta=meta),
            app_name=name,
            app_version=name,
            transport=name,
        ) as session:
            command = {"method": "user_connections", "params": {"user": name}}
            for body in (dumps(command), json.dumps(command).encode()):
                answer = sessions.dispatch(body)
                # The bytes are those that went in, not merely text that reads the same.
                assert answer == dumps(
                    {"result": {"connections": {session.client: {**shown, "meta": meta}}}}
                )
            info = sessions.user_connections(name)[session.client]
            assert (info.app_name, info.app_version) == (name or None, name or None)
            assert (info.transport, info.meta) == (name, meta)
            ended = sessions.disconnect(name, reason=name[:30], timeout=0)
            assert ended.unconfirmed == (session.client,)
            assert session.disconnect == Disconnect(3503, name[:30])
        assert sessions.dispatch(dumps(command)) == NOBODY


# Keys -------------------------------------------------------------------------------------------

KEY = "0123456789abcdef"
OTHER_KEY = "x!~" * 85


def test_any_of_several_keys_opens_and_nothing_else_does() -> None:
    keys = ApiKeys([KEY, OTHER_KEY])
    assert keys.match(KEY)
    assert keys.match(OTHER_KEY)
    for wrong in (None, "", KEY[:-1], KEY + "0", KEY.upper(), f" {KEY}", KEY + OTHER_KEY, "\x00"):
        assert not keys.match(wrong)


def test_without_keys_nothing_opens() -> None:
    assert not ApiKeys([]).match(None)
    assert not ApiKeys([]).match("")


@pytest.mark.parametrize(
    "presented", ["ключ-" * 4, "\xff" * 16, "\ud800" * 16, "\udcff" * 16, "\U0001f511" * 16, "\x00"]
)
def test_a_presented_key_may_be_any_text_and_does_not_match(presented: str) -> None:
    assert not ApiKeys([KEY, "?" * 16]).match(presented)


@given(st.text(st.characters()))
def test_any_presented_text_is_answered(presented: str) -> None:
    assert ApiKeys([KEY]).match(presented) is (presented == KEY)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (SECRET * 4, "API keys must be a list of strings, not one string"),
        ([KEY, SECRET], "an API key must be a string of 16 to 255 characters"),
        ([SECRET * 43], "an API key must be a string of 16 to 255 characters"),
        ([SECRET.encode() * 4], "an API key must be a string of 16 to 255 characters"),
        ([""], "an API key must be a string of 16 to 255 characters"),
        ([f"{SECRET} {SECRET} {SECRET}"], "an API key must be made of visible ASCII characters"),
        ([f"{SECRET}ü{SECRET}ü{SECRET}"], "an API key must be made of visible ASCII characters"),
        ([f"{SECRET}{SECRET}{SECRET}\n"], "an API key must be made of visible ASCII characters"),
    ],
)
def test_a_key_that_no_header_could_carry_is_refused_unseen(keys: list[str], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ApiKeys(keys)
    assert str(caught.value) == why
    assert SECRET not in said(caught.value)


def test_a_repr_says_how_many_keys_there_are_and_no_more() -> None:
    keys = ApiKeys([KEY, OTHER_KEY])
    assert repr(keys) == str(keys) == "ApiKeys(2 keys)"
    assert KEY not in repr(vars(keys))


def test_a_body_of_too_many_commands_is_refused_whole(sessions: UserSessions) -> None:
    assert len(replies(sessions.dispatch(LIST_42 * 256))) == 256
    assert error_of(sessions.dispatch(LIST_42 * 257)) == (
        107,
        "bad request: one body has at most 256 commands",
    )
    with pytest.raises(JSONError, match="at most 256 commands"):
        batch(sessions, b'{"commands": [' + b",".join([b"{}"] * 257) + b"]}")
