"""The neutral request and response."""

from __future__ import annotations

import pytest

from usersessions.http.base import MAX_BODY_BYTES, Request, Response, body_of, text


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("", None),
        ("b=1", None),
        ("a", None),
        ("a=", None),
        ("a=1", "1"),
        ("b=2&a=1", "1"),
        ("a=1&a=2", "1"),
        ("a=%7B%22x%22%3A+1%7D", '{"x": 1}'),
        ("a=%C3%A9", "é"),
        ("a=%FF%", "\N{REPLACEMENT CHARACTER}%"),
        ("a=1;b=2", "1;b=2"),
        ("\xff=\xe9&a=\xe9", "\xe9"),
        ("&&&a=1", "1"),
    ],
)
def test_a_parameter_is_the_first_of_its_name_decoded(query: str, value: str | None) -> None:
    assert Request("GET", query).parameter("a") == value


def test_a_query_of_very_many_fields_has_no_parameters() -> None:
    assert Request("GET", "&".join(["b=1"] * 63 + ["a=1"])).parameter("a") == "1"
    assert Request("GET", "&".join(["b=1"] * 64 + ["a=1"])).parameter("a") is None


def test_requests_and_responses_show_nothing_that_could_be_secret() -> None:
    request = Request("GET", "api_key=swordfish", {"x-api-key": "swordfish"}, b"swordfish")
    assert repr(request) == "Request(method='GET')"
    assert "swordfish" not in repr(Response(200, b"swordfish"))


def test_a_response_of_text_is_a_line_of_utf_8() -> None:
    assert text(405, "né", {"allow": "POST"}) == Response(
        405, b"n\xc3\xa9\n", {"content-type": "text/plain; charset=utf-8", "allow": "POST"}
    )
    assert text(400, "no").headers == {"content-type": "text/plain; charset=utf-8"}


def test_a_body_is_at_most_64_kib() -> None:
    assert MAX_BODY_BYTES == 64 * 1024


@pytest.mark.parametrize("coding", [None, "", "identity", "Identity"])
def test_a_body_is_given_as_it_came(coding: str | None) -> None:
    headers = {} if coding is None else {"content-encoding": coding}
    assert body_of(Request("POST", headers=headers, body=b"{}"), "a body") == b"{}"


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip", "gzip, identity", "x"])
@pytest.mark.parametrize("body", [b"{}", None])
def test_a_body_with_a_content_coding_is_415_and_says_which_one_is_taken(
    coding: str, body: bytes | None
) -> None:
    request = Request("POST", headers={"content-encoding": coding}, body=body)
    assert body_of(request, "a body") == text(
        415, "a body must have no content encoding", {"accept-encoding": "identity"}
    )


def test_a_body_that_is_too_large_is_413() -> None:
    assert body_of(Request("POST", body=None), "a body") == text(
        413, "a body is at most 65536 bytes"
    )
