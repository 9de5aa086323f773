"""A page of the documentation, followed from top to bottom as a new user does.

1. Nothing is typed anew: what is installed, written, run and seen is read from the page.
2. Its `sh` blocks are run in one shell, in a folder that is empty but for its own files.
3. Port 8000 is a free port in all of its blocks, and redis://localhost:6379 a server of this test.
4. A command runs once. Only a block that does nothing but `cat` is done again, until something in
   the background has written what is expected.
5. A command that prints nothing has no output under it, and no other.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.installations import Installation
from tests.pages import Block, Comparison, blocks
from tests.redis_servers import RedisServer
from tests.servers import START_SECONDS, UNMEASURED, until
from tests.terminals import Background, Done, Terminal, terminal

__all__ = ["follow"]

PARTS = {
    "`pip install`": lambda block: _is_install(block),
    "file with its title": lambda block: block.title is not None,
    "command to serve": lambda block: block.mark == "serve",
    "command to try with its output": lambda block: block.shown is not None,
}
POLL_SECONDS = 10.0
REDIS = "redis://localhost:6379"


def _is_install(block: Block) -> bool:
    return block.language == "sh" and block.code.startswith("pip install ")


@dataclass
class Walk:
    """A new user, who follows a page."""

    page: str
    folder: Path
    terminal: Terminal
    port: int
    own: set[str]
    installed: Installation = field(default_factory=Installation)
    comparison: Comparison = field(default_factory=Comparison)
    server: Background | None = None

    def follow(self, block: Block) -> None:
        """Do what a block is there for.

        Raises:
            AssertionError: if it does not work, with all that there is to see.
        """
        try:
            if block.title is not None:
                self._write(block, self.folder / block.title)
            elif _is_install(block):
                self.installed.add(block.code)
            elif block.mark == "serve":
                self._serve(block)
            elif block.mark == "try":
                self._try(block)
        except AssertionError as failure:
            raise AssertionError(self._report(block, str(failure))) from None

    def end(self) -> None:
        """End the server as its user would.

        Raises:
            AssertionError: if it has ended before, or complained.
        """
        if self.server is not None:
            server, self.server = self.server, None
            lived = server.alive
            server.stop()
            assert lived, f"the server had ended by itself:\n{server.output}"
            assert "Traceback" not in server.output, f"the server said:\n{server.output}"

    def leave(self) -> None:
        """End the server, whatever it says."""
        if self.server is not None:
            self.server.stop()

    def _write(self, block: Block, path: Path) -> None:
        if path.suffix == ".py":
            self.installed.check_imports(block.code, own=self.own)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code)

    def _serve(self, block: Block) -> None:
        assert re.search(r" &\s*\Z", block.code), "it must end in ` &`, for the page goes on here"
        assert str(self.port) in block.code, "it must say that the port is 8000"
        program, *arguments = [
            word for word in shlex.split(block.code) if not re.match(r"\w+=", word)
        ]
        if program != "python":
            self.installed.check_program(program)
        elif arguments[0] == "-m":
            self.installed.check_module(arguments[1])
        self.end()
        self.server = self.terminal.start(block.code)
        until(self._accepts, what=f"port {self.port} to answer", seconds=START_SECONDS)

    def _accepts(self) -> bool:
        assert self.server is not None and self.server.alive, "the server has ended"
        try:
            socket.create_connection(("localhost", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _try(self, block: Block) -> None:
        shown = block.shown or ""
        may_wait = all(line.startswith("cat ") for line in block.code.splitlines())
        done = Done(0, "", "")

        def agrees() -> bool:
            nonlocal done
            done = self.terminal.run(block.code)
            return done.status == 0 and self.comparison.agrees(shown, done.output)

        try:
            # In 0 seconds, it is asked once.
            until(agrees, what="what is shown", seconds=POLL_SECONDS if may_wait else 0.0)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{_difference(shown, done)}") from None

    def _report(self, block: Block, failure: str) -> str:
        said = self.server.output if self.server is not None else "(there is none)\n"
        return (
            f"{self.page}, line {block.line}:\n{block.code}\n{failure}\n"
            f"--- the server's output:\n{said}"
        )


def _difference(shown: str, done: Done) -> str:
    return (
        f"--- shown:\n{shown}\n--- came (status {done.status}):\n{done.output}\n"
        f"--- on the error stream:\n{done.errors}"
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """That of this process, without its settings for us and for proxies, but with its programs."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("USERSESSIONS_") and not name.lower().endswith("_proxy")
    }
    programs = [str(Path(sys.executable).parent), env.get("PATH", os.defpath)]
    paths = [os.path.abspath(path) for path in env.pop("PYTHONPATH", "").split(os.pathsep) if path]
    return {
        **env,
        **UNMEASURED,
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }


def _settled(text: str, *, port: int, redis: str) -> str:
    return re.sub(r"\b8000\b", str(port), text.replace(REDIS, redis))


def follow(text: str, page: str, tmp_path: Path) -> None:
    """Follow a page.

    Raises:
        AssertionError: if it lacks a part, or something on it does not work as it shows.
    """
    found = list(blocks(text))
    marked = [block for block in found if block.mark in ("serve", "try")]
    marks = re.findall(r"<!-- (?:serve|try) -->", text)
    assert len(marks) == len(marked), f"{page} has a mark without a block under it"
    assert {block.language for block in marked} <= {"sh"}, f"{page} has a mark on what is no sh"
    for part, is_part in PARTS.items():
        assert any(map(is_part, found)), f"{page} has no {part}"

    folder, papers = tmp_path / "project", tmp_path / "papers"
    folder.mkdir()
    papers.mkdir()
    with ExitStack() as opened:
        needs_redis = any(REDIS in block.code for block in found if block.title or block.mark)
        redis = opened.enter_context(RedisServer()).url if needs_redis else REDIS
        shell = opened.enter_context(terminal(folder, papers=papers, env=_environment()))
        own = {Path(block.title).parts[0].removesuffix(".py") for block in found if block.title}
        walk = Walk(page, folder, shell, _free_port(), own)
        opened.callback(walk.leave)
        for block in found:
            code = _settled(block.code, port=walk.port, redis=redis)
            shown = block.shown and _settled(block.shown, port=walk.port, redis=redis)
            walk.follow(replace(block, code=code, shown=shown))
        walk.end()
