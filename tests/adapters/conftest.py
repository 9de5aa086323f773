"""Each target is served once for all tests that ask for it, one target after the other."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.adapters.apps.targets import TARGETS, WITHOUT_LOSSES
from tests.adapters.matrix import ALL
from tests.adapters.serving import Running, check_log, new_user, served

SERVED = {**TARGETS, **WITHOUT_LOSSES}

SEND_TIMEOUT = "0.5"
"""How many seconds a message may wait for a client that does not read."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(SERVED)}
    # Tests that ask for no target come first, in the order that they have.
    items.sort(key=lambda item: order.get(_target_of(item), -1))


def _target_of(item: pytest.Item) -> str:
    """The name of the target that a test asks for; empty if it asks for none."""
    callspec = getattr(item, "callspec", None)
    return "" if callspec is None else str(callspec.params.get("running", ""))


@pytest.fixture(scope="session", params=ALL)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A target that is served; when it ends, what all tests have left in its log is looked at."""
    log = tmp_path_factory.mktemp("server") / "log"
    with served(SERVED[request.param], log=log, SEND_TIMEOUT=SEND_TIMEOUT) as one:
        yield one
        assert one.server.stop() in (0, -signal.SIGTERM)
        check_log(one)


@pytest.fixture
def url(running: Running) -> str:
    """Where the adapter serves."""
    return running.url


@pytest.fixture
def user() -> str:
    return new_user()
