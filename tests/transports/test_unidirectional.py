"""The unidirectional protocol without I/O: connect requests read, frames and deadlines given."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.secrecy import said
from usersessions import Disconnect, Identity, InvalidValue, JSONError
from usersessions.transports.unidirectional import (
    PING,
    ConnectMessage,
    Stream,
    Transport,
    disconnect_frame,
    read_connect,
)

LINES = Transport("uni_http_stream", "application/json", after=b"\n")


def stream(identity: Identity, *, ping_interval: int = 25, now: float = 0.0) -> Stream:
    return Stream("c1", identity, version="1.0", ping_interval=ping_interval, now=now)


def test_a_connect_request_gives_its_members_and_ignores_others() -> None:
    message = read_connect(
        b'{"token": "t", "data": {"room": 1}, "name": "web", "version": "1.2", '
        b'"headers": {"X-Tenant": "a"}, "subs": {"news": {}}}'
    )
    assert message == ConnectMessage(
        token="t", data={"room": 1}, name="web", version="1.2", headers={"x-tenant": "a"}
    )


@pytest.mark.parametrize("body", [b"{}", "{}", b' {"token": null, "headers": null} \n'])
def test_every_member_of_a_connect_request_may_be_absent_or_null(body: bytes | str) -> None:
    assert read_connect(body) == ConnectMessage()


def test_an_empty_token_name_or_version_is_none_at_all() -> None:
    assert read_connect(b'{"token": "", "name": "", "version": ""}') == ConnectMessage()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[]", "a connect request must be a JSON object"),
        (b"null", "a connect request must be a JSON object"),
        (b'"token"', "a connect request must be a JSON object"),
        (b'{"token": 1}', "token must be a string"),
        (b'{"token": ["t"]}', "token must be a string"),
        (b'{"token": false}', "token must be a string"),
        (b'{"name": 1}', "name must be a string, not int"),
        (b'{"name": {}}', "name must be a string, not dict"),
        (b'{"version": 1.2}', "version must be a string, not float"),
        (b'{"version": true}', "version must be a string, not bool"),
        (b'{"headers": []}', "headers must be an object"),
        (b'{"headers": "a: b"}', "headers must be an object"),
        (b'{"headers": {"a": 1}}', "a header must be a string"),
        (b'{"headers": {"a": null}}', "a header must be a string"),
        (b'{"headers": {"a": ["b"]}}', "a header must be a string"),
        (b'{"name": "%b"}' % (b"n" * 256), "name is longer than 255 characters"),
    ],
)
def test_a_member_of_the_wrong_kind_is_refused_by_name(body: bytes, problem: str) -> None:
    with pytest.raises(InvalidValue) as refusal:
        read_connect(body)
    assert str(refusal.value) == problem


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"{} {}",
        b"\xff\xfe{\x00}\x00",
        b'\xef\xbb\xbf{"name": "a"}',
        b'{"token": "a", "token": "b"}',
        b'{"data": NaN}',
        b'{"data": 1e999}',
        b'{"data": "\\ud800"}',
        b'{"data": ' + b"[" * 40 + b"]" * 40 + b"}",
    ],
)
def test_what_is_not_strict_json_is_no_connect_request(body: bytes) -> None:
    with pytest.raises(JSONError):
        read_connect(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_connect_request_or_an_invalid_value(body: bytes) -> None:
    with suppress(InvalidValue):
        read_connect(body)


@given(
    st.dictionaries(
        st.sampled_from(["token", "data", "name", "version", "headers"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_members_of_any_kind_are_read_or_are_an_invalid_value(members: dict[str, object]) -> None:
    try:
        message = read_connect(json.dumps(members).encode())
    except InvalidValue:
        return
    message.request("c1", LINES, {})


def test_a_refused_connect_request_does_not_show_its_token() -> None:
    with pytest.raises(InvalidValue) as refusal:
        read_connect(b'{"token": "swordfish", "headers": {"a": 1}}')
    assert "swordfish" not in said(refusal.value)


def test_a_connect_message_shows_neither_token_nor_data_nor_headers() -> None:
    message = ConnectMessage(token="swordfish", data="swordfish", headers={"a": "swordfish"})
    assert "swordfish" not in repr(message)
    assert "swordfish" not in repr(message.request("c1", LINES, {"b": "swordfish"}))


def test_the_request_to_decide_on_has_the_message_and_how_it_came() -> None:
    request = ConnectMessage(token="t", data=[1], name="web", version="2").request("c1", LINES, {})
    assert (request.client, request.transport, request.protocol) == (
        "c1",
        "uni_http_stream",
        "json",
    )
    assert (request.token, request.data, request.name, request.version) == ("t", [1], "web", "2")


def test_headers_in_the_message_never_replace_those_of_the_http_request() -> None:
    message = read_connect(b'{"headers": {"X-User": "forged", "X-Room": "1"}}')
    request = message.request("c1", LINES, {"x-user": "vouched for", "host": "h"})
    assert request.headers == {"x-user": "vouched for", "x-room": "1", "host": "h"}


def test_a_transport_puts_its_marks_around_a_frame() -> None:
    assert Transport("t", "m", before=b"data: ", after=b"\n\n").wrap(PING) == b"data: {}\n\n"
    assert Transport("t", "m").wrap(PING) == b"{}"


def test_the_disconnect_frame_has_code_and_reason() -> None:
    assert disconnect_frame(Disconnect(4001, 'say "é"')) == (
        '{"disconnect":{"code":4001,"reason":"say \\"é\\""}}'.encode()
    )


def test_the_connect_frame_greets_with_data_and_never_with_meta() -> None:
    frame = stream(Identity("42", data={"hello": ["é"]}, meta={"m": 1}, info=2)).connect_frame
    assert frame == (
        '{"connect":{"client":"c1","version":"1.0","ping":25,"data":{"hello":["é"]}}}'.encode()
    )


@pytest.mark.parametrize("data", [False, 0, "", [], {}])
def test_data_that_is_empty_is_data_all_the_same(data: object) -> None:
    assert json.loads(stream(Identity("42", data=data)).connect_frame)["connect"]["data"] == data


def test_a_ping_is_due_after_each_interval_of_silence_and_not_before() -> None:
    pings = stream(Identity("42"), ping_interval=10, now=100.0)
    assert pings.next_deadline == 110.0
    assert pings.due(109.9) is None
    assert pings.next_deadline == 110.0
    assert pings.due(110.0) == b"{}"
    assert pings.next_deadline == 120.0


def test_after_a_late_ping_the_next_one_is_a_whole_interval_away() -> None:
    pings = stream(Identity("42"), ping_interval=10)
    assert pings.due(57.0) == PING
    assert pings.next_deadline == 67.0
    assert pings.due(57.0) is None


@pytest.mark.parametrize(("longest", "due"), [(18, 18.0), (60, 25.0), (None, 25.0)])
def test_a_stream_may_ping_sooner_than_its_client_is_told(longest: int | None, due: float) -> None:
    pings = Stream(
        "c1",
        Identity("42"),
        version="1.0",
        ping_interval=25,
        now=0.0,
        longest_silence=longest,
    )
    assert b'"ping":25' in pings.connect_frame
    assert pings.next_deadline == due
    assert pings.due(due) == PING
    assert pings.next_deadline == 2 * due
