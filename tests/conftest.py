"""What every test has: the guards, Hypothesis made deterministic, and real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest

from tests.servers import Server, serving
from usersessions.devices import device_name

pytest_plugins = ["tests.guards", "tests.redis_servers", "tests.redis_groups"]

# It loads its tables at the first use, which must not be on an event loop that is watched here.
device_name("")

# The same examples at every run, however slow the machine; HYPOTHESIS_PROFILE=search looks for new
# ones, and for longer.
hypothesis.settings.register_profile(
    "steady",
    database=None,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "search", hypothesis.settings.get_profile("steady"), derandomize=False, max_examples=5000
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` means: a third of what a test takes is waiting, for leases and programs."""
    return (os.cpu_count() or 1) * 3 // 2


class Serve(Protocol):
    """Start a server that lives until the test is over."""

    def __call__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> Server: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers, as `tests.servers.serving` does, each with a log file of its own."""
    with ExitStack() as servers:
        started = 0

        def start(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Server:
            nonlocal started
            started += 1
            log = tmp_path / f"server-{started}.log"
            return servers.enter_context(serving(command, log=log, env=env))

        yield start
