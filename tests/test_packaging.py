"""What a user installs: the wheel, what importing it loads, and what it makes public."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import get_origin

import pytest

import usersessions
from tests.modules import module_names, modules
from usersessions.errors import UserSessionsError


def output_of(script: str) -> str:
    """What a fresh interpreter prints that finds packages where this one does."""
    paths = [str(Path(usersessions.__file__).parent.parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", f"import sys; sys.path[:] = {paths}\n{script}"],
        env={},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_loads_pyjwt_and_typing_extensions_and_nothing_else() -> None:
    loaded = output_of(
        "import jwt\n"  # which loads cryptography by itself where that is installed
        "before = set(sys.modules)\n"
        "import usersessions\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*(names - sys.stdlib_module_names))"
    )
    assert set(loaded.split()) - {"jwt", "typing_extensions"} == {"usersessions"}


def test_importing_it_starts_no_thread() -> None:
    assert output_of("import threading, usersessions; print(threading.active_count())") == "1\n"


def test_every_public_name_is_there_with_the_core_dependencies_alone() -> None:
    allowed = {"usersessions", "jwt", "typing_extensions"}
    shown = output_of(
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] not in sys.stdlib_module_names | {allowed}:\n"
        "            raise ModuleNotFoundError(f'no {name} here', name=name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "from usersessions import *\n"
        "import usersessions\n"
        "print(len([getattr(usersessions, name) for name in usersessions.__all__]))\n"
        "print('cryptography' in sys.modules)"
    )
    assert shown.split() == [str(len(usersessions.__all__)), "False"]


@pytest.mark.parametrize("name", module_names())
def test_a_module_and_its_public_names_are_documented(name: str) -> None:
    module = import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert undocumented(module) == []


def undocumented(module: ModuleType) -> list[str]:
    """The public classes and functions of a module that have no docstring of their own."""
    public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    return [
        name
        for name, thing in public.items()
        # Aliases of types (which Python 3.10 takes for classes) are described by comments.
        if get_origin(thing) is None
        and (inspect.isclass(thing) or inspect.isroutine(thing))
        and not _own_docstring(thing)
    ]


def _own_docstring(thing: object) -> str:
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    # A dataclass without one is given its own signature as docstring.
    return "" if not doc or doc.startswith(f"{getattr(thing, '__name__', '')}(") else doc


def test_every_exception_that_can_be_raised_is_exported_from_the_package() -> None:
    modules()

    def tree(root: type[UserSessionsError]) -> set[type[UserSessionsError]]:
        return {root}.union(*(tree(child) for child in root.__subclasses__()))

    ours = {error for error in tree(UserSessionsError) if error.__module__.startswith("usersess")}
    missing = {error.__name__ for error in ours} - set(usersessions.__all__)
    assert not missing


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (files("usersessions") / "py.typed").is_file()


def test_the_extra_all_has_all_other_extras() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    found = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\n", text, re.DOTALL)
    assert found
    *extras, last = re.findall(r"^(\w+) = \[", found[1], re.MULTILINE)
    all_of_them = found[1].partition("\nall = [")[2]
    joined = ",".join(re.findall(r'"usersessions\[(.*)\]"', all_of_them)).split(",")
    assert (last, sorted(joined)) == ("all", sorted(extras))


@pytest.fixture
def wheel() -> Distribution:
    """What is installed of the wheel; `make test` demands that it is."""
    demanded = "USERSESSIONS_WHEEL" in os.environ
    try:
        found = distribution("usersessions")
    except PackageNotFoundError:
        if demanded:
            raise
        pytest.skip("the tests run on the source, not on an installed wheel")
    if Path(str(found.locate_file("usersessions"))) != Path(usersessions.__file__).parent:
        assert not demanded, f"the wheel is installed, but not tested: {usersessions.__file__}"
        pytest.skip("the tests run on the source, not on the installed wheel")
    return found


def test_the_wheel_holds_the_package_its_types_and_its_license(wheel: Distribution) -> None:
    names = [str(path) for path in wheel.files or ()]
    assert "usersessions/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    folders = {name.partition("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} <= {
        "usersessions",
        "..",  # the console script
    }


def test_the_wheel_needs_pyjwt_and_typing_extensions_alone(wheel: Distribution) -> None:
    core = {line for line in wheel.requires or () if "extra ==" not in line}
    assert {re.split(r"[^\w-]", line)[0].lower() for line in core} == {"pyjwt", "typing-extensions"}


def test_the_wheel_has_the_version_and_the_command_of_the_package(wheel: Distribution) -> None:
    assert wheel.version == usersessions.__version__
    scripts = {entry.name: entry.value for entry in wheel.entry_points}
    assert scripts == {"usersessions": "usersessions.cli:main"}
