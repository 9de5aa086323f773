"""Hearing that a server is to stop before the server does.

Servers stop in a bad order for streams: first they wait until every response has ended, and only
then do they tell the app, if at all. So this hears the signal itself, has the sessions end, and
then lets the server have the signal:

1. A second signal goes straight to the server: nothing here can hold up whoever insists.
2. Handlers that were there before are put back, unless somebody replaced ours since.
3. A signal that the process ignores stays ignored.
4. What is heard is passed on to the handler that was there before, once for each signal; also where
   a handler that somebody installed after ours calls ours, or puts it back when it is long over.
5. SIGQUIT is heard where a server has a handler of its own for it, as gunicorn does for a quick
   stop, which then waits for its threads all the same. Elsewhere it stays what dumps core.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

__all__ = ["SignalRelay", "server_is_listening"]

_Handler: TypeAlias = "Callable[[int, FrameType | None], object] | signal.Handlers"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_QUICK = getattr(signal, "SIGQUIT", signal.SIGTERM)  # Windows has none


class SignalRelay:
    """Hears SIGINT, SIGTERM and a server's SIGQUIT, and passes them on.

    Args:
        end_sessions: called once, in the main thread, between any two of its steps, with the number
            of the signal and what passes it on. It begins to have the sessions end, and when they
            have, it calls the latter in the main thread, or sends the signal again. It gives False
            if it cannot, as everything is over already.
    """

    def __init__(self, end_sessions: Callable[[int, Callable[[], None]], bool]) -> None:
        self._end_sessions = end_sessions
        self._previous: dict[int, _Handler] = {}
        self._has_heard = False

    def begin(self) -> None:
        """Listen; in any other thread than the main one, where nothing can be heard, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in {*_SIGNALS, _QUICK}:
            previous = signal.getsignal(number)
            if callable(previous) or (previous is signal.SIG_DFL and number in _SIGNALS):
                self._previous[number] = previous
                signal.signal(number, self._heard)

    def end(self) -> None:
        """Listen no more."""
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._heard:
                signal.signal(number, previous)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.end()
        first, self._has_heard = not self._has_heard, True
        if not first or not self._end_sessions(number, lambda: self._pass_on(number, None)):
            self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def server_is_listening() -> bool:
    """Whether this process is a server's that has its own way to stop: a handler for SIGTERM.

    In a shell, a script or a test there is none.

    >>> previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    >>> server_is_listening()
    True
    >>> _ = signal.signal(signal.SIGTERM, previous)
    """
    return callable(signal.getsignal(signal.SIGTERM))
