"""The modules of the package, for the tests that hold each of them to something."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

import usersessions


def module_names() -> list[str]:
    """All modules but `__main__`, which is a program and runs when it is imported."""
    found = pkgutil.walk_packages(usersessions.__path__, "usersessions.")
    names = [module.name for module in found if not module.name.endswith(".__main__")]
    return ["usersessions", *names]


def modules() -> list[ModuleType]:
    return [import_module(name) for name in module_names()]
