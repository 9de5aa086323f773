"""The way to Redis that all callers of a process share.

1. What is asked while an exchange is under way goes out together with the next one: many callers
   cost about as many round trips as one.
2. A caller waits until its own deadline, whatever the exchange does; what it does not wait for any
   more is still answered to `done`, once, in the line's thread.
3. When the way is broken, it is tried again by itself, ever more seldom up to `_SELDOM`, and
   `recovered` is called once it works.
4. A script that Redis does not know (any more) is sent again in full.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ...flows import Reply
from .link import Command, Link, LinkBroken, Refused
from .scripts import Script, script

__all__ = ["Answers", "Call", "Done", "Failed", "Line", "Outcome", "exchange", "outcome_of"]

logger = logging.getLogger(__name__)

_MOST = 1000
_OFTEN = 0.05
_SELDOM = 0.5
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Answers(Reply):
    """What Redis replied to each of the calls."""

    values: tuple[object, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed(Reply):
    """Redis did not do it, or nobody knows; `why` is for people."""

    why: str


Outcome: TypeAlias = "Answers | Failed"
Done: TypeAlias = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Call:
    """A command, or a script with its keys and arguments.

    `session` is the user and client whose record it writes again, if it does.
    """

    name: str
    keys: tuple[str, ...] = ()
    arguments: Command = field(default=(), repr=False)
    is_script: bool = True
    session: tuple[str, str] | None = None

    def command(self, *, in_full: bool = False) -> Command:
        """As Redis is sent it."""
        if not self.is_script:
            return (self.name, *self.keys, *self.arguments)
        found: Script = script(self.name)
        head: Command = ("EVAL", found.source) if in_full else ("EVALSHA", found.digest)
        return (*head, len(self.keys), *self.keys, *self.arguments)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    calls: Sequence[Call]
    done: Done
    until: float


_NOTHING: Done = lambda outcome: None  # noqa: E731 - a constant of a type


class Line:
    """A thread that talks to Redis; it starts with the first job.

    Args:
        link: what carries the commands.
        broken: called in the line's thread when Redis did not answer, before the callers know.
        recovered: called in the line's thread when Redis answers again after it did not.
    """

    def __init__(
        self,
        link: Link,
        *,
        broken: Callable[[], None] = lambda: None,
        recovered: Callable[[], None],
    ) -> None:
        self._link = link
        self._broken = broken
        self._recovered = recovered
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pause = 0.0

    @property
    def is_broken(self) -> bool:
        """Whether the last exchange failed."""
        return self._pause > 0

    def submit(self, calls: Sequence[Call], done: Done = _NOTHING, *, until: float) -> None:
        """Have calls made, and `done` told in the line's thread what came of them.

        Args:
            calls: they go out together, in this order.
            done: must not block or raise; where no thread can be started, it is told at once.
            until: on the monotonic clock; later than that they are not begun.
        """
        job = _Job(calls, done, until)
        with self._changed:
            can_be_made = self._thread is not None or self._start()
            if can_be_made:
                self._jobs.append(job)
                self._changed.notify()
        if not can_be_made:
            _tell(job, Failed("no thread can be started"))

    def close(self, *, until: float) -> None:
        """Finish what was submitted, if it can be done until then, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                # It waits for a reply that does not come.
                self._link.close()
                thread.join(_PATIENCE)

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="usersessions-redis", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # There are too many, or the interpreter is about to end.
            return False
        self._thread, self._closed = thread, False
        return True

    def _run(self) -> None:
        try:
            while self._exchange():
                pass
        finally:
            self._link.close()

    def _exchange(self) -> bool:
        jobs = self._next()
        if jobs is None:
            return False
        now = time.monotonic()
        late = [job for job in jobs if job.until < now]
        jobs = [job for job in jobs if job.until >= now]
        for job in late:
            _tell(job, Failed("it did not answer in time"))
        if not jobs and not self.is_broken:
            return True
        calls = [call for job in jobs for call in job.calls] or [_PING]
        try:
            replies = exchange(self._link, calls)
        except LinkBroken as error:
            if not self.is_broken:
                logger.warning("Redis does not answer: %s", error)
            self._pause = min(max(_OFTEN, self._pause * 2), _SELDOM)
            self._broken()
            for job in jobs:
                _tell(job, Failed(str(error)))
            return True
        except Exception:
            # A mistake of ours must not end the line for everybody, either.
            logger.exception("calls could not be made")
            for job in jobs:
                _tell(job, Failed("it was not asked"))
            return True
        was_broken, self._pause = self.is_broken, 0.0
        start = 0
        for job in jobs:
            _tell(job, outcome_of(replies[start : start + len(job.calls)]))
            start += len(job.calls)
        if was_broken:
            logger.info("Redis answers again")
            self._recovered()
        return True

    def _next(self) -> list[_Job] | None:
        with self._changed:
            while not self._jobs:
                if self._closed:
                    self._thread = None
                    return None
                if self.is_broken:
                    self._changed.wait(self._pause)
                    break
                self._changed.wait()
            jobs: list[_Job] = []
            size = 0
            while self._jobs and size < _MOST:
                jobs.append(self._jobs.popleft())
                size += len(jobs[-1].calls)
            return jobs


_PING = Call("PING", is_script=False)


def _tell(job: _Job, outcome: Outcome) -> None:
    try:
        job.done(outcome)
    except Exception:
        # A mistake of ours must not end the line for everybody.
        logger.exception("an answer of Redis could not be dealt with")


def exchange(link: Link, calls: Sequence[Call]) -> list[object]:
    """Make calls over a link, and give their replies; scripts that are not known are sent in full.

    Raises:
        LinkBroken: if a reply is missing.
    """
    replies = link.exchange([call.command() for call in calls])
    unknown = [
        place
        for place, reply in enumerate(replies)
        if isinstance(reply, Refused) and reply.code == "NOSCRIPT"
    ]
    if unknown:
        again = link.exchange([calls[place].command(in_full=True) for place in unknown])
        for place, reply in zip(unknown, again, strict=True):
            replies[place] = reply
    return replies


def outcome_of(replies: Sequence[object]) -> Outcome:
    """What came of calls that belong together."""
    refused = next((one for one in replies if isinstance(one, Refused)), None)
    return Answers(tuple(replies)) if refused is None else Failed(f"it answered {refused.code}")
