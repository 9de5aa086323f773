"""The stores under the faces: each test of this folder runs once for every way to combine them.

1. A face may be two: one facade holds the connections, another one lists and closes. They are on
   one node, or on two that know of each other by Redis alone.
2. What a test asserts holds at once, with three exceptions, for which `Combined` has methods. By
   Redis, sessions are told to end a moment after it was asked for, and nodes say what they hold
   with each sign of life; on another node, sessions disappear a moment after they have ended.
3. Each face has a prefix of its own in Redis, so that no test sees what another one left.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.conformance.faces import AsyncFace, BlockingFace
from usersessions import Key, MemoryStore, RedisStore, TokenVerifier

__all__ = [
    "APART",
    "BESIDE",
    "FORKED",
    "ON_LOOPS",
    "ON_MEMORY",
    "ON_ONE_NODE",
    "ON_REDIS",
    "SECRET",
    "SETUPS",
    "WITH_ENDS",
    "Clock",
    "Combined",
    "Setup",
    "over",
    "until",
    "verifier",
]

SECRET = "a secret of at least thirty-two bytes"
LEASE = 1.5
WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Setup:
    """One way to combine stores and faces.

    Attributes:
        store: in memory, in Redis, or in Redis behind a proxy that delays whatever goes through.
        connecting: the face that holds connections.
        acting: the face that lists and closes; None is the same object.
        nodes: how many nodes these are.
    """

    store: Literal["memory", "redis", "slow redis"]
    connecting: type[Any]
    acting: type[Any] | None = None
    nodes: int = 1

    @property
    def name(self) -> str:
        """What pytest calls it."""
        faces = [one.__name__ for one in (self.connecting, self.acting) if one is not None]
        apart = "over" if self.nodes > 1 else "beside"
        return f"{self.store.replace(' ', '-')}-{f'-{apart}-'.join(faces)}"


SETUPS = [
    Setup("memory", BlockingFace),
    Setup("memory", AsyncFace),
    Setup("memory", AsyncFace, BlockingFace),
    Setup("redis", BlockingFace),
    Setup("redis", AsyncFace),
    Setup("redis", AsyncFace, BlockingFace),
    Setup("redis", BlockingFace, AsyncFace, nodes=2),
    Setup("redis", AsyncFace, AsyncFace, nodes=2),
    Setup("slow redis", AsyncFace, BlockingFace, nodes=2),
]

ON_MEMORY = [one for one in SETUPS if one.store == "memory"]
ON_REDIS = [one for one in SETUPS if one.store != "memory"]
ON_ONE_NODE = [one for one in SETUPS if one.nodes == 1]
APART = [one for one in SETUPS if one.nodes > 1]
BESIDE = [one for one in SETUPS if one.acting is not None and one.nodes == 1]
ON_LOOPS = [one for one in SETUPS if BlockingFace not in (one.connecting, one.acting)]

FORKED = [Setup("memory", BlockingFace), Setup("redis", BlockingFace)]

# Redis compares the ends of blocks and revocations with its own clock, which nobody can set. What
# waits for them really waits there, and so on two nodes alone.
WITH_ENDS = [*ON_MEMORY, Setup("redis", AsyncFace, BlockingFace, nodes=2)]


class Clock:
    """Seconds since the epoch, as a test says; they begin with now, by which Redis goes.

    Args:
        is_real: whether what ends is compared with another clock, too, which nobody can set.
    """

    def __init__(self, *, is_real: bool) -> None:
        self.now = float(int(time.time()))
        self._is_real = is_real

    def __call__(self) -> float:
        return self.now

    def soon(self) -> float:
        """A moment that `reach` gets to in a short time, and nothing else in that time."""
        return time.time() + 1.5 if self._is_real else self.now + 60

    async def reach(self, moment: float) -> None:
        """Have it be that moment."""
        if self._is_real:
            await until(lambda: time.time() >= moment)
        self.now = moment


class Combined:
    """The faces of one setup as one face.

    Args:
        setup: which ones.
        url: where Redis is, if it is needed.
        clock: what the nodes take for the time.
        arguments: of both facades, as are the settings.
    """

    def __init__(
        self,
        setup: Setup,
        url: str,
        clock: Callable[[], float],
        *arguments: Any,
        **settings: Any,
    ) -> None:
        prefix = secrets.token_hex(8)
        stores: list[Any] = [
            MemoryStore(clock=clock)
            if setup.store == "memory"
            else RedisStore(url, prefix=prefix, lease=LEASE, clock=clock)
            for _ in range(setup.nodes)
        ]
        self._setup = setup
        self.connecting = setup.connecting(*arguments, store=stores[0], **settings)
        self.acting = self.connecting
        if setup.acting is not None:
            self.acting = setup.acting(*arguments, store=stores[-1], **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.acting, name)

    @property
    def sessions(self) -> Any:
        """The facade that holds the connections."""
        return self.connecting.sessions

    def connect(self, **arguments: Any) -> Any:
        return self.connecting.connect(**arguments)

    def hold(self, admitted: Any) -> Any:
        return self.connecting.hold(admitted)

    async def refresh_session(self, session: Any, token: str) -> None:
        await self.connecting.refresh_session(session, token)

    async def drain(self, **arguments: Any) -> Any:
        return await self.connecting.drain(**arguments)

    async def aclose(self, **arguments: Any) -> None:
        await self.connecting.aclose(**arguments)
        if self.acting is not self.connecting:
            await self.acting.aclose(**arguments)

    async def told(self, probe: Callable[[], object]) -> None:
        """Assert what is true once sessions have been told to end."""
        if self._setup.store != "memory":
            await until(probe)
        assert probe()

    async def lists(self, clients: Collection[str], *, user: str = "42") -> None:
        """Assert that these sessions are listed, and no others."""
        await self._sees(
            lambda: self.user_connections(user),
            lambda listed: set(listed) == set(clients),
            at_once=self._setup.nodes == 1,
        )

    async def shows(self, probe: Callable[[Any], object]) -> None:
        """Assert something of the nodes that are listed."""
        await self._sees(self.info, probe, at_once=self._setup.store == "memory")

    async def _sees(
        self,
        look: Callable[[], Awaitable[Any]],
        probe: Callable[[Any], object],
        *,
        at_once: bool,
    ) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        seen = await look()
        while not at_once and not probe(seen) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
            seen = await look()
        assert probe(seen), seen


async def until(probe: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not probe():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def verifier() -> TokenVerifier:
    """What takes the tokens of these tests."""
    return TokenVerifier(Key(SECRET, algorithm="HS256"))


def over(setups: Sequence[Setup]) -> pytest.MarkDecorator:
    """Have a test run over these setups alone."""
    return pytest.mark.parametrize("setup", setups, ids=lambda one: one.name, indirect=True)
