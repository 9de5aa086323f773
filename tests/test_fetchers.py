"""Outbound HTTP against real servers: within its bounds, whatever they do."""

from __future__ import annotations

import asyncio
import base64
import datetime
import gzip
import importlib
import ipaddress
import logging
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.backends import (
    Backend,
    Behaviour,
    answers,
    backend,
    drips,
    resets,
    says,
    stays_silent,
    unused_port,
    waits_for,
)
from tests.servers import until
from usersessions import fetchers
from usersessions.errors import MissingExtraError
from usersessions.fetch import Fetch, Fetched, FetchFailed
from usersessions.fetchers import AsyncFetcher, BlockingFetcher

Face: TypeAlias = "Callable[[Fetch], Fetched | FetchFailed]"

MAX_BYTES = 65536
DEADLINE = 0.2
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


def get(server: Backend, **headers: str) -> Fetch:
    return Fetch(server.url, timeout=5.0, max_bytes=MAX_BYTES, headers=headers)


async def fetch_once(request: Fetch) -> Fetched | FetchFailed:
    fetcher = AsyncFetcher()
    try:
        return await fetcher.fetch(request)
    finally:
        await fetcher.aclose()


@pytest.fixture(params=["awaited", "blocking"])
def fetch(request: pytest.FixtureRequest) -> Iterator[Face]:
    """Both faces, as a function."""
    if request.param == "awaited":
        yield lambda exchange: asyncio.run(fetch_once(exchange))
    else:
        fetcher = BlockingFetcher()
        yield fetcher.fetch
        fetcher.close()


# Exchanges ---------------------------------------------------------------------------------------


def test_a_get_gives_status_and_body(fetch: Face) -> None:
    with backend(answers(b'{"keys": []}')) as server:
        assert fetch(get(server, Accept="text/plain")) == Fetched(200, b'{"keys": []}')
    (received,) = server.received
    assert (received.method, received.target, received.body) == ("GET", "/connect", b"")
    assert received.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "text/plain",
        "accept-encoding": "identity",
        "user-agent": "usersessions",
    }


def test_a_body_is_posted_with_the_headers_of_the_request(fetch: Face) -> None:
    with backend(answers(b"ok")) as server:
        request = Fetch(
            server.url, timeout=5.0, max_bytes=10, body=b"{}", headers={"X-N": "caf\xe9"}
        )
        assert fetch(request) == Fetched(200, b"ok")
    (received,) = server.received
    assert (received.method, received.body, received.headers["x-n"]) == ("POST", b"{}", "café")


def test_a_redirect_is_an_answer_and_is_not_followed(fetch: Face) -> None:
    with backend(answers(status="302 Found", headers={"Location": "/elsewhere"})) as server:
        assert fetch(get(server)) == Fetched(302, b"")
        assert len(server.received) == 1


def test_an_error_status_is_an_answer(fetch: Face) -> None:
    with backend(answers(b"oops", status="500 Internal Server Error")) as server:
        assert fetch(get(server)) == Fetched(500, b"oops")


def test_a_body_may_have_the_full_length_and_no_byte_more(fetch: Face) -> None:
    with backend(answers(b"x" * MAX_BYTES)) as server:
        assert fetch(get(server)) == Fetched(200, b"x" * MAX_BYTES)
    with backend(answers(b"x" * (MAX_BYTES + 1))) as server:
        assert fetch(get(server)) == FetchFailed("answered over 65536 bytes")


def test_an_endless_body_is_left_early(fetch: Face) -> None:
    with backend(drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 50_000)) as server:
        assert fetch(get(server)) == FetchFailed("answered over 65536 bytes")


def test_a_compressed_answer_is_not_unpacked(fetch: Face) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    with backend(answers(bomb, headers={"Content-Encoding": "gzip"})) as server:
        assert fetch(get(server)) == FetchFailed(
            "answered in an encoding that it was not asked for"
        )


# Servers that misbehave --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behave",
    [
        stays_silent,
        drips(b"HTTP/1.1 200 OK\r\n", b"X-Drop: 1\r\n"),
        drips(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drips(HEAD, b"x"),
        drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["silence", "headers", "interim answers", "body", "chunks"],
)
def test_a_slow_server_cannot_outlast_the_deadline(fetch: Face, behave: Behaviour) -> None:
    with backend(behave) as server:
        begun = time.monotonic()
        reply = fetch(Fetch(server.url, timeout=DEADLINE, max_bytes=MAX_BYTES))
        assert DEADLINE <= time.monotonic() - begun < DEADLINE + 1.0
    assert reply == FetchFailed("timed out")


@pytest.mark.parametrize(
    ("behave", "why"),
    [
        (resets, "the connection broke"),
        (says(b""), "answered with broken or incomplete HTTP"),
        (says(b"\x00\xff\x00 not HTTP at all\r\n\r\n"), "answered with broken or incomplete HTTP"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Le"), "answered with broken or incomplete HTTP"),
        (says(HEAD + b"cut short"), "answered with broken or incomplete HTTP"),
        (
            says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000),
            "answered with broken or incomplete HTTP",
        ),
    ],
    ids=["reset", "hung up", "garbage", "cut head", "cut body", "endless header"],
)
def test_a_broken_exchange_is_a_failure_with_a_reason(
    fetch: Face, behave: Behaviour, why: str
) -> None:
    with backend(behave) as server:
        assert fetch(get(server)) == FetchFailed(why)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:{port}/", "connection refused"),
        ("http://localhost:{port}/", "connection refused"),
        ("http://nowhere.invalid/", "host not found"),
        ("http:///nowhere", "host not found"),
        ("ftp://127.0.0.1/", "the request cannot be sent (UnsupportedProtocol)"),
        ("http://127.0.0.1:99999/", "the request cannot be sent (ExceptionGroup)"),
        ("http://127.0.0.1:port/", "the request cannot be sent (InvalidURL)"),
        ("", "the request cannot be sent (UnsupportedProtocol)"),
        ("http://" + "x" * 300 + "/", "host not found"),
    ],
)
def test_an_address_that_cannot_be_reached_is_a_failure(fetch: Face, url: str, why: str) -> None:
    address = url.format(port=unused_port())
    assert fetch(Fetch(address, timeout=5.0, max_bytes=1)) == FetchFailed(why)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"x": "snow ☃"}, "UnicodeEncodeError"),
        ({"ü": "1"}, "UnicodeEncodeError"),
        ({"x": "a\r\nsmuggled: 1"}, "LocalProtocolError"),
        ({"a b": "1"}, "LocalProtocolError"),
        ({"": "1"}, "LocalProtocolError"),
    ],
)
def test_a_header_that_http_cannot_carry_is_not_sent(
    fetch: Face, headers: dict[str, str], error: str
) -> None:
    with backend(answers()) as server:
        reply = fetch(get(server, **headers))
    assert reply == FetchFailed(f"the request cannot be sent ({error})")
    assert server.received == []


# What is not sent and not said -------------------------------------------------------------------


def test_credentials_of_the_url_are_sent_as_basic_authentication(fetch: Face) -> None:
    with backend(answers()) as server:
        url = server.url.replace("//", "//ann:p%40ss@")
        fetch(Fetch(url, timeout=5.0, max_bytes=1))
        fetch(Fetch(url, timeout=5.0, max_bytes=1, headers={"Authorization": "Bearer abc"}))
    first, second = server.received
    assert first.headers["authorization"] == "Basic " + base64.b64encode(b"ann:p@ss").decode()
    assert second.headers["authorization"] == "Bearer abc"


def test_the_environment_and_cookies_have_no_say(
    fetch: Face, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    with backend(answers(headers={"Set-Cookie": "who=somebody"})) as server:
        assert fetch(get(server)) == Fetched(200, b"")
        assert fetch(get(server)) == Fetched(200, b"")
    for received in server.received:
        assert not {"cookie", "authorization"} & set(received.headers)


def test_no_log_line_of_any_level_has_a_secret(
    fetch: Face, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with backend(answers(b"answer-secret")) as server:
        request = Fetch(
            server.url.replace("//", "//ann:url-secret@") + "?key=query-secret",
            timeout=5.0,
            max_bytes=100,
            body=b"body-secret",
            headers={"cookie": "header-secret"},
        )
        assert fetch(request) == Fetched(200, b"answer-secret")
    assert "secret" not in caplog.text
    assert base64.b64encode(b"ann:url-secret").decode() not in caplog.text


# TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that only itself vouches for, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(
    fetch: Face, server_tls: ssl.SSLContext
) -> None:
    with backend(answers(), tls=server_tls) as server:
        assert fetch(get(server)) == FetchFailed("TLS failed")
    assert server.received == []


def test_an_app_may_name_its_own_authority(server_tls: ssl.SSLContext, certificate: Path) -> None:
    fetcher = BlockingFetcher(tls=ssl.create_default_context(cafile=certificate))
    with backend(answers(b"hello"), tls=server_tls) as server:
        assert fetcher.fetch(get(server)) == Fetched(200, b"hello")
        fetcher.close()


# Single flight -----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_equal_gets_in_flight_are_one_exchange() -> None:
    gate = threading.Event()
    fetcher = AsyncFetcher()
    with backend(waits_for(gate, answers(b"one"))) as server:
        waiting = [asyncio.create_task(fetcher.fetch(get(server))) for _ in range(20)]
        await asyncio.to_thread(server.asked.wait, 5.0)
        gate.set()
        assert await asyncio.gather(*waiting) == [Fetched(200, b"one")] * 20
        assert len(server.received) == 1
        assert await fetcher.fetch(get(server)) == Fetched(200, b"one")
        assert len(server.received) == 2
        assert server.connections == 1
        await fetcher.aclose()


def test_equal_gets_of_many_threads_are_one_exchange() -> None:
    gate = threading.Event()
    fetcher = BlockingFetcher()
    replies: list[Fetched | FetchFailed] = []
    with backend(waits_for(gate, answers(b"one"))) as server:
        threads = [
            threading.Thread(target=lambda: replies.append(fetcher.fetch(get(server))))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        until(lambda: _waiting(fetcher) == 20, what="all threads to wait")
        gate.set()
        for thread in threads:
            thread.join()
        fetcher.close()
    assert replies == [Fetched(200, b"one")] * 20
    assert len(server.received) == 1


def _waiting(fetcher: BlockingFetcher) -> int:
    for thread in list(fetcher._threads.values()):
        if thread._running is not None and (wire := thread._running[0]._wire) is not None:
            return sum(flight.waiters for flight in list(wire._flights.values()))
    return 0


@pytest.mark.anyio
async def test_posts_and_different_gets_are_exchanges_of_their_own() -> None:
    fetcher = AsyncFetcher()
    with backend(answers(b"each")) as server:
        post = Fetch(server.url, timeout=5.0, max_bytes=10, body=b"{}")
        requests = [post, post, get(server), get(server, cookie="a"), get(server, cookie="b")]
        replies = await asyncio.gather(*map(fetcher.fetch, requests))
        assert replies == [Fetched(200, b"each")] * 5
        assert len(server.received) == 5
        await fetcher.aclose()


@pytest.mark.anyio
async def test_a_cancelled_waiter_cancels_no_other() -> None:
    gate = threading.Event()
    fetcher = AsyncFetcher()
    with backend(waits_for(gate, answers(b"still"))) as server:
        first, second = (asyncio.create_task(fetcher.fetch(get(server))) for _ in range(2))
        await asyncio.to_thread(server.asked.wait, 5.0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        assert await second == Fetched(200, b"still")
        assert len(server.received) == 1
        await fetcher.aclose()


@pytest.mark.anyio
async def test_an_exchange_ends_when_nobody_waits_for_it() -> None:
    fetcher = AsyncFetcher()
    with backend(stays_silent) as server:
        waiting = [asyncio.create_task(fetcher.fetch(get(server))) for _ in range(2)]
        await asyncio.to_thread(server.asked.wait, 5.0)
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*waiting, return_exceptions=True)
        )
        assert await asyncio.to_thread(server.hung_up.wait, 5.0)
        await fetcher.aclose()


@pytest.mark.anyio
async def test_a_late_waiter_cannot_lengthen_an_exchange() -> None:
    fetcher = AsyncFetcher()
    with backend(stays_silent) as server:
        request = Fetch(server.url, timeout=0.5, max_bytes=1)
        begun = time.monotonic()
        early = asyncio.create_task(fetcher.fetch(request))
        await asyncio.wait({early}, timeout=0.25)
        assert await fetcher.fetch(request) == FetchFailed("timed out")
        assert await early == FetchFailed("timed out")
        assert time.monotonic() - begun < 0.74
        assert len(server.received) == 1
        await fetcher.aclose()


# Loops, threads and processes --------------------------------------------------------------------


@pytest.mark.anyio
async def test_closing_ends_what_is_in_flight_and_a_later_fetch_works() -> None:
    gate = threading.Event()
    fetcher = AsyncFetcher()
    with backend(waits_for(gate, answers(b"later"))) as server:
        waiting = asyncio.create_task(fetcher.fetch(get(server)))
        await asyncio.to_thread(server.asked.wait, 5.0)
        await fetcher.aclose()
        assert await waiting == FetchFailed("the fetcher was closed")
        gate.set()
        assert await fetcher.fetch(get(server)) == Fetched(200, b"later")
        await fetcher.aclose()
        await fetcher.aclose()


def test_a_fetcher_serves_one_event_loop_after_another() -> None:
    fetcher = AsyncFetcher()
    with backend(answers(b"bye", headers={"Connection": "close"})) as server:
        assert asyncio.run(fetcher.fetch(get(server))) == Fetched(200, b"bye")
        assert asyncio.run(fetcher.fetch(get(server))) == Fetched(200, b"bye")
        asyncio.run(fetcher.aclose())
        assert asyncio.run(fetcher.fetch(get(server))) == Fetched(200, b"bye")
        assert server.connections == 3


def _fetcher_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("usersess")]


def test_the_thread_starts_with_the_first_fetch_and_ends_at_close() -> None:
    fetcher = BlockingFetcher()
    assert _fetcher_threads() == []
    with backend(answers(b"hello")) as server:
        assert fetcher.fetch(get(server)) == Fetched(200, b"hello")
        assert fetcher.fetch(get(server)) == Fetched(200, b"hello")
        assert _fetcher_threads() == ["usersessions-fetcher"]
        fetcher.close()
        assert _fetcher_threads() == []
        assert fetcher.fetch(get(server)) == Fetched(200, b"hello")
        fetcher.close()
        fetcher.close()
        assert _fetcher_threads() == []


def test_closing_frees_the_threads_that_wait() -> None:
    fetcher = BlockingFetcher()
    replies: list[Fetched | FetchFailed] = []
    with backend(stays_silent) as server:
        thread = threading.Thread(target=lambda: replies.append(fetcher.fetch(get(server))))
        thread.start()
        server.asked.wait(5.0)
        fetcher.close()
        thread.join(5.0)
    assert replies == [FetchFailed("the fetcher was closed")]


def test_a_fetch_that_loses_the_race_with_close_starts_no_thread() -> None:
    thread = fetchers._LoopThread(None)
    thread.end()
    request = Fetch("http://127.0.0.1/", timeout=1.0, max_bytes=1)
    assert thread.fetch(request) == FetchFailed("the fetcher was closed")
    assert _fetcher_threads() == []


class Interrupted(BaseException):
    """Stands for a KeyboardInterrupt."""


def test_an_interrupted_thread_ends_its_exchange() -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    fetcher = BlockingFetcher()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with backend(stays_silent) as server:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Interrupted):
                fetcher.fetch(get(server))
            assert server.hung_up.wait(5.0)
            fetcher.close()
    finally:
        signal.signal(signal.SIGALRM, before)


FORK = """
import os, sys, threading
from usersessions.fetch import Fetch
from usersessions.fetchers import BlockingFetcher

request = Fetch(sys.argv[1], timeout=5.0, max_bytes=100)
fetcher = BlockingFetcher()
print("parent", fetcher.fetch(request).status, flush=True)
child = os.fork()
if child == 0:
    assert threading.active_count() == 1
    print("child", fetcher.fetch(request).status, flush=True)
    fetcher.close()
    assert threading.active_count() == 1
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", fetcher.fetch(request).status, flush=True)
fetcher.close()
"""


def test_a_forked_child_fetches_with_a_thread_of_its_own() -> None:
    with backend(answers(b"hello")) as server:
        ran = subprocess.run(
            [sys.executable, "-c", FORK, server.url], capture_output=True, text=True, timeout=30
        )
        assert (ran.returncode, ran.stdout.split()) == (
            0,
            ["parent", "200", "child", "200", "parent", "200"],
        ), ran.stderr
        assert server.connections == 2


def test_without_httpx_the_module_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "usersessions.fetchers")
    with pytest.raises(MissingExtraError, match=r'pip install "usersessions\[httpx\]"'):
        importlib.import_module("usersessions.fetchers")
