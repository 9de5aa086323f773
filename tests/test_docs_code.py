"""The code in the documentation runs: docstrings, README and the pages under docs/.

A block of Python in a page is run if the line `<!-- run -->` stands before it; the blocks of a page
share their names, top to bottom. One that begins with `>>>` is a doctest. Blocks that are not run
must at least be Python.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from tests.modules import module_names
from tests.redis_servers import RedisServer

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPTIONS = doctest.ELLIPSIS

_BLOCK = re.compile(
    r"^(?P<indent> *)```python\b[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_RUN_MARK = re.compile(r"<!-- run -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A block of Python in a page; `line` is where its code begins, counted from 0."""

    code: str
    line: int
    runs: bool

    @property
    def is_doctest(self) -> bool:
        return self.code.startswith(">>>")


def blocks(text: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(text):
        code = "".join(
            line.removeprefix(found["indent"]) for line in found["code"].splitlines(keepends=True)
        )
        line = text.count("\n", 0, found.start("code"))
        yield Block(code, line, runs=bool(_RUN_MARK.search(text, 0, found.start())))


def tree(block: Block, filename: str) -> ast.Module:
    # Empty lines before it make the line numbers of errors those of the page.
    source = "\n" * block.line + block.code
    code = compile(
        source,
        filename,
        "exec",
        ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    assert isinstance(code, ast.Module)
    return code


def execute(block: Block, filename: str, names: dict[str, object]) -> None:
    code = compile(
        tree(block, filename), filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    result = eval(code, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def check_doctest(block: Block, filename: str, names: dict[str, object]) -> None:
    examples = doctest.DocTestParser().get_doctest(
        block.code, names, filename, filename, block.line
    )
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    assert runner.run(examples, clear_globs=False).failed == 0
    names.update(examples.globs)


def check_page(text: str, filename: str) -> None:
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in blocks(text):
        if not block.runs:
            if not block.is_doctest:
                tree(block, filename)
        elif block.is_doctest:
            check_doctest(block, filename, names)
        else:
            execute(block, filename, names)


@pytest.mark.parametrize("name", module_names())
def test_the_examples_in_the_docstrings_of_a_module_run(name: str) -> None:
    assert doctest.testmod(import_module(name), optionflags=OPTIONS).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as servers:
        text = page.read_text()
        if "REDIS_URL" in text:
            monkeypatch.setenv("REDIS_URL", servers.enter_context(RedisServer()).url)
        check_page(text, str(page))


def test_blocks_of_a_page_share_their_names_and_may_await() -> None:
    check_page(
        "<!-- run -->\n```python\nimport asyncio\nx = await asyncio.sleep(0, 41)\n```\n"
        "<!-- run -->\n\n  ```python\n  x += 1\n  ```\n"
        '<!-- run -->\n```python title="t"\n>>> x\n42\n```\n',
        "page.md",
    )


def test_a_block_without_the_mark_is_not_run_but_must_be_python() -> None:
    check_page("```python\n1 / 0\n```\n```python\n>>> 1 / 0\n```\n", "page.md")
    with pytest.raises(SyntaxError):
        check_page("```python\nnot Python at all\n```\n", "page.md")


def test_an_error_in_a_block_names_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        check_page("one\n\n<!-- run -->\n```python\n1 / 0\n```\n", "page.md")
    assert failure.traceback[-1].lineno == 4
    assert str(failure.traceback[-1].path).endswith("page.md")


def test_a_doctest_whose_answer_differs_fails() -> None:
    with pytest.raises(AssertionError):
        check_page("<!-- run -->\n```python\n>>> 1 + 1\n3\n```\n", "page.md")
