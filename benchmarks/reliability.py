"""How long it takes until things are as promised, while they fail.

Run it with `python benchmarks/reliability.py`. It starts a `redis-server` of its own, on a free
loopback port, and ends it. What takes a lease or a renewal is given in parts of those: the lease is
1.5 s here, and is renewed each 0.5 s.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from usersessions import RedisStore, Session, StoreUnavailable, UserSessions

LEASE = 1.5
RENEWAL = LEASE / 3
ROUNDS = 5
CONNECTS = 300
HOLDER = """
import sys, time
from usersessions import RedisStore, UserSessions
sessions = UserSessions(store=RedisStore(sys.argv[1], lease=float(sys.argv[2])))
with sessions.connect(user="42", transport="websocket"):
    print("here", flush=True)
    time.sleep(600)
"""


@contextmanager
def redis_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server that saves nothing; gives its URL and its process."""
    places = (os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"))
    program = shutil.which(
        os.environ.get("REDIS_SERVER", "redis-server"), path=os.pathsep.join(places)
    )
    assert program, "there is no redis-server: install one, or set REDIS_SERVER to its path"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    with TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            url = f"redis://127.0.0.1:{port}"
            try:
                with redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 200)) as client:
                    client.ping()
                yield url, process
            finally:
                process.terminate()


def until(reached: Callable[[], bool]) -> float:
    """Seconds until it is reached."""
    began = time.perf_counter()
    while not reached():
        time.sleep(0.0005)
    return time.perf_counter() - began


def listed(sessions: UserSessions, user: str) -> int:
    """How many sessions a user is said to have; -1 if nobody can say."""
    try:
        return len(sessions.user_connections(user))
    except StoreUnavailable:
        return -1


def measure(url: str, server: subprocess.Popen[bytes], held: ExitStack) -> None:
    """Print all figures."""
    one, other = (UserSessions(store=RedisStore(url, lease=LEASE)) for _ in range(2))
    for sessions in (one, other):
        held.callback(sessions.close, timeout=1.0)
        with sessions.connect(user="first", transport="websocket"):
            pass

    visible, closed = [], []
    for number in range(CONNECTS):
        user = str(number)
        with one.connect(user=user, transport="websocket") as session:
            visible.append(until(lambda user=user: listed(other, user) == 1))  # type: ignore[misc]
            began = time.perf_counter()
            other.disconnect(user, timeout=0)
            until(lambda session=session: session.disconnect is not None)  # type: ignore[misc]
            closed.append(time.perf_counter() - began)
    show("listed on another node, from `connect` on: p99", 1000 * centile(visible), "ms")
    show("told to end by another node, from `disconnect` on: p99", 1000 * centile(closed), "ms")

    gone = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", HOLDER, url, str(LEASE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            until(lambda: listed(other, "42") == 1)
            process.send_signal(signal.SIGKILL)
            gone.append(until(lambda: listed(other, "42") == 0))
    show("gone after kill -9: the longest", max(gone) / LEASE, "leases")

    back = []
    client = redis.Redis.from_url(url)
    with one.connect(user="7", transport="websocket"):
        for _ in range(ROUNDS):
            client.flushall()
            back.append(until(lambda: listed(other, "7") == 1))
    show("listed again after FLUSHALL: the longest", max(back) / RENEWAL, "renewals")

    server.send_signal(signal.SIGSTOP)
    try:
        connects = [connect_in(one, held) for _ in range(ROUNDS)]
        show("connecting while Redis hangs: the longest", 1000 * max(connects), "ms")
        began = time.perf_counter()
        assert listed(other, "8") == -1
        show("a list while Redis hangs: StoreUnavailable after", time.perf_counter() - began, "s")
    finally:
        server.send_signal(signal.SIGCONT)
    healed = until(lambda: listed(other, "8") == ROUNDS)
    show("all of these listed once it goes on", healed / RENEWAL, "renewals")
    client.close()


def connect_in(sessions: UserSessions, held: ExitStack) -> float:
    """Seconds that a connection takes."""
    began = time.perf_counter()
    session: Session = held.enter_context(sessions.connect(user="8", transport="websocket"))
    assert session.disconnect is None
    return time.perf_counter() - began


def centile(seconds: list[float]) -> float:
    """The 99th of a hundred."""
    return statistics.quantiles(seconds, n=100)[98]


def show(what: str, figure: float, unit: str) -> None:
    """Print a figure."""
    print(f"{what:<62} {figure:6.2f} {unit}", flush=True)


if __name__ == "__main__":
    with redis_server() as (url, server), ExitStack() as held:
        measure(url, server, held)
