"""Programs of a test: each may be stopped, continued and killed by its own process ID."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType

from typing_extensions import Self

STOP_SECONDS = 10.0


class Opened(ABC):
    """What runs inside the `with` block: all of it, or, where opening a part fails, none."""

    def __init__(self) -> None:
        self._opened = ExitStack()

    @abstractmethod
    def _open(self, opened: ExitStack) -> None:
        """Open all that there is, each thing with how it is closed."""

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._open(opened)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()


class Child:
    """A program started by this process; whoever derives from it starts `process`."""

    process: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        """Whether it has not ended; it may be stopped."""
        return self.process.poll() is None

    def pause(self) -> None:
        """Stop it where it stands (SIGSTOP), and wait until it is stopped."""
        self.process.send_signal(signal.SIGSTOP)
        # Left to be waited for again, so that `Popen` is the one that learns of its end.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Have it go on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without any notice (SIGKILL), and wait until it is gone."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def terminate(self) -> int:
        """Ask it to end (SIGTERM), wait until it has, and give its exit status.

        Raises:
            AssertionError: if it has not ended in time; it is killed then.
        """
        # A stopped program would get to know of it only when it goes on.
        self.resume()
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            name = os.path.basename(str(self.process.args[0]))  # type: ignore[index]
            raise AssertionError(
                f"{name} did not end when it was asked to, and was killed"
            ) from None
