"""One timer for all sessions of a node that expire: on an event loop, or in a thread.

1. What expires when is in the registry; these only wait. They look at the clock every `_LONGEST`
   seconds at least, since a wall clock may be set while they wait.
2. A timer outlives whatever a `close` of the app raises: the other sessions expire all the same.
3. A stopped timer waits for nothing any more, and may be armed again.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from ..node import Node

__all__ = ["LoopExpiry", "ThreadExpiry"]

logger = logging.getLogger("usersessions.sessions")

_LONGEST = 60.0
_PATIENCE = 1.0


def _pause(node: Node) -> float | None:
    """Seconds until there is something to do; None if there never is."""
    deadline = node.registry.next_deadline
    return None if deadline is None else min(max(0.0, deadline - node.clock()), _LONGEST)


class LoopExpiry:
    """Expires the sessions of a node on the running event loop.

    Each loop has a timer of its own: one that comes and goes must not take that of another along,
    nor may it touch it.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}

    def arm(self) -> None:
        """Wait for the first deadline there is; call it when deadlines have changed."""
        self.stop()
        pause = _pause(self._node)
        if pause is not None:
            loop = asyncio.get_running_loop()
            self._timers[loop] = loop.call_later(pause, self._fire)

    def stop(self) -> None:
        """Wait for nothing any more."""
        timer = self._timers.pop(asyncio.get_running_loop(), None)
        if timer is not None:
            timer.cancel()
        for loop in list(self._timers):
            if loop.is_closed():
                self._timers.pop(loop, None)

    def _fire(self) -> None:
        try:
            self._node.expire()
        finally:
            self.arm()


class ThreadExpiry:
    """Expires the sessions of a node in one daemon thread, there while there are deadlines."""

    def __init__(self, node: Node) -> None:
        self._node = node
        # By the node's ID, which a forked child has anew: its parent's thread did not come along,
        # and its parent's lock may be held for ever. `setdefault` and `pop` are atomic.
        self._timers: dict[str, _Timer] = {}

    def arm(self) -> None:
        """Wait for the first deadline there is; call it when deadlines have changed."""
        self._timers.setdefault(self._node.id, _Timer(self._node)).arm()

    def stop(self) -> None:
        """Wait for nothing any more, and end the thread."""
        timer = self._timers.pop(self._node.id, None)
        if timer is not None:
            timer.stop()


class _Timer:
    """A daemon thread while there are deadlines; once it was stopped, none any more."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def arm(self) -> None:
        with self._changed:
            if self._thread is not None:
                self._changed.notify()
            elif not self._stopped and self._node.registry.next_deadline is not None:
                thread = threading.Thread(target=self._run, name="usersessions-expiry", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
            thread = self._thread
        # A `close` that runs in that very thread may have led here; or one hangs in it.
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def _run(self) -> None:
        while True:
            try:
                # Outside of the lock: it runs the app's `close`.
                self._node.expire()
            except BaseException:
                # This thread is ours, and no app can mean to end it.
                logger.exception("a session that expired was not told to end")
            with self._changed:
                pause = _pause(self._node)
                if pause is None or self._stopped:
                    self._thread = None
                    return
                self._changed.wait(pause)
