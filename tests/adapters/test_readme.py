"""The table of frameworks in the README: a test stands behind each tick."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.adapters import test_conformance, test_loss, test_socketio
from tests.adapters.apps.shared import Target
from tests.adapters.apps.targets import TARGETS

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()

_ROW = re.compile(r"^\| \[([\w-]+)\]\((docs/frameworks/\w+\.md)\) \|(.*)\|$", re.MULTILINE)
ROWS = {
    found[1]: (found[2], [cell.strip() for cell in found[3].split("|")])
    for found in _ROW.finditer(README)
}

BEHIND = {
    "api": "test_a_command_is_answered_with_json",
    "http_streams": "test_a_stream_opens_with_its_connect_frame_and_is_listed",
    "websocket_stream": "test_a_stream_opens_with_its_connect_frame_and_is_listed",
    "endpoints": "test_an_endpoint_of_the_apps_own_is_for_those_who_have_a_token",
    "websockets": "test_a_websocket_of_the_apps_own_is_a_session_while_it_is_open",
    "stop": "test_a_server_pings_misses_who_vanished_and_tells_the_others_when_it_is_stopped",
}
"""The columns, and the test of the conformance suite that asks for it, among others."""

# The names under which the targets of the conformance suite begin.
TARGETS_OF = {"ASGI": "plain"}


def of(row: str) -> dict[str, Target]:
    prefix = TARGETS_OF.get(row, row.lower())
    return {name: one for name, one in TARGETS.items() if name.split(",")[0] == prefix}


def ticks(row: str) -> dict[str, bool]:
    _, (_, *cells) = ROWS[row]
    return {name: cell == "\N{CHECK MARK}" for name, cell in zip(BEHIND, cells, strict=False)}


def server(target: Target) -> str:
    # "aiohttp.web" is aiohttp's own; an app that serves itself is run by its module here.
    return target.server.removesuffix(".web").rpartition(".")[2]


@pytest.mark.parametrize("row", [row for row in ROWS if row != "python-socketio"])
def test_a_framework_has_the_ticks_that_the_conformance_suite_stands_behind(row: str) -> None:
    targets = of(row)
    has_websockets = any(target.has_websockets for target in targets.values())
    # The suite asks all of these of every target, and for WebSockets of those that have them.
    assert ticks(row) == {
        "api": bool(targets),
        "http_streams": bool(targets),
        "websocket_stream": has_websockets,
        "endpoints": bool(targets),
        "websockets": has_websockets,
        "stop": bool(targets),
    }
    servers = ROWS[row][1][-1]
    assert servers == ", ".join(sorted({server(target) for target in targets.values()}))


def test_every_target_of_the_conformance_suite_has_a_row() -> None:
    assert {name for row in ROWS for name in of(row)} == set(TARGETS)


def test_what_stands_behind_a_tick_is_there() -> None:
    assert set(BEHIND.values()) <= {*vars(test_conformance), *vars(test_loss)}


def test_socketio_has_the_ticks_that_its_own_tests_stand_behind() -> None:
    assert [name for name, ticked in ticks("python-socketio").items() if ticked] == [
        "websockets",
        "stop",
    ]
    source = Path(test_socketio.__file__).read_text()
    for name in ROWS["python-socketio"][1][-1].split(", "):
        assert f'"{name}"' in source


@pytest.mark.parametrize("row", ROWS)
def test_each_framework_has_a_page_and_an_extra_if_it_needs_one(row: str) -> None:
    page, (extra, *_) = ROWS[row]
    text = (ROOT / page).read_text()
    assert "<!-- serve -->" in text
    if extra:
        name = extra.strip("`[]")
        assert re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert re.search(rf'pip install "usersessions\[[\w,]*\b{name}\b', text)
