"""Which test runs on which targets: parametrizations of the fixture `running`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.apps.targets import TARGETS, WITHOUT_LOSSES
from tests.adapters.serving import openers_of


def _param(name: str, *values: str) -> Any:
    return pytest.param(name, *values, id="-".join((name, *values)))


ALL = [_param(name) for name in TARGETS]
"""Each target: what `running` is unless a test says otherwise."""

EACH_FOR_REQUESTS = pytest.mark.parametrize(
    "running", [_param(name) for name in (*TARGETS, *WITHOUT_LOSSES)], indirect=True
)
"""Each target, and what is tried with requests alone."""

EACH_OPENER = pytest.mark.parametrize(
    ("running", "opener"),
    [_param(name, opener) for name, target in TARGETS.items() for opener in openers_of(target)],
    indirect=["running"],
    scope="session",
)
"""Each way to open a stream, on each target that has it."""

# What depends on the server, and not on the adapter, is tried once on each.
_SERVERS = {(target.server, target.processes > 1): name for name, target in TARGETS.items()}
ONE_OF_EACH_SERVER = sorted(_SERVERS.values())
"""A target of each server."""

WITH_WEBSOCKETS = pytest.mark.parametrize(
    "running",
    [_param(name) for name, target in TARGETS.items() if target.has_websockets],
    indirect=True,
)
"""The targets that serve WebSockets."""
