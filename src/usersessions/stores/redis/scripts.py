"""The scripts that Redis runs, each in a file of its own; what they share stands before each."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1
from importlib.resources import files

__all__ = ["Script", "script", "sources"]

_FOLDER = files("usersessions.stores.redis") / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the digest that Redis knows it by once it has run there."""

    name: str
    source: bytes = field(repr=False)
    digest: str = field(repr=False)


def sources() -> list[bytes]:
    """The sources of all scripts.

    >>> len(sources()) > 10
    True
    """
    names = sorted(one.name.removesuffix(".lua") for one in _FOLDER.iterdir())
    return [script(name).source for name in names if name != "shared"]


@cache
def script(name: str) -> Script:
    """The script of a name.

    >>> script("end").name, len(script("end").digest)
    ('end', 40)
    """
    source = (_FOLDER / "shared.lua").read_bytes() + (_FOLDER / f"{name}.lua").read_bytes()
    # No secret: it is how the EVALSHA command names a script.
    return Script(name, source, sha1(source, usedforsecurity=False).hexdigest())
