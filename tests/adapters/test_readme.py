"""The table of frameworks in the README: a test stands behind each tick."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from tests.adapters import test_conformance, test_loss, test_socketio
from tests.adapters.apps.shared import Target
from tests.adapters.apps.targets import TARGETS
from tests.pages import Block, blocks

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
    # Where some of its servers have none, that is said.
    has_some_alone = has_websockets and not all(one.has_websockets for one in targets.values())
    assert (f"{row} has WebSockets under " in README) is has_some_alone


def test_every_target_of_the_conformance_suite_has_a_row() -> None:
    assert {name for row in ROWS for name in of(row)} == set(TARGETS)


def test_what_stands_behind_a_tick_is_there() -> None:
    assert set(BEHIND.values()) <= {*vars(test_conformance), *vars(test_loss)}


def test_socketio_has_the_ticks_that_its_own_tests_stand_behind() -> None:
    assert [name for name, ticked in ticks("python-socketio").items() if ticked] == [
        "websockets",
        "stop",
    ]
    run = {Target(command, "").server for command in test_socketio.COMMANDS.values()}
    assert set(ROWS["python-socketio"][1][-1].split(", ")) == run


@pytest.mark.parametrize("row", ROWS)
def test_each_framework_has_a_page_and_an_extra_if_it_needs_one(row: str) -> None:
    page, (extra, *_) = ROWS[row]
    text = (ROOT / page).read_text()
    assert "<!-- serve -->" in text
    if extra:
        name = extra.strip("`[]")
        assert re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert re.search(rf'pip install "usersessions\[[\w,]*\b{name}\b', text)


# Ten lines ----------------------------------------------------------------------------------------

AT_MOST = 10


def test_an_app_takes_up_this_library_in_ten_lines() -> None:
    counts = {
        page.stem: sum(1 for _ in lines_of_ours(app_of(page)))
        for page in sorted((ROOT / "docs/frameworks").glob("*.md"))
    }
    assert set(counts) >= {Path(page).stem for page, _ in ROWS.values()}
    assert all(5 <= count <= AT_MOST for count in counts.values()), counts


def app_of(page: Path) -> list[ast.Module]:
    """The modules of the app with which a page begins."""

    def is_before_it_runs(block: Block) -> bool:
        return block.mark != "serve"

    found = takewhile(is_before_it_runs, blocks(page.read_text()))
    return [ast.parse(one.code) for one in found if (one.title or "").endswith(".py")]


def lines_of_ours(modules: list[ast.Module]) -> Iterator[str]:
    """The lines of an app that are about this library.

    They import from it, or use what was imported or made of that; or they name it in a setting. A
    statement is one line, however it is broken.
    """
    ours = {"USERSESSIONS"}
    for module in modules:
        for statement in module.body:
            if isinstance(statement, ast.ImportFrom) and is_ours(statement.module or ""):
                ours |= {alias.asname or alias.name for alias in statement.names}
            elif isinstance(statement, ast.Assign) and uses(statement.value, ours):
                targets = [node for target in statement.targets for node in ast.walk(target)]
                ours |= {
                    node.id
                    for node in targets
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
                }
    for module in modules:
        for node in ast.walk(module):
            if isinstance(node, (ast.stmt, ast.ExceptHandler)) and uses(node, ours):
                yield ast.unparse(node).partition("\n")[0]


def is_ours(module: str) -> bool:
    return module.partition(".")[0] == "usersessions"


def uses(node: ast.AST, ours: set[str]) -> bool:
    """Whether a node uses some names, but for the statements inside of it."""
    if isinstance(node, ast.ImportFrom):
        return is_ours(node.module or "") or any(one.name in ours for one in node.names)
    if isinstance(node, ast.Name):
        return node.id in ours
    if isinstance(node, ast.Attribute) and node.attr in ours:
        return True
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and is_ours(node.value)
    inner = (ast.stmt, ast.ExceptHandler)
    return any(
        uses(child, ours) for child in ast.iter_child_nodes(node) if not isinstance(child, inner)
    )
