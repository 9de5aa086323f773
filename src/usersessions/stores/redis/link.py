"""Bytes to Redis and back: the only module that imports redis-py.

1. `exchange` sends many commands at once and gives as many replies; an error that Redis answers is
   one of them, `Refused`. Whatever else goes wrong is `LinkBroken`, and the next use connects anew.
2. No retries and no waiting beyond the timeout: whoever asks knows better what is worth retrying.
3. No error carries what redis-py says: it may name hosts and users, or repeat data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

from ...errors import ConfigError, require

__all__ = ["Command", "Link", "LinkBroken", "Refused", "Target", "parse_url"]

Command: TypeAlias = "tuple[str | bytes | int | float, ...]"

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_CODE = re.compile(r"[A-Z]{3,20}\b")
_IDENTITY = re.compile(rb"(?:run_id|master_replid):(\w+)")


class LinkBroken(Exception):
    """Nothing came back, and nobody knows what was done; the text is safe to show."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An error that Redis answered, by its code: `READONLY`, `OOM`, `WRONGTYPE`, ..."""

    code: str


class Link(Protocol):
    """A connection to Redis, or to each server of a cluster; used by one thread at a time."""

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        """Send commands, and give their replies.

        Raises:
            LinkBroken: if a reply is missing.
        """
        ...

    def identity(self) -> bytes:
        """What changes when a server was started anew or follows another one.

        Raises:
            LinkBroken: if there is no answer.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; from any thread."""


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """Where Redis is; without a `repr`, as there is a password in it."""

    kind: str
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over several servers."""
        return self.kind == "redis+cluster"

    def link(self, *, timeout: float, scripts: Sequence[bytes] = ()) -> Link:
        """A link that waits at most `timeout` seconds for each reply.

        Nothing is connected before it is used; each connection begins with loading the scripts.
        """
        kind = _ClusterLink if self.is_cluster else _PoolLink
        return kind(self, timeout, scripts)


def parse_url(url: str) -> Target:
    """Read where Redis is.

    Raises:
        ConfigError: if it is no URL of one of the schemes; the message does not repeat it.
        MissingExtraError: if redis-py is not installed.

    >>> parse_url("redis+sentinel://10.0.0.1:26379,10.0.0.2/mymaster/3").service
    'mymaster'
    """
    redis = require("redis", extra="redis")
    if not isinstance(url, str):
        raise ConfigError("the URL of a Redis must be a string")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ConfigError(f"the URL of a Redis must begin with one of {', '.join(_SCHEMES)}://")
    problem = ""
    hosts: tuple[tuple[str, int], ...] = ()
    service, plain, path = "", url, ""
    try:
        if scheme in ("redis+sentinel", "redis+cluster"):
            login, _, places = rest.rpartition("@")
            names, _, path = places.partition("/")
            port = 26379 if scheme == "redis+sentinel" else 6379
            hosts = tuple(_host(name, port) for name in names.split(","))
            if scheme == "redis+sentinel":
                service, _, path = path.partition("/")
                problem = "" if service else "it names no service: .../SERVICE or .../SERVICE/DB"
            elif path not in ("", "0"):
                problem = "a cluster has no databases"
            # For what redis-py reads itself: login, database and options.
            host, number = hosts[0]
            plain = f"redis://{login + '@' if login else ''}{host}:{number}/{path}"
        elif scheme != "unix":
            path = urlsplit(url).path.strip("/")
        database = path.partition("?")[0]
        # redis-py would take number 0 then.
        if not problem and database and not (database.isascii() and database.isdigit()):
            problem = "its database must be a number, as in .../3"
        redis.ConnectionPool.from_url(plain)
    except (ValueError, TypeError, redis.RedisError):
        problem = "a part of it is not of the right form"
    if problem:
        raise ConfigError(f"the URL of a Redis cannot be used: {problem}")
    return Target(scheme, plain, hosts, service)


def _host(name: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{name}")
    if not parts.hostname:
        raise ValueError("a host has no name")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host, parts.port or port


def _options(url: str) -> dict[str, Any]:
    """The login, the database and the options of a URL."""
    from redis import connection

    # redis-py has no types for it.
    parsed: Any = connection.parse_url
    options: dict[str, Any] = dict(parsed(url))
    return {name: value for name, value in options.items() if name not in ("host", "port")}


def _settings(timeout: float) -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


_CODES = {
    "MasterDownError": "MASTERDOWN",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}


def _refused(error: Exception) -> Refused:
    # redis-py takes the code away from errors that it has a class for.
    known = _CODES.get(type(error).__name__)
    if known is None:
        # Errors within a script carry their own code behind the script's name.
        text = str(error)
        inner = (code for code in ("READONLY", "OOM", "MISCONF", "NOREPLICAS") if code in text)
        found = _CODE.match(text)
        known = next(inner, found[0] if found else "ERR")
    return Refused(known)


class _PoolLink:
    """One server, or the one that Sentinel says is the master."""

    def __init__(self, target: Target, timeout: float, scripts: Sequence[bytes]) -> None:
        import redis

        self._redis = redis
        self._loads: list[Command] = [("SCRIPT", "LOAD", source) for source in scripts]
        settings = _settings(timeout)
        self._pool: Any
        if target.kind == "redis+sentinel":
            from redis.sentinel import Sentinel, SentinelConnectionPool

            options = _options(target.url)
            # redis-py has no types for these.
            make: Any = Sentinel
            pool: Any = SentinelConnectionPool
            sentinel = make(list(target.hosts), sentinel_kwargs=settings)
            self._pool = pool(target.service, sentinel, **{**options, **settings})
        else:
            self._pool = redis.ConnectionPool.from_url(target.url, **settings)
        self._connection: Any = None

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        redis = self._redis
        replies: list[object] = []
        connection = self._connection
        try:
            sent = commands
            if connection is None:
                connection = self._connection = self._pool.get_connection()
                # With what is asked, at no round trip. One that is refused is no matter: whoever
                # needs a script that is not known sends it in full.
                sent = [*self._loads, *commands]
            connection.send_packed_command(connection.pack_commands(sent))
            for _ in sent:
                try:
                    replies.append(connection.read_response())
                except redis.ResponseError as error:
                    replies.append(_refused(error))
        except BaseException as error:
            # Whatever is still on its way must not be taken for the reply to something else. Where
            # another thread has closed the connection, redis-py may trip over that in any way.
            was_closed = connection is not None and self._connection is not connection
            self.close()
            if was_closed or isinstance(error, (redis.RedisError, OSError)):
                raise LinkBroken(type(error).__name__) from None
            raise
        if any(isinstance(one, Refused) and one.code == "READONLY" for one in replies):
            # It is no master any more; who is, is found out by connecting anew.
            self.close()
        return replies[len(sent) - len(commands) :]

    def identity(self) -> bytes:
        found = self.exchange([("INFO", "server"), ("INFO", "replication")])
        return b" ".join(b" ".join(_IDENTITY.findall(part)) for part in map(_bytes, found))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)


class _ClusterLink:
    """All servers of a cluster."""

    def __init__(self, target: Target, timeout: float, scripts: Sequence[bytes]) -> None:
        import redis
        from redis import exceptions

        self._redis, self._errors = redis, exceptions
        self._target = target
        self._timeout = timeout
        self._scripts = scripts
        self._client: Any = None

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        def send(client: Any) -> list[object]:
            from redis.cluster import PipelineCommand

            make: Any = PipelineCommand
            stack = [make(command, {}, place) for place, command in enumerate(commands)]
            # With redirections, redis-py asks a server that hangs for each command once more.
            replies = client.pipeline(transaction=False).send_cluster_commands(
                stack, raise_on_error=False, allow_redirections=False
            )
            pairs = zip(commands, replies, strict=True)
            return [self._reply(client, command, reply) for command, reply in pairs]

        replies: list[object] = self._use(send)
        return replies

    def identity(self) -> bytes:
        def ask(client: Any) -> bytes:
            seen = []
            for node in client.get_primaries():
                server = client.info("server", target_nodes=node)
                replication = client.info("replication", target_nodes=node)
                seen.append(f"{server['run_id']} {replication['master_replid']}")
            return " ".join(sorted(seen)).encode()

        identity: bytes = self._use(ask)
        return identity

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _use(self, act: Any) -> Any:
        redis = self._redis
        client = self._client
        try:
            if client is None:
                from redis.cluster import ClusterNode, RedisCluster

                options = _options(self._target.url)
                options.pop("db", None)
                node: Any = ClusterNode
                client = self._client = RedisCluster(
                    startup_nodes=[node(*host) for host in self._target.hosts],
                    **{**options, **_settings(self._timeout)},
                )
                for source in self._scripts:
                    with suppress(redis.ResponseError):
                        client.script_load(source)
            return act(client)
        except BaseException as error:
            was_closed = client is not None and self._client is not client
            self.close()
            # Not every error of a cluster is a RedisError.
            broken = (redis.RedisError, self._errors.RedisClusterException, OSError)
            if was_closed or isinstance(error, broken):
                raise LinkBroken(type(error).__name__) from None
            raise

    def _reply(self, client: Any, command: Command, reply: Any) -> object:
        redis = self._redis
        if isinstance(reply, (self._errors.AskError, self._errors.TryAgainError)):
            # Another server has the key by now, which this finds out.
            try:
                reply = client.execute_command(*command)
            except redis.ResponseError as error:
                return _refused(error)
        if isinstance(reply, (redis.ConnectionError, redis.TimeoutError, OSError)):
            raise reply
        if isinstance(reply, redis.RedisError):
            return _refused(reply)
        if isinstance(reply, Exception):
            raise reply
        return reply


def _bytes(reply: object) -> bytes:
    return reply if isinstance(reply, bytes) else b""
