"""Tells sessions to end, in threads of its own: an app's `close` may take its time.

A few that hang hold up nobody else; more than `_THREADS` at once hold up those behind them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from ...models import Disconnect
from ...registry import Tell

__all__ = ["Teller"]

_THREADS = 8

logger = logging.getLogger(__name__)


class Teller:
    """Threads while there is somebody to tell.

    >>> teller = Teller()
    >>> teller.tell([(print, Disconnect(4001))])
    >>> teller.close(until=time.monotonic() + 5)
    Disconnect(code=4001, reason='')
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tell, Disconnect]] = deque()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def tell(self, tells: Sequence[tuple[Tell, Disconnect]]) -> None:
        """Have them told, the first one first, and do not wait for it."""
        with self._lock:
            self._waiting.extend(tells)
            # Those that run already may hang.
            for _ in range(min(len(tells), _THREADS - len(self._threads))):
                thread = threading.Thread(target=self._run, name="usersessions-tell", daemon=True)
                self._threads.add(thread)
                thread.start()

    def close(self, *, until: float) -> None:
        """Wait until all are told, at most until then, on the monotonic clock."""
        with self._lock:
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads.discard(threading.current_thread())
                    return
                tell, disconnect = self._waiting.popleft()
            try:
                tell(disconnect)
            except BaseException:
                # This thread is ours, and no app can mean to end it.
                logger.exception("a session was not told to end")
