"""What the `pip install` of a page brings, as far as can be told without installing it."""

from __future__ import annotations

import ast
import shlex
import sys
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["Installation"]

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


class Installation:
    """The distributions that are there once a page's commands have been followed."""

    def __init__(self) -> None:
        self._brought: set[str] = set()

    def add(self, command: str) -> None:
        """Follow a `pip install`.

        Raises:
            AssertionError: if it names an extra that there is not, or what is not installed here.
        """
        pip, install, *wanted = shlex.split(command)
        assert (pip, install) == ("pip", "install") and wanted, "this is no pip install"
        open_ends = [Requirement(line) for line in wanted]
        seen: set[tuple[str, frozenset[str]]] = set()
        while open_ends:
            requirement = open_ends.pop()
            name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if (name, extras) not in seen:
                seen.add((name, extras))
                open_ends += _requirements(name, extras)
        self._brought |= {name for name, _ in seen}

    def check_imports(self, code: str, *, own: set[str]) -> None:
        """Make sure that a file can import what it does.

        Args:
            code: the Python in it.
            own: the modules that the page itself makes.

        Raises:
            AssertionError: if it imports what was not installed.
        """
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                if name.partition(".")[0] not in own:
                    self.check_module(name)

    def check_module(self, name: str) -> None:
        """Make sure that a module is installed, or Python's own.

        Raises:
            AssertionError: if it is not.
        """
        package = name.partition(".")[0]
        if package not in sys.stdlib_module_names and package != "usersessions":
            has_it = any(package in _packages(name) for name in self._brought - {"usersessions"})
            assert has_it, f"the page's pip install does not bring {package}"

    def check_program(self, name: str) -> None:
        """Make sure that a program is installed.

        Raises:
            AssertionError: if it is not.
        """
        programs = {
            entry.name
            for distribution in self._brought
            for entry in metadata.distribution(distribution).entry_points
            if entry.group == "console_scripts"
        }
        assert name in programs, f"the page's pip install does not bring the program {name}"


def _requirements(name: str, extras: frozenset[str]) -> list[Requirement]:
    if name == "usersessions":
        # As it will be installed from here, whatever an older installation says of itself.
        project = _project()
        lines = list(project["dependencies"])
        for extra in extras:
            known = project["optional-dependencies"]
            assert extra in known, f"usersessions has no extra {extra!r}, but: {', '.join(known)}"
            lines += known[extra]
    else:
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            raise AssertionError(f"{name} is not installed where the tests run") from None
    requirements = [Requirement(line) for line in lines]
    return [
        requirement
        for requirement in requirements
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})
    ]


@cache
def _packages(distribution: str) -> frozenset[str]:
    # Of its files, since before Python 3.11 `metadata.packages_distributions` knows not all.
    files = metadata.distribution(distribution).files or []
    return frozenset(file.parts[0].removesuffix(".py") for file in files)


@cache
def _project() -> dict[str, Any]:
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project: dict[str, Any] = toml.loads(PYPROJECT.read_text())["project"]
    return project
