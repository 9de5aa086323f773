"""A terminal for tests: one bash that is told what to do, step by step, and keeps its state."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import until

__all__ = ["Background", "Done", "Terminal", "terminal"]

STEP_SECONDS = 30.0
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Done:
    """What became of a step: its exit status and what it wrote."""

    status: int
    output: str
    errors: str


@dataclass(frozen=True)
class Background:
    """A program that runs on in the background, as a process group of its own."""

    group: int
    log: Path

    @property
    def output(self) -> str:
        """All that it has said so far, on both streams."""
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether the program that was started is still there."""
        return _exists(self.group, os.kill)

    def stop(self) -> None:
        """Ask all of the group to end, and wait until it has.

        Raises:
            AssertionError: if it has not ended in time; it is killed then.
        """
        try:
            os.killpg(self.group, signal.SIGTERM)
        except ProcessLookupError:
            return
        try:
            until(
                lambda: not _exists(self.group, os.killpg),
                what="the server to end",
                seconds=STOP_SECONDS,
            )
        except AssertionError:
            with suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)
            raise


def _exists(number: int, send: Callable[[int, int], None]) -> bool:
    try:
        send(number, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Terminal:
    """A running bash; `papers` is a folder for the steps and what they write."""

    bash: subprocess.Popen[bytes]
    papers: Path
    _steps: int = field(default=0)

    def run(self, code: str) -> Done:
        """Have a step done in this very shell, and wait for its end.

        Raises:
            AssertionError: if it does not end in time, or ends the shell.
        """
        output, errors = self._paper("output"), self._paper("errors")
        status = self._do(code, f">'{output}' 2>'{errors}'")
        return Done(status, output.read_text(errors="replace"), errors.read_text(errors="replace"))

    def start(self, code: str) -> Background:
        """Have a step done that ends in `&`; what it starts becomes a process group of its own."""
        log = self._paper("log")
        self._do(f"set -m\n{code}\nset +m\n", f">'{log}' 2>&1")
        return Background(int(self.run("echo $!").output), log)

    def _do(self, code: str, streams: str) -> int:
        assert self.bash.stdin
        script, status = self._paper("sh"), self._paper("status")
        script.write_text(code)
        self._steps += 1
        # Read by the shell itself, not by a child: so it keeps its variables and its jobs.
        line = f". '{script}' </dev/null {streams}; echo $? >'{status}'\n"
        self.bash.stdin.write(line.encode())
        self.bash.stdin.flush()

        def ended() -> str | None:
            said = status.read_text() if status.exists() else ""
            if not said and self.bash.poll() is not None:
                raise AssertionError(f"this ended the shell:\n{code}")
            return said if said.endswith("\n") else None

        return int(until(ended, what=f"the end of:\n{code}", seconds=STEP_SECONDS))

    def _paper(self, kind: str) -> Path:
        return self.papers / f"step-{self._steps}.{kind}"


@contextmanager
def terminal(folder: Path, *, papers: Path, env: Mapping[str, str]) -> Iterator[Terminal]:
    """Open a terminal in a folder; at the end, all that it still runs is killed with it.

    Args:
        folder: where its shell is.
        papers: another folder, which exists, for what the terminal itself writes.
        env: all of its environment.
    """
    bash = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        cwd=folder,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Terminal(bash, papers)
    finally:
        # Its jobs are in its own process group, but for those that `start` has started.
        with suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            bash.communicate()
