"""Commands: how each method is read from JSON, and what is said of those that cannot be."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.secrecy import said
from usersessions.commands import (
    DisconnectCommand,
    Info,
    RevokeTokenCommand,
    UserConnections,
    read_command,
)
from usersessions.errors import CommandError, ErrorCode
from usersessions.models import Disconnect
from usersessions.strictjson import JSON

FORCE = Disconnect(3503, "force disconnect")


def refusal(method: JSON, params: JSON) -> tuple[int, str]:
    with pytest.raises(CommandError) as caught:
        read_command(method, params)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return int(caught.value.code), str(caught.value)


def test_user_connections_takes_a_user() -> None:
    assert read_command("user_connections", {"user": "42"}) == UserConnections("42")
    assert read_command("user_connections", {"user": ""}) == UserConnections("")


@pytest.mark.parametrize("params", [None, {}, {"user": 7}])
def test_info_takes_nothing(params: JSON) -> None:
    assert read_command("info", params) == Info()


def test_disconnect_takes_a_user_and_ends_all_of_it_with_3503() -> None:
    command = read_command("disconnect", {"user": "42"})
    assert command == DisconnectCommand("42", client=None, whitelist=frozenset(), disconnect=FORCE)


def test_disconnect_takes_a_client_a_whitelist_and_a_disconnect() -> None:
    params: JSON = {
        "user": "42",
        "client": "c1",
        "whitelist": ["c2", "c3", "c2"],
        "disconnect": {"code": 4001, "reason": "another device took over"},
    }
    assert read_command("disconnect", params) == DisconnectCommand(
        "42",
        client="c1",
        whitelist=frozenset({"c2", "c3"}),
        disconnect=Disconnect(4001, "another device took over"),
    )


@pytest.mark.parametrize(
    "unset",
    [
        {"client": None},
        {"client": ""},
        {"whitelist": None},
        {"whitelist": []},
        {"disconnect": None},
        {"disconnect": {}},
        {"disconnect": {"code": None, "reason": None}},
    ],
)
def test_an_unset_member_is_as_an_absent_one(unset: dict[str, JSON]) -> None:
    assert read_command("disconnect", {"user": "42", **unset}) == DisconnectCommand("42")


@pytest.mark.parametrize(
    ("members", "disconnect"),
    [
        ({"code": 3001}, Disconnect(3001, "shutdown")),
        ({"code": 4001}, Disconnect(4001, "")),
        ({"code": 3001, "reason": ""}, Disconnect(3001, "")),
        ({"reason": "logged out"}, Disconnect(3503, "logged out")),
        ({"code": 4001, "reason": "x", "reconnect": True}, Disconnect(4001, "x")),
    ],
)
def test_a_disconnect_without_a_reason_has_that_of_its_code(
    members: JSON, disconnect: Disconnect
) -> None:
    command = read_command("disconnect", {"user": "42", "disconnect": members})
    assert isinstance(command, DisconnectCommand)
    assert command.disconnect == disconnect


@pytest.mark.parametrize("method", ["user_connections", "disconnect"])
def test_members_that_a_method_does_not_know_are_ignored(method: str) -> None:
    extra: JSON = {"user": "42", "sessions": ["s1"], "User": 1, "": None, "meta": {"a": [1]}}
    assert read_command(method, extra) == read_command(method, {"user": "42"})


@pytest.mark.parametrize("method", ["user_connections", "disconnect"])
@pytest.mark.parametrize(
    ("params", "why"),
    [
        (None, "user is missing"),
        ({}, "user is missing"),
        ({"user": None}, "user is missing"),
        ({"user": 42}, "user must be a string, not int"),
        ({"user": 42.0}, "user must be a string, not float"),
        ({"user": True}, "user must be a string, not bool"),
        ({"user": ["42"]}, "user must be a string, not list"),
        ({"user": {"id": "42"}}, "user must be a string, not dict"),
        ({"user": "4" * 256}, "user is longer than 255 characters"),
        ([], "params must be an object"),
        (["42"], "params must be an object"),
        ("42", "params must be an object"),
        (0, "params must be an object"),
        (False, "params must be an object"),
    ],
)
def test_wrong_params_are_a_bad_request_that_says_what_is_wrong(
    method: str, params: JSON, why: str
) -> None:
    assert refusal(method, params) == (107, f"bad request: {why}")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"client": 7}, "client must be a string"),
        ({"client": ["c1"]}, "client must be a string"),
        ({"client": 0}, "client must be a string"),
        ({"client": "c" * 256}, "client is longer than 255 characters"),
        ({"whitelist": "c1"}, "whitelist must be an array of strings"),
        ({"whitelist": {"c1": True}}, "whitelist must be an array of strings"),
        ({"whitelist": False}, "whitelist must be an array of strings"),
        ({"whitelist": ["c1", 7]}, "an entry of whitelist must be a string, not int"),
        ({"whitelist": [None]}, "an entry of whitelist must be a string, not NoneType"),
        ({"whitelist": [["c1"]]}, "an entry of whitelist must be a string, not list"),
        ({"disconnect": 4001}, "disconnect must be an object"),
        ({"disconnect": [4001]}, "disconnect must be an object"),
        ({"disconnect": {"code": "4001"}}, "disconnect code must be an integer"),
        ({"disconnect": {"code": 4001.0}}, "disconnect code must be an integer"),
        ({"disconnect": {"code": True}}, "disconnect code must be an integer"),
        ({"disconnect": {"code": 2999}}, "disconnect code must be from 3000 to 4999"),
        ({"disconnect": {"code": 0}}, "disconnect code must be from 3000 to 4999"),
        ({"disconnect": {"code": 5000}}, "disconnect code must be from 3000 to 4999"),
        ({"disconnect": {"code": 10**99}}, "disconnect code must be from 3000 to 4999"),
        ({"disconnect": {"reason": 1}}, "disconnect reason must be a string, not int"),
        ({"disconnect": {"reason": "x" * 124}}, "disconnect reason is over 123 bytes of UTF-8"),
        ({"disconnect": {"reason": "x" * 256}}, "disconnect reason is over 123 bytes of UTF-8"),
    ],
)
def test_a_wrong_member_of_disconnect_is_named(wrong: dict[str, JSON], why: str) -> None:
    assert refusal("disconnect", {"user": "42", **wrong}) == (107, f"bad request: {why}")


@pytest.mark.parametrize(
    ("method", "wrong", "why"),
    [
        ("disconnect", {"revoke": "yes"}, "revoke must be true or false"),
        ("disconnect", {"revoke": 1}, "revoke must be true or false"),
        ("disconnect", {"session": 7}, "session must be a string"),
        ("disconnect", {"label_filter": ["device"]}, "label_filter must be an object of strings"),
        ("refresh", {"expired": "yes"}, "expired must be true or false"),
        ("refresh", {"expire_at": "1800000000"}, "expire_at must be a number of seconds"),
        ("refresh", {"expire_at": True}, "expire_at must be a number of seconds"),
        ("block_user", {"expire_at": []}, "expire_at must be a number of seconds"),
        ("invalidate_user_tokens", {"expire_at": {}}, "expire_at must be a number of seconds"),
    ],
)
def test_a_wrong_member_of_the_methods_that_control_is_named(
    method: str, wrong: dict[str, JSON], why: str
) -> None:
    assert refusal(method, {"user": "42", **wrong}) == (107, f"bad request: {why}")


def test_a_token_is_revoked_by_its_id_which_no_repr_shows() -> None:
    command = read_command("revoke_token", {"uid": SECRET, "expire_at": 9})
    assert command == RevokeTokenCommand(SECRET, 9)
    assert SECRET not in repr(command)
    assert refusal("revoke_token", {}) == (107, "bad request: uid is missing")


@pytest.mark.parametrize(
    "method", ["", "publish", "User_Connections", " user_connections", "disconnect\x00", "__doc__"]
)
def test_an_unknown_method_is_not_found_whatever_its_params(method: str) -> None:
    assert refusal(method, {"user": 42}) == (104, "method not found")
    assert refusal(method, 42) == (104, "method not found")


@pytest.mark.parametrize("method", [None, 7, True, ["disconnect"], {"disconnect": {}}])
def test_a_method_is_a_string(method: JSON) -> None:
    assert refusal(method, {"user": "42"}) == (107, "bad request: method must be a string")


def test_commands_are_frozen_and_know_their_method() -> None:
    for command in (UserConnections("42"), DisconnectCommand("42")):
        assert read_command(command.method, {"user": "42"}) == command
        with pytest.raises(dataclasses.FrozenInstanceError):
            command.user = "43"  # type: ignore[misc]
        assert not hasattr(command, "__dict__")


SECRET = "s3cret"
values = st.recursive(
    st.sampled_from([None, True, 0, 1.5, 4001, "", SECRET, SECRET * 50]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["code", "reason", SECRET]), inner)
    ),
    max_leaves=6,
)
params = st.dictionaries(
    st.sampled_from(["user", "client", "whitelist", "disconnect", SECRET]), values
)


@given(st.sampled_from(["user_connections", "disconnect", SECRET]) | values, params | values)
def test_any_json_is_a_command_or_a_command_error_that_quotes_none_of_it(
    method: JSON, params: JSON
) -> None:
    with suppress(CommandError):
        try:
            read_command(method, params)
        except CommandError as error:
            assert error.code in (ErrorCode.BAD_REQUEST, ErrorCode.METHOD_NOT_FOUND)
            assert SECRET not in said(error)
            raise
