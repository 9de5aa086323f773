"""Who opens a connection of the app's own, and from which app: what a handshake says."""

from __future__ import annotations

from typing import Any

import pytest

from usersessions import AsyncUserSessions, ConnectRefused, ConnectRequest, Identity, InvalidValue
from usersessions.http.base import Request
from usersessions.http.handshakes import Handshakes, identity_of, without_token


def asked(query: str = "", **said: Any) -> ConnectRequest:
    """What is decided on, where user 42 makes a handshake with a query."""
    handshakes = Handshakes(AsyncUserSessions().operations, trusted_hops=1)
    headers = {"x-forwarded-for": "6.6.6.6, 192.0.2.7"}
    flow = handshakes.admit(
        Request("GET", query, headers), transport="socket", peer="10.0.0.1", who="42", **said
    )
    with pytest.raises(StopIteration) as stopped:
        next(flow)
    request: ConnectRequest = stopped.value.value.request
    return request


def test_a_handshake_says_over_what_and_from_where_it_comes() -> None:
    request = asked()
    assert (request.transport, request.remote_addr) == ("socket", "192.0.2.7")
    assert (request.name, request.version) == (None, None)


@pytest.mark.parametrize(
    ("query", "said", "name", "version"),
    [
        ("app_name=web&room=5&app_version=1.2", {}, "web", "1.2"),
        ("app_name=caf%C3%A9+one", {}, "café one", None),
        ("app_name=&app_version=1", {}, None, "1"),
        ("app_name=first&app_name=second", {}, "first", None),
        (f"app_name={'x' * 255}", {}, "x" * 255, None),
        ("app_name=web&app_version=1", {"app_name": "shop"}, "shop", "1"),
        ("app_name=web&app_version=1", {"app_version": "2"}, "web", "2"),
        (f"app_name={'x' * 256}", {"app_name": "shop"}, "shop", None),
        ("app_name=web", {"app_name": "", "app_version": ""}, "", ""),
    ],
)
def test_from_which_app_is_what_the_app_says_or_else_the_client(
    query: str, said: dict[str, str], name: str | None, version: str | None
) -> None:
    request = asked(query, **said)
    assert (request.name, request.version) == (name, version)


@pytest.mark.parametrize("parameter", ["app_name", "app_version"])
def test_a_client_that_says_what_cannot_be_has_made_a_bad_request(parameter: str) -> None:
    with pytest.raises(ConnectRefused) as refused:
        asked(f"{parameter}={'x' * 256}")
    assert (refused.value.code, refused.value.reason) == (3501, "bad request")


@pytest.mark.parametrize("parameter", ["app_name", "app_version"])
@pytest.mark.parametrize("value", ["x" * 256, "\ud800", 5])
def test_an_app_that_says_what_cannot_be_is_told_so(parameter: str, value: object) -> None:
    with pytest.raises(InvalidValue):
        asked(f"{parameter}=web", **{parameter: value})


def test_an_app_says_who_it_is_by_an_identity_a_user_id_or_not_at_all() -> None:
    identity = Identity("42", meta={"plan": "pro"})
    assert identity_of(identity) is identity
    assert identity_of("42") == Identity("42")
    assert identity_of(None) is None


@pytest.mark.parametrize("who", [424242, True, 0, b"424242", object()])
def test_a_user_id_that_is_no_string_is_refused_with_how_to_make_it_one(who: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        identity_of(who)
    assert str(refused.value) == (
        "`who`, or what `identify` gives, must be an Identity or a user ID as a string, "
        f"not {type(who).__name__}: for example str(user.id)"
    )


def test_a_query_keeps_all_but_its_token() -> None:
    assert without_token("") == ""
    assert without_token("access_token=a&b=%20&access%5Ftoken=c&d") == "b=%20&d"
