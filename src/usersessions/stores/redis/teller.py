"""Tells sessions to end, one after another, in a thread of its own: an app's `close` may block."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from ...models import Disconnect
from ...registry import Tell

__all__ = ["Teller"]

logger = logging.getLogger(__name__)


class Teller:
    """A thread while there is somebody to tell.

    >>> teller = Teller()
    >>> teller.tell([(print, Disconnect(4001))])
    >>> teller.close(until=time.monotonic() + 5)
    Disconnect(code=4001, reason='')
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tell, Disconnect]] = deque()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def tell(self, tells: Sequence[tuple[Tell, Disconnect]]) -> None:
        """Have them told, in this order, and do not wait for it."""
        with self._lock:
            self._waiting.extend(tells)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="usersessions-tell", daemon=True
                )
                self._thread.start()

    def close(self, *, until: float) -> None:
        """Wait until all are told, at most until then, on the monotonic clock."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                tell, disconnect = self._waiting.popleft()
            try:
                tell(disconnect)
            except BaseException:
                # This thread is ours, and no app can mean to end it.
                logger.exception("a session was not told to end")
