"""Worker processes, as tests see them: each is a node, told what to do and treated badly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Literal

from typing_extensions import Self

from tests.processes import Child
from tests.servers import UNMEASURED, until
from usersessions import Closed

START_SECONDS = 30.0
ANSWER_SECONDS = 30.0

_ROOT = Path(__file__).parents[2]


class WorkerGone(AssertionError):
    """The worker has ended, and will not answer any more."""


class CallFailed(Exception):
    """What was asked raised an exception; `kind` is the name of its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """What a request gave; `began` is when, on `time.monotonic`, `took` is how many seconds."""

    value: Any
    began: float
    took: float


@dataclass(frozen=True)
class Held:
    """A session that a worker opened, or tried to; moments are of `time.monotonic`.

    Attributes:
        user: whose it is.
        client: its ID; None if it was refused.
        refused: the code that it was refused with, or None.
        code: the code that it was told to end with, or None.
        opened_at: when it was registered.
        told_at: when it was told to end.
        ended_at: when it had ended.
        took: how many seconds it took to connect, or to be refused.
    """

    user: str
    client: str | None
    refused: int | None
    code: int | None
    opened_at: float | None
    told_at: float | None
    ended_at: float | None
    took: float | None


@dataclass(frozen=True)
class Listed:
    """A user's connections by client ID, as the worker's facade lists them, and whether all."""

    connections: Mapping[str, Mapping[str, Any]]
    partial: bool


class Worker(Child):
    """A process that holds sessions, running inside the `with` block.

    Args:
        url: of the Redis, or "memory".
        face: whether it uses `AsyncUserSessions` or `UserSessions`.
        prefix: as for `RedisStore`.
        lease: as for `RedisStore`.
        timeout: as for `RedisStore`.
        clock_offset: by how many seconds its wall clock is wrong.
        limit: how many sessions a user may have.
        policy: what happens when there is one more.

    Attributes:
        node: the ID of its node.
        left: what became of its sessions, once it has ended in good order.
    """

    def __init__(
        self,
        url: str,
        *,
        face: Literal["async", "sync"] = "async",
        prefix: str = "usersessions",
        lease: float = 1.5,
        timeout: float = 2.0,
        clock_offset: float = 0.0,
        limit: int | None = None,
        policy: str = "reject",
    ) -> None:
        options = {
            "--url": url,
            "--face": face,
            "--prefix": prefix,
            "--lease": lease,
            "--timeout": timeout,
            "--clock-offset": clock_offset,
            "--policy": policy,
            **({} if limit is None else {"--limit": limit}),
        }
        # With `=`, a negative number is not taken for an option.
        self._options = [f"{name}={value}" for name, value in options.items()]
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Answer]] = {}
        self._ready: Future[str] = Future()
        self._gone = False
        self.left: list[Held] = []

    def __enter__(self) -> Self:
        self._errors = TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker", *self._options],
            cwd=_ROOT,
            env={**os.environ, **UNMEASURED},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._reader = threading.Thread(target=self._read, name="worker-answers")
        self._reader.start()
        try:
            self.node = self._ready.result(START_SECONDS)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def log(self) -> str:
        """All that it has logged so far, from WARNING."""
        # Where the file is read must not change where the worker writes.
        number = self._errors.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def ask(self, do: str, **arguments: Any) -> Future[Answer]:
        """Ask it to do something (`worker.Worker.do_...`), without waiting for it.

        The answer's exception is `CallFailed`, or `WorkerGone`.
        """
        future: Future[Answer] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._gone:
                raise WorkerGone("the worker has ended")
            self._asked[number] = future
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                # The reader finds out that it has gone.
                request = json.dumps({"id": number, "do": do, "with": arguments})
                self.process.stdin.write(request.encode() + b"\n")
                self.process.stdin.flush()
        return future

    def do(self, do: str, **arguments: Any) -> Answer:
        """Ask it to do something, and wait for the answer.

        Raises:
            CallFailed: if an exception came of it.
            AssertionError: if it does not answer in time, or has ended (`WorkerGone`).
        """
        asked = self.ask(do, **arguments)
        if not wait([asked], ANSWER_SECONDS).done:
            raise AssertionError(f"the worker did not answer {do} in {ANSWER_SECONDS:g} s")
        return asked.result()

    # Sessions ---------------------------------------------------------------------------------

    def open(self, user: str, **how: Any) -> list[str]:
        """Open sessions of a user, and give their client IDs; `how` as for `attempt`.

        Raises:
            AssertionError: if one is refused.
        """
        attempts = self.attempt(user, **how)
        refused = [one.refused for one in attempts if one.refused is not None]
        if refused:
            raise AssertionError(f"{len(refused)} sessions were refused with {set(refused)}")
        return [one.client for one in attempts if one.client is not None]

    def attempt(
        self,
        user: str,
        *,
        count: int = 1,
        clients: Sequence[str] | None = None,
        linger: float | None = 0.0,
        hang: float = 0.0,
        app_name: str | None = None,
        **identity: Any,
    ) -> list[Held]:
        """Open sessions of a user side by side, and give what became of them.

        Args:
            user: whose.
            count: how many.
            clients: the IDs to give them; None draws new ones.
            linger: how many seconds a session goes on after it was told to end; None is until
                `end`.
            hang: for how many seconds its `close` does nothing.
            app_name: the client's app name.
            identity: more of the `Identity`: `meta`, `labels`, `token_id`, `expire_at`, ...
        """
        answer = self.do(
            "open",
            user=user,
            count=count,
            clients=clients,
            linger=linger,
            hang=hang,
            app_name=app_name,
            identity=identity,
        )
        return [Held(**one) for one in answer.value]

    def end(self, *clients: str) -> None:
        """End these sessions, or all, as if their clients had gone, and wait until they are."""
        self.do("end", clients=list(clients) or None)

    def held(self) -> list[Held]:
        """What became of all sessions that it opened, in that order."""
        return [Held(**one) for one in self.do("held").value]

    def ended(self, client: str, *, seconds: float = 10.0) -> Held:
        """Wait until a session that it opened has ended, and give what became of it."""

        def found() -> Held | None:
            held = (one for one in self.held() if one.client == client)
            return next((one for one in held if one.ended_at is not None), None)

        return until(found, what=f"the session {client} to end", seconds=seconds)

    # The facade -------------------------------------------------------------------------------

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of its facade, and give what that gives, as JSON."""
        return self.do("call", method=method, arguments=arguments).value

    def list(self, user: str) -> Listed:
        """List a user's connections."""
        return Listed(**self.call("user_connections", user=user))

    def clients(self, user: str) -> set[str]:
        """The client IDs in a user's list, which may be partial."""
        return set(self.list(user).connections)

    def disconnect(self, user: str, **options: Any) -> Closed:
        """End a user's connections; `options` as for `UserSessions.disconnect`."""
        return _closed(self.call("disconnect", user=user, **options))

    def block_user(self, user: str, **options: Any) -> Closed:
        """Keep a user out, and end their connections."""
        return _closed(self.call("block_user", user=user, **options))

    def revoke_token(self, uid: str, **options: Any) -> Closed:
        """Keep a token out, and end its connections."""
        return _closed(self.call("revoke_token", uid=uid, **options))

    def invalidate_user_tokens(self, user: str, **options: Any) -> Closed:
        """Keep out a user's older tokens, and end their connections."""
        return _closed(self.call("invalidate_user_tokens", user=user, **options))

    def info(self) -> dict[str, dict[str, Any]]:
        """The nodes that it knows of, by ID."""
        return {node["uid"]: node for node in self.call("info")}

    def api(self, method: str, **params: Any) -> Any:
        """Have the server API carry out a command, and give its reply."""
        return self.do("api", command={"method": method, "params": params}).value

    # The rest of its life ---------------------------------------------------------------------

    def join(self) -> None:
        """Have it be seen among the nodes."""
        self.do("join")

    def set_clock(self, offset: float) -> None:
        """Have its wall clock be wrong by so many seconds."""
        self.do("clock", offset=offset)

    def block_loop(self, seconds: float) -> Future[Answer]:
        """Block its event loop, on which all requests run; done when it goes on."""
        return self.ask("block", seconds=seconds)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            if "node" in answer:
                self._ready.set_result(answer["node"])
                continue
            if "left" in answer:
                self.left = [Held(**one) for one in answer["left"]]
                continue
            with self._lock:
                future = self._asked.pop(answer["id"])
            if "error" in answer:
                future.set_exception(
                    CallFailed(answer["error"]["type"], answer["error"]["message"])
                )
            else:
                future.set_result(Answer(answer["value"], answer["began"], answer["took"]))
        with self._lock:
            self._gone = True
            left = [*self._asked.values()]
        gone = WorkerGone(f"the worker has ended:\n{self.log}")
        for future in left:
            future.set_exception(gone)
        if not self._ready.done():
            self._ready.set_exception(gone)

    def _close(self) -> None:
        self.resume()
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            # It ends when its input does.
            self.process.stdin.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join()
        self.process.stdout.close()
        self._errors.close()


@contextmanager
def side_by_side(*workers: Worker) -> Iterator[Sequence[Worker]]:
    """Run several workers inside the `with` block; they start, and end, at the same time."""
    with ThreadPoolExecutor(len(workers)) as pool:
        starting = [pool.submit(worker.__enter__) for worker in workers]
        try:
            yield [started.result() for started in starting]
        finally:
            for worker, started in zip(workers, starting, strict=True):
                if started.exception() is None:
                    pool.submit(worker.__exit__, None, None, None)


def _closed(answer: Mapping[str, Any]) -> Closed:
    closed, unconfirmed, not_revocable = (
        tuple(answer[name]) for name in ("closed", "unconfirmed", "not_revocable")
    )
    return Closed(closed, unconfirmed, not_revocable, answer["partial"])
