"""Each target is served once for all tests that ask for it, one target after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.apps.targets import TARGETS
from tests.adapters.matrix import ALL
from tests.adapters.serving import Running, new_user, served


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(TARGETS)}
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
    """A target that is served."""
    log = tmp_path_factory.mktemp("server") / "log"
    with served(TARGETS[request.param], log=log) as one:
        yield one


@pytest.fixture
def url(running: Running) -> str:
    """Where the adapter serves."""
    return running.url


@pytest.fixture
def user() -> str:
    return new_user()
