"""Several workers that keep their sessions in memory: said once by each, on real servers too."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.adapters.apps import shared
from tests.adapters.apps.shared import Target
from tests.adapters.serving import ENVIRONMENT
from tests.redis_servers import RedisServer
from tests.servers import serving, until
from tests.standins import SharedStandIn
from tests.streams import ask
from usersessions import MemoryStore
from usersessions.http.workers import has_other_workers, warn_of_other_workers

SAID = "this server has several worker processes"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says that there are others, not even the runner of the tests."""
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["a-server"])
    monkeypatch.delitem(sys.modules, "gunicorn.arbiter", raising=False)


def test_nothing_says_that_a_process_has_others_beside_it() -> None:
    assert not has_other_workers()


@pytest.mark.parametrize(
    ("value", "others"),
    [("2", True), ("1", False), ("0", False), ("", False), ("auto", False), ("\u0662", False)],
)
def test_web_concurrency_says_how_many_there_are(
    value: str, others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", value)
    assert has_other_workers() is others


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        ({"config": SimpleNamespace(workers=4)}, True),
        ({"config": SimpleNamespace(workers=1)}, False),
        ({"config": SimpleNamespace(workers=None)}, False),
        ({"config": object()}, False),
        ({}, False),
    ],
    ids=range(5),
)
def test_a_server_hands_its_configuration_to_its_workers(
    arguments: Mapping[str, Any], others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = SimpleNamespace(_kwargs=arguments)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: worker)
    assert has_other_workers() is others


@pytest.mark.parametrize(
    ("argv", "arguments", "workers", "others"),
    [
        (["--workers", "2"], "", {}, True),
        (["--workers=2"], "", {}, True),
        (["-w", "2"], "", {}, True),
        (["-w2"], "", {}, True),
        (["-w", "1"], "", {}, False),
        (["--threads=8"], "", {}, False),
        (["--workers-of-mine=2"], "", {}, False),
        (["app:app", "2"], "", {}, False),
        ([], "--threads=8 --workers=2", {}, True),
        ([], "--name='two words' -w 2", {}, True),
        ([], "--name='unended -w 2", {}, False),
        # Its configuration file said so, which nobody sees.
        ([], "", {41: "a worker that was started before"}, True),
        ([], "", {}, False),
    ],
    ids=range(13),
)
def test_gunicorn_was_told_how_many_to_start(
    argv: list[str],
    arguments: str,
    workers: dict[int, str],
    others: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["gunicorn", *argv])
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    # What is said to another program is no matter.
    assert not has_other_workers()
    arbiter = SimpleNamespace(Arbiter=SimpleNamespace(WORKERS=workers))
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", arbiter)
    assert has_other_workers() is others


@pytest.mark.parametrize(
    ("store", "told", "concurrency", "warned"),
    [
        (MemoryStore(), True, "1", 1),
        (MemoryStore(), False, "2", 1),
        (MemoryStore(), False, "1", 0),
        (SharedStandIn(), True, "2", 0),
    ],
    ids=range(4),
)
def test_it_is_said_of_a_store_in_memory_alone(
    store: object,
    told: bool,
    concurrency: str,
    warned: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    with caplog.at_level(logging.WARNING):
        warn_of_other_workers(store, told=told)
    messages = [one.getMessage() for one in caplog.records]
    assert [SAID in one and "RedisStore" in one for one in messages] == [True] * warned


# Real servers -------------------------------------------------------------------------------------

SERVERS: dict[str, tuple[Target, dict[str, str]]] = {
    "gunicorn": (shared.gunicorn("wsgi:plain", "", "--workers=2", "--threads=2"), {}),
    "gunicorn, by its variable": (
        shared.gunicorn("wsgi:plain"),
        {"GUNICORN_CMD_ARGS": "--workers 2"},
    ),
    "gunicorn, by the platform's variable": (
        shared.gunicorn("wsgi:plain"),
        {"WEB_CONCURRENCY": "2"},
    ),
    "uvicorn": (shared.uvicorn("plain:plain", "", "--workers=2"), {}),
    "hypercorn": (shared.hypercorn("plain:plain", "", "--workers=2"), {}),
}


@pytest.mark.parametrize("name", SERVERS)
def test_each_worker_of_a_real_server_says_it_once(name: str, tmp_path: Path) -> None:
    target, variables = SERVERS[name]
    with serving(target.command, log=tmp_path / "log", env={**ENVIRONMENT, **variables}) as server:

        def asked_until(probe: Callable[[], bool]) -> None:
            # Those of WSGI say it with the first request that each of them serves.
            def asked() -> bool:
                assert ask(server.url, "/api", body=b"{}").status == 401
                return probe()

            until(asked, what="each worker to say so", seconds=20.0)

        asked_until(lambda: server.output.count(SAID) == 2)
        for _ in range(10):
            ask(server.url, "/api", body=b"{}")
        assert server.output.count(SAID) == 2
        said = [line for line in server.output.splitlines() if SAID in line]
        assert all("RedisStore" in line for line in said)


@pytest.mark.parametrize(
    "target",
    [
        shared.gunicorn("wsgi:plain", "", "--workers=2"),
        shared.uvicorn("plain:plain", "", "--workers=2"),
    ],
    ids=["gunicorn", "uvicorn"],
)
def test_workers_that_share_a_redis_say_nothing(target: Target, tmp_path: Path) -> None:
    with RedisServer() as redis:
        env = {**ENVIRONMENT, "REDIS_URL": redis.url}
        with serving(target.command, log=tmp_path / "log", env=env) as server:
            for _ in range(20):
                assert ask(server.url, "/api", body=b"{}").status == 401
            assert SAID not in server.output


@pytest.mark.parametrize(
    "target",
    [shared.gunicorn("wsgi:plain", "", "--threads=4"), shared.uvicorn("plain:plain")],
    ids=["gunicorn", "uvicorn"],
)
def test_a_single_worker_says_nothing(target: Target, tmp_path: Path) -> None:
    with serving(target.command, log=tmp_path / "log", env=ENVIRONMENT) as server:
        assert ask(server.url, "/api", body=b"{}").status == 401
        assert SAID not in server.output
