"""Real servers for tests: programs that listen on a loopback port which the system chose.

A server is told to use port 0 and says in its output where it listens, so that no test has to guess
a free port. Its output goes to a file: nothing blocks on a full pipe, and a failure can show it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

START_SECONDS = 30.0
STOP_SECONDS = 15.0

UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}
"""Set for a program whose coverage nobody needs: it starts, runs and ends faster without."""

# daphne says "TCP address" where others give a URL.
_ADDRESS = re.compile(r"(?:http://|TCP address )(127\.0\.0\.1|localhost):([1-9]\d*)")


def until(probe: Callable[[], T | None], *, what: str, seconds: float = 10.0) -> T:
    """Ask `probe` again and again until it gives something true, and give that.

    Args:
        probe: asked at least once.
        what: what is waited for, for the failure's message.
        seconds: how long to keep asking.

    Raises:
        AssertionError: if the time is up.
    """
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class Server:
    """A running program; `url` is where it listens, without a slash at the end."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def output(self) -> str:
        """All that it has said so far, on both streams."""
        return self.log.read_text(errors="replace")

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, wait until it has, and give its exit status."""
        self.process.send_signal(signum)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def serving(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start a server, wait until it answers, and end it when the block ends.

    Args:
        command: the program and its arguments, which make it listen on port 0 of the loopback.
        log: the file for its output.
        env: variables to set besides those of this process.

    Raises:
        AssertionError: if it ends at once, or does not answer in time; with its output.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
    try:
        address = until(
            lambda: _listening(process, log), what=f"{command[0]} to listen", seconds=START_SECONDS
        )
        yield Server(process, address, log)
    finally:
        _end(process)


def python(*arguments: str) -> list[str]:
    """The command that runs the interpreter of this process with some arguments."""
    return [sys.executable, *arguments]


def _listening(process: subprocess.Popen[bytes], log: Path) -> str | None:
    output = log.read_text(errors="replace")
    if process.poll() is not None:
        raise AssertionError(f"the server ended with status {process.returncode}:\n{output}")
    address = _ADDRESS.search(output)
    if address is None:
        return None
    try:
        socket.create_connection((address[1], int(address[2])), timeout=1.0).close()
    except OSError:
        return None
    return f"http://{address[1]}:{address[2]}"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
