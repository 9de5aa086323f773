"""An HTTP exchange as a request of a flow."""

from __future__ import annotations

import pytest

from usersessions.fetch import Fetch, Fetched, FetchFailed
from usersessions.flows import Flow, Reply, run

FETCH = Fetch("https://login.example/keys", timeout=1.0, max_bytes=1024)


def flow() -> Flow[Fetched | FetchFailed]:
    return (yield from FETCH)


@pytest.mark.parametrize(
    "reply", [Fetched(200, b"{}"), Fetched(302, b""), FetchFailed("timed out")]
)
def test_a_fetch_gives_the_answer_or_why_there_is_none(reply: Reply) -> None:
    assert run(flow(), lambda request: reply) is reply


def test_the_request_is_the_fetch_itself() -> None:
    assert next(flow()) is FETCH


def test_a_reply_to_something_else_is_named() -> None:
    with pytest.raises(TypeError, match=r"^expected the reply of a fetch, got Reply$"):
        run(flow(), lambda request: Reply())


def test_without_a_body_a_fetch_is_a_get_of_no_special_headers() -> None:
    assert FETCH.body is None
    assert FETCH.headers == {}


def test_no_repr_shows_a_url_a_body_or_a_header() -> None:
    secret = "s3cret"
    fetch = Fetch(
        f"https://user:{secret}@login.example/",
        timeout=1.5,
        max_bytes=1024,
        body=secret.encode(),
        headers={"authorization": secret},
    )
    assert repr(fetch) == "Fetch(timeout=1.5, max_bytes=1024)"
    assert repr(Fetched(200, secret.encode())) == "Fetched(status=200)"
