"""What the tests of this folder are given: each of them runs over all stores and faces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

from tests.conformance.stores import SETUPS, Clock, Combined, Setup
from tests.faults.proxy import Proxy
from tests.redis_servers import RedisServer

DELAY_SECONDS = 0.002


@pytest.fixture(scope="module")
def slow_redis(redis_of_module: RedisServer) -> Iterator[str]:
    """Where to find the module's Redis so that it takes its time."""
    with Proxy(redis_of_module.url) as proxy:
        proxy.delay(DELAY_SECONDS)
        yield proxy.url


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def setup(request: pytest.FixtureRequest) -> Setup:
    """How stores and faces are combined."""
    chosen: Setup = request.param
    return chosen


@pytest.fixture
def url(request: pytest.FixtureRequest, setup: Setup) -> str:
    """Where Redis is; nowhere if it is not needed."""
    if setup.store == "memory":
        return ""
    if setup.store == "redis":
        server: RedisServer = request.getfixturevalue("redis_of_module")
        return server.url
    behind: str = request.getfixturevalue("slow_redis")
    return behind


@pytest.fixture
def clock(setup: Setup) -> Clock:
    """What a face takes for the time, unless it is made with another one."""
    return Clock(is_real=setup.store != "memory")


@pytest.fixture
async def make(
    setup: Setup, url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Callable[..., Any], None]:
    """Make a face, closed after the test: `make(**settings of the facade)`."""
    # What is done where Redis takes longer than this is another test's; here, a busy machine must
    # not make the difference.
    monkeypatch.setattr("usersessions.stores.redis.registering.PATIENCE_SECONDS", 5.0)
    faces: list[Combined] = []

    def build(*arguments: Any, clock: Callable[[], float] = clock, **settings: Any) -> Combined:
        faces.append(Combined(setup, url, clock, *arguments, **settings))
        return faces[-1]

    yield build
    for face in faces:
        await face.aclose(timeout=0)
