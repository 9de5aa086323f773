"""Key sets: when they are fetched, by whom, and what is believed meanwhile."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Generator
from functools import cache
from threading import Barrier, Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.secrecy import said
from usersessions.errors import ConfigError, KeysUnavailable, MissingExtraError
from usersessions.fetch import Fetch, Fetched, FetchFailed
from usersessions.flows import Reply, Request, run
from usersessions.jwks import ABANDONED, COOLDOWN, JWKS, MAX_SET_BYTES, NOT_FETCHED
from usersessions.keys import Key

URL = "https://login.example/jwks.json"
TTL = 600.0
MAX_STALE = 3600.0


@cache
def jwk(kid: str | None) -> dict[str, object]:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    found: dict[str, object] = json.loads(ECAlgorithm.to_jwk(public))
    return found if kid is None else {**found, "kid": kid}


def answer(*kids: str | None) -> Fetched:
    return Fetched(200, json.dumps({"keys": [jwk(kid) for kid in kids]}).encode())


def no_fetch(request: Request) -> Reply:
    pytest.fail("nothing is to be fetched here")


class World:
    """A clock, an endpoint that answers what it is told to, and a key set between the two."""

    def __init__(self, *replies: Fetched | FetchFailed) -> None:
        self.now = 1000.0
        self.reply: Fetched | FetchFailed = replies[0] if replies else answer("a")
        self.fetches = 0
        self.jwks = JWKS(
            URL, algorithms="ES256", ttl=TTL, max_stale=MAX_STALE, clock=lambda: self.now
        )

    def fetch(self, request: Request) -> Reply:
        assert isinstance(request, Fetch)
        self.fetches += 1
        return self.reply

    def kids(self, kid: str | None = "a", *, algorithm: str = "ES256") -> list[str | None]:
        keys = run(self.jwks.keys_for(kid, algorithm=algorithm), self.fetch)
        return [key.kid for key in keys]

    def start(self, kid: str | None = "a") -> tuple[Generator[Request, Reply, object], Request]:
        """A flow that waits for its fetch."""
        flow = self.jwks.keys_for(kid, algorithm="ES256")
        return flow, next(flow)

    def at_once(self, kid: str | None = "a") -> list[str | None]:
        """The keys of a flow that must not need to fetch."""
        keys = run(self.jwks.keys_for(kid, algorithm="ES256"), no_fetch)
        return [key.kid for key in keys]


def finish(flow: Generator[Request, Reply, object], reply: Reply) -> list[str | None]:
    with pytest.raises(StopIteration) as end:
        flow.send(reply)
    keys: tuple[Key, ...] = end.value.value
    return [key.kid for key in keys]


BAD = [
    FetchFailed("timed out"),
    Fetched(500, b"{}"),
    Fetched(301, b""),
    Fetched(404, answer("a").body),
    Fetched(204, b""),
    Fetched(200, b""),
    Fetched(200, b"<html>"),
    Fetched(200, b"\xff\xfe"),
    Fetched(200, b"null"),
    Fetched(200, b"[]"),
    Fetched(200, b"{}"),
    Fetched(200, b'{"keys": {}}'),
    Fetched(200, b'{"keys": []}'),
    Fetched(200, b'{"keys": [], "keys": []}'),
    Fetched(200, b'{"keys": [{"kty": "oct", "k": "' + b"A" * 43 + b'", "alg": "ES256"}]}'),
    Fetched(200, b'{"keys": [7, null, {"kty": "EC"}, {"kty": {}}]}'),
    Fetched(200, b'{"keys": [' + b"{}," * 100 + b"{}]}"),
    Fetched(200, b" " * 10_000_000),
    Fetched(200, answer("a").body + b" " * MAX_SET_BYTES),
    Fetched(200, b"[" * 100_000),
]


def test_a_set_is_fetched_once_and_then_known() -> None:
    world = World(answer("a", "b"))
    assert world.kids("a") == ["a"]
    assert world.at_once("b") == ["b"]
    assert world.at_once(None) == ["a", "b"]
    assert world.fetches == 1


def test_the_request_has_its_bounds() -> None:
    _, request = World().start()
    assert isinstance(request, Fetch)
    assert (request.url, request.body, request.timeout) == (URL, None, 5.0)
    assert request.max_bytes == MAX_SET_BYTES


def test_a_key_without_kid_may_be_that_of_any_token() -> None:
    world = World(answer("a", None))
    assert world.kids("b") == [None]
    assert world.at_once("a") == ["a", None]


def test_a_fresh_set_is_not_fetched_again_and_an_old_one_is() -> None:
    world = World()
    world.kids()
    world.now += TTL - 0.001
    assert world.at_once() == ["a"]
    world.now += 0.001
    world.reply = answer("b")
    assert world.kids() == []
    assert world.at_once("b") == ["b"]
    assert world.fetches == 2


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_first_answer_that_is_bad_makes_keys_unavailable(
    bad: Fetched | FetchFailed, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(bad)
    with pytest.raises(KeysUnavailable):
        world.kids()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("usersessions.jwks", logging.WARNING)
    assert record.getMessage().startswith(f"key set {URL} not loaded: ")


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_answer_keeps_the_old_keys_within_a_bound(bad: Fetched | FetchFailed) -> None:
    world = World()
    world.kids()
    world.reply = bad
    world.now += TTL
    assert world.kids() == ["a"]
    assert world.fetches == 2
    world.now += MAX_STALE - 0.001
    assert world.kids() == ["a"]
    world.now += 0.001
    with pytest.raises(KeysUnavailable):
        world.kids()


def test_after_a_failure_the_next_fetch_waits() -> None:
    world = World(FetchFailed("refused"))
    for _ in range(10):
        with pytest.raises(KeysUnavailable):
            world.kids()
    assert world.fetches == 1
    world.reply = answer("a")
    world.now += COOLDOWN - 0.001
    with pytest.raises(KeysUnavailable):
        world.kids()
    assert world.fetches == 1
    world.now += 0.001
    assert world.kids() == ["a"]


def test_a_failing_endpoint_is_asked_once_in_a_while_and_old_keys_serve_meanwhile() -> None:
    world = World()
    world.kids()
    world.reply = FetchFailed("refused")
    world.now += TTL
    for _ in range(300):
        assert world.kids() == ["a"]
        world.now += 1
    assert world.fetches == 1 + 300 / COOLDOWN


def test_an_unknown_kid_starts_a_fetch_but_rarely() -> None:
    world = World()
    world.kids()
    assert world.at_once("b") == []
    world.now += COOLDOWN
    for _ in range(100):
        assert world.kids("b") == []
        assert world.kids("c") == []
    assert world.fetches == 2
    world.now += COOLDOWN
    world.reply = answer("a", "b")
    assert world.kids("b") == ["b"]


def test_an_unknown_kid_is_not_judged_while_its_set_cannot_be_fetched() -> None:
    world = World()
    world.kids()
    world.now += COOLDOWN
    world.reply = FetchFailed("refused")
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            world.kids("b")
    assert world.at_once("a") == ["a"]
    assert world.fetches == 2


def test_a_known_kid_does_not_wait_for_the_look_up_of_an_unknown_one() -> None:
    world = World()
    world.kids()
    world.now += COOLDOWN
    flow, _ = world.start("b")
    assert world.at_once("a") == ["a"]
    assert finish(flow, answer("a", "b")) == ["b"]


def test_while_one_flow_refreshes_the_others_use_the_old_keys() -> None:
    world = World()
    world.kids()
    world.now += TTL
    flow, _ = world.start()
    assert world.at_once() == ["a"]
    assert finish(flow, answer("a", "b")) == ["a"]
    assert world.at_once("b") == ["b"]


def test_flows_that_need_the_same_fetch_share_it() -> None:
    world = World()
    flows, requests = zip(*(world.start() for _ in range(5)), strict=True)
    assert len({id(request) for request in requests}) == 1
    late = answer("a")
    assert finish(flows[0], answer("a", "b")) == ["a"]
    assert world.at_once("b") == ["b"]
    for flow in flows[1:]:
        assert finish(flow, late) == ["a"]
    assert world.at_once("b") == ["b"]


def test_flows_that_share_a_failure_log_it_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    flows = [world.start()[0] for _ in range(5)]
    for flow in flows:
        with pytest.raises(KeysUnavailable):
            flow.send(FetchFailed("refused"))
    assert len(caplog.records) == 1


def test_once_a_fetch_has_landed_nobody_joins_it_any_more() -> None:
    world = World()
    first, second = world.start()[0], world.start()[0]
    finish(first, answer("a"))
    assert world.at_once("b") == []
    finish(second, answer("a"))


def test_a_fetch_goes_on_while_anyone_waits_for_it() -> None:
    world = World()
    first, second = world.start()[0], world.start()[0]
    first.close()
    third, _ = world.start()
    assert finish(second, answer("a")) == ["a"]
    assert finish(third, answer("a")) == ["a"]


def test_an_abandoned_fetch_may_soon_be_tried_again() -> None:
    world = World()
    for _ in range(3):
        flow, _ = world.start()
        flow.close()
        with pytest.raises(KeysUnavailable):
            world.at_once()
        world.now += ABANDONED
    assert world.kids() == ["a"]


def test_an_exception_of_the_answerer_abandons_the_fetch() -> None:
    world = World()
    with pytest.raises(ZeroDivisionError):
        run(world.jwks.keys_for("a", algorithm="ES256"), lambda request: 1 // 0)  # type: ignore[arg-type,return-value]
    world.now += ABANDONED
    with pytest.raises(TypeError):
        run(world.jwks.keys_for("a", algorithm="ES256"), lambda request: Reply())
    world.now += ABANDONED
    assert world.kids() == ["a"]


def test_without_a_network_nothing_is_lost_and_nothing_is_held_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()

    def offline(kid: str) -> list[str | None]:
        keys = run(world.jwks.keys_for(kid, algorithm="ES256"), lambda request: NOT_FETCHED)
        return [key.kid for key in keys]

    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            offline("a")
    assert world.kids() == ["a"]
    world.now += TTL
    assert offline("a") == ["a"]
    with pytest.raises(KeysUnavailable):
        offline("b")
    assert world.kids("b") == []
    assert world.fetches == 2
    assert not caplog.records


def test_another_algorithm_has_no_keys_here() -> None:
    assert World().kids(algorithm="ES384") == []


def test_threads_that_need_the_set_at_once_all_get_it() -> None:
    world = World()
    barrier, results = Barrier(8), []

    def answer_together(request: Request) -> Reply:
        barrier.wait(timeout=10)
        return answer("a")

    def need() -> None:
        keys = run(world.jwks.keys_for("a", algorithm="ES256"), answer_together)
        results.append([key.kid for key in keys])

    threads = [Thread(target=need) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert results == [["a"]] * 8


@pytest.mark.parametrize(
    "url",
    [
        "",
        "login.example",
        "/jwks.json",
        "ftp://login.example/",
        "https://",
        "https:///jwks",
        "https://[::1",
        "https://login.example:port/",
        "https://login.example:99999/",
        "https://login.example/a b",
        "https://login.example/\n",
        "https://lögin.example/",
        None,
        b"https://login.example/",
    ],
)
def test_a_url_must_be_absolute(url: object) -> None:
    with pytest.raises(ConfigError, match="must be an absolute https URL"):
        JWKS(url, algorithms="ES256")  # type: ignore[arg-type]


def test_a_url_is_https_unless_it_is_of_this_machine_or_allowed() -> None:
    for host in ("localhost", "127.0.0.1", "127.8.8.8:80", "[::1]:8000"):
        assert JWKS(f"http://{host}/", algorithms="ES256")
    for host in ("login.example", "10.0.0.1", "localhost.example", "[2001:db8::1]"):
        with pytest.raises(ConfigError, match="must be https"):
            JWKS(f"http://{host}/", algorithms="ES256")
        assert JWKS(f"http://{host}/", algorithms="ES256", insecure_allow_http=True)


@pytest.mark.parametrize(
    "options",
    [
        {"algorithms": []},
        {"algorithms": "none"},
        {"algorithms": "HS256"},
        {"algorithms": ["ES256", "HS256"]},
        {"ttl": COOLDOWN - 1},
        {"ttl": math.inf},
        {"ttl": "600"},
        {"max_stale": -1},
        {"max_stale": math.nan},
        {"timeout": 0},
        {"timeout": True},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        JWKS(URL, **{"algorithms": "ES256", **options})  # type: ignore[arg-type]


def test_the_url_is_shown_without_its_credentials(caplog: pytest.LogCaptureFixture) -> None:
    url = "https://user:pa55word@login.example:8443/jwks?key=s3cret#pa55word"
    jwks = JWKS(url, algorithms="ES256")
    with pytest.raises(KeysUnavailable) as caught:
        run(jwks.keys_for("a", algorithm="ES256"), lambda request: FetchFailed("refused"))
    shown = "https://login.example:8443/jwks"
    assert repr(jwks) == f"JWKS({shown!r})"
    assert repr(JWKS("http://[::1]/a", algorithms="ES256")) == "JWKS('http://[::1]/a')"
    assert shown in caplog.text
    for secret in ("pa55word", "s3cret"):
        assert secret not in caplog.text + said(caught.value) + repr(jwks)
    with pytest.raises(ConfigError) as refused:
        JWKS(url.replace("8443", "port"), algorithms="ES256")
    assert "pa55word" not in said(refused.value)


def test_a_key_set_needs_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"usersessions\[crypto\]"):
        JWKS(URL, algorithms="ES256")
