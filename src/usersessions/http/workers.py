"""What a process can know of the server whose worker it is.

Whether other processes serve the same app, which a store in memory would not know of: nothing says
so in general. These do, each for some servers: the environment variable `WEB_CONCURRENCY`, the
configuration that uvicorn and hypercorn hand to their worker processes, and what gunicorn was
started with. WSGI servers say it with each request (PEP 3333, `wsgi.multiprocess`).

Whether it has to stop: the workers of hypercorn hear no signal, but are handed an event.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ..stores.memory import MemoryStore

__all__ = ["has_other_workers", "told_to_stop", "warn_of_other_workers"]

logger = logging.getLogger(__name__)

_GUNICORN_WORKERS = re.compile(r"(?:^|\0)(?:-w|--workers)[=\0]?(\d+)(?=\0|$)")


def warn_of_other_workers(store: object, *, told: bool = False) -> None:
    """Log a warning if other processes serve the same app, and the store is this one's alone.

    Args:
        store: the store of the facade that is served.
        told: whether the server itself says that there are others.
    """
    if isinstance(store, MemoryStore) and (told or has_other_workers()):
        logger.warning(
            "this server has several worker processes, and each knows and closes only its own "
            "sessions, as they are kept in memory: give all of them one store, "
            'store=RedisStore("redis://..."), or run a single worker'
        )


def has_other_workers() -> bool:
    """Whether anything says that this process is one of several workers.

    >>> has_other_workers()
    False
    """
    return any(count > 1 for count in _counts())


def told_to_stop() -> Callable[[], bool] | None:
    """What says whether the server has told this worker to stop; None where a signal does.

    >>> told_to_stop()
    """
    event = _handed().get("shutdown_event")
    return None if event is None else event.is_set


def _handed() -> dict[str, Any]:
    handed: dict[str, Any] = getattr(multiprocessing.current_process(), "_kwargs", {})
    return handed


def _counts() -> Iterator[int]:
    concurrency = os.environ.get("WEB_CONCURRENCY", "")
    if concurrency.isascii() and concurrency.isdigit():
        yield int(concurrency)
    # uvicorn and hypercorn start their workers with `multiprocessing`, and hand them this.
    workers = getattr(_handed().get("config"), "workers", None)
    if isinstance(workers, int):
        yield workers
    arbiter = getattr(sys.modules.get("gunicorn.arbiter"), "Arbiter", None)
    if arbiter is not None:
        try:
            options = shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))
        except ValueError:
            options = []
        for found in _GUNICORN_WORKERS.findall("\0".join([*options, *sys.argv[1:]])):
            yield int(found)
        # A worker has a copy of what its arbiter knew as it was forked: those started before it.
        yield 1 + len(getattr(arbiter, "WORKERS", ()))
