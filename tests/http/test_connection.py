"""What comes before a stream: reading the connect request, and who may connect from which page."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest

from usersessions import ConnectRefused
from usersessions.http.base import Request, Response
from usersessions.http.connection import (
    HTTP_STREAM,
    SSE,
    STREAM_HEADERS,
    WEBSOCKET,
    check_origin,
    read_connect_request,
    remote_address,
)
from usersessions.transports.unidirectional import ConnectMessage, Transport

OVER_HTTP = pytest.mark.parametrize("transport", [HTTP_STREAM, SSE], ids=lambda over: over.name)


def test_transports_have_their_names_media_types_and_framing() -> None:
    assert [(over.name, over.media_type) for over in (HTTP_STREAM, SSE, WEBSOCKET)] == [
        ("uni_http_stream", "application/json"),
        ("uni_sse", "text/event-stream"),
        ("uni_websocket", "application/json"),
    ]
    assert HTTP_STREAM.wrap(b"{}") == b"{}\n"
    assert SSE.wrap(b"{}") == b"data: {}\n\n"
    assert WEBSOCKET.wrap(b"{}") == b"{}"


def test_nobody_may_cache_or_hold_back_a_stream() -> None:
    assert "no-store" in STREAM_HEADERS["cache-control"]
    assert STREAM_HEADERS["x-accel-buffering"] == "no"
    assert STREAM_HEADERS["content-encoding"] == "identity"


@OVER_HTTP
def test_the_body_of_a_post_is_the_connect_request(transport: Transport) -> None:
    request = Request("POST", "cf_connect=nonsense", body=b'{"token": "t", "name": "web"}')
    assert read_connect_request(request, transport) == ConnectMessage(token="t", name="web")


def test_an_event_source_connects_with_a_query_parameter() -> None:
    request = Request("GET", "cf_connect=%7B%22token%22%3A%22t%22%7D", body=b"ignored")
    assert read_connect_request(request, SSE) == ConnectMessage(token="t")


@pytest.mark.parametrize("query", ["", "cf_connect=", "other=1"])
def test_an_event_source_may_connect_without_a_request(query: str) -> None:
    assert read_connect_request(Request("GET", query), SSE) == ConnectMessage()


@pytest.mark.parametrize("query", ["cf_connect=%7B", "cf_connect=%FF", "cf_connect=[]"])
def test_a_query_parameter_that_is_no_connect_request_is_400(query: str) -> None:
    response = read_connect_request(Request("GET", query), SSE)
    assert isinstance(response, Response) and response.status == 400


@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "OPTIONS"])
def test_another_verb_than_post_is_405(verb: str) -> None:
    response = read_connect_request(Request(verb, body=b"{}"), HTTP_STREAM)
    assert isinstance(response, Response)
    assert (response.status, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("verb", ["HEAD", "PUT", "OPTIONS", "get"])
def test_another_verb_than_get_and_post_is_405_for_sse(verb: str) -> None:
    response = read_connect_request(Request(verb, body=b"{}"), SSE)
    assert isinstance(response, Response)
    assert (response.status, response.headers["allow"]) == (405, "GET, POST")
    assert response.body == b"uni_sse takes GET, POST\n"


@OVER_HTTP
def test_a_body_over_64_kib_is_413(transport: Transport) -> None:
    response = read_connect_request(Request("POST", body=None), transport)
    assert isinstance(response, Response) and response.status == 413
    assert response.body == b"a connect request is at most 65536 bytes\n"


@OVER_HTTP
def test_an_encoded_body_is_415(transport: Transport) -> None:
    response = read_connect_request(
        Request("POST", headers={"content-encoding": "gzip"}, body=b"{}"), transport
    )
    assert isinstance(response, Response)
    assert (response.status, response.headers["accept-encoding"]) == (415, "identity")
    assert response.body == b"a connect request must have no content encoding\n"


@OVER_HTTP
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"token": 1}', b'{"name": "\\ud800"}'])
def test_a_body_that_is_empty_malformed_or_of_wrong_types_is_400(
    transport: Transport, body: bytes
) -> None:
    response = read_connect_request(Request("POST", body=body), transport)
    assert isinstance(response, Response) and response.status == 400


def test_a_refused_body_is_not_shown() -> None:
    response = read_connect_request(Request("POST", body=b'{"token": "swordfish", "name": 1}'), SSE)
    assert isinstance(response, Response)
    assert response.body == b"name must be a string, not int\n"


ALLOWED = frozenset({"https://app.example.com"})
CLIENT = "8b232613-302c-4232-b6c6-bca0316e3895"


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "https://api.example.com:8443",
        "http://api.example.com:8443",
        "https://API.Example.com:8443",
    ],
)
def test_the_own_host_and_the_allowed_origins_may_connect_without_a_token(origin: str) -> None:
    check_origin({"origin": origin, "host": "api.example.COM:8443"}, ALLOWED, client=CLIENT)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.example.com",
        "https://app.example.com.evil.com",
        "https://app.example.com:444",
        "http://app.example.com",
        "https://app.example.com/",
        "https://api.example.com",
        "https://api.example.com:8443@evil.com",
        "api.example.com:8443",
        "//api.example.com:8443.evil.com",
        "https://app.example.com, https://evil.example.com",
        "http://[",
        "http://[::1",
        "\xff\xfe",
        "https://",
    ],
)
def test_a_foreign_or_malformed_origin_may_not_connect_without_a_token(origin: str) -> None:
    headers = {"origin": origin, "host": "api.example.com:8443"}
    with pytest.raises(ConnectRefused) as refusal:
        check_origin(headers, ALLOWED, client=CLIENT)
    assert (refusal.value.code, refusal.value.reason) == (3507, "permission denied")
    assert refusal.value.__context__ is None


@pytest.mark.parametrize(
    ("site", "may"),
    [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)],
)
def test_what_a_foreign_page_has_a_browser_get_without_an_origin_may_not_connect(
    site: str, may: bool
) -> None:
    # An image, for instance, or a navigation.
    headers = {"sec-fetch-site": site, "host": "api.example.com:8443", "cookie": "user=42"}
    with nullcontext() if may else pytest.raises(ConnectRefused):
        check_origin(headers, ALLOWED, client=CLIENT)


def test_what_is_no_browser_may_connect_without_a_token() -> None:
    check_origin({}, (), client=CLIENT)


def test_without_a_host_no_origin_is_the_own_one() -> None:
    with pytest.raises(ConnectRefused):
        check_origin({"origin": "https://app.example.com"}, (), client=CLIENT)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (
            # A proxy in front does not keep the host.
            {"origin": "https://shop.example.com", "host": "10.0.0.2:8000"},
            'its page is of the origin "https://shop.example.com", which is neither that of the '
            'host asked, "10.0.0.2:8000", nor one of the allowed origins',
        ),
        (
            {"origin": "null"},
            'its page is of the origin "null", which is neither that of the host asked, "", nor '
            "one of the allowed origins",
        ),
        ({"sec-fetch-site": "cross-site"}, "its page is on another site (cross-site)"),
    ],
    ids=["another origin", "without a host", "no origin"],
)
def test_a_refused_page_is_logged_with_what_it_was_compared_with(
    headers: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "usersessions"), pytest.raises(ConnectRefused):
        check_origin(headers, ALLOWED, client=CLIENT)
    (record,) = caplog.records
    # Anybody can have it logged, so that it is no warning.
    assert record.levelno == logging.INFO
    assert record.getMessage() == f"client {CLIENT} refused: {why}"


@pytest.mark.parametrize("name", ["origin", "host", "sec-fetch-site"])
def test_what_strangers_write_cannot_forge_or_flood_the_log(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    origin = {"origin": "https://evil.example.com"} if name == "host" else {}
    headers = {**origin, name: "\x1b[2Jhttp://a\r\nforged" + "x" * 60_000}
    with caplog.at_level(logging.INFO, "usersessions"), pytest.raises(ConnectRefused):
        check_origin(headers, ALLOWED, client=CLIENT)
    message = caplog.records[0].getMessage()
    assert message.isprintable() and "\\u001b[2Jhttp://a\\u000d\\u000aforgedxx" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("chain", "hops", "address"),
    [
        (None, 0, "10.0.0.1"),
        (None, 1, "10.0.0.1"),
        ("6.6.6.6", 0, "10.0.0.1"),
        ("6.6.6.6, 192.0.2.7", 1, "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7, 10.0.0.2", 2, "192.0.2.7"),
        # Fewer than there are proxies: it did not come through them.
        ("6.6.6.6", 2, "10.0.0.1"),
        ("192.0.2.7, ", 1, "10.0.0.1"),
    ],
)
def test_an_address_is_taken_from_proxies_that_are_trusted_and_no_further(
    chain: str | None, hops: int, address: str
) -> None:
    headers = {} if chain is None else {"x-forwarded-for": chain}
    assert remote_address("10.0.0.1", headers, trusted_hops=hops) == address
    if chain is None:
        assert remote_address(None, headers, trusted_hops=hops) is None
