"""Where settings come from: a file, and the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from ..errors import ConfigError, JSONError, require
from ..strictjson import loads
from .settings import Kind, Settings

__all__ = ["ENVIRONMENT_PREFIX", "load", "of_framework"]

ENVIRONMENT_PREFIX: Final = "USERSESSIONS_"
"""What stands before the name of a setting, in upper case, to name its environment variable."""

_FIELDS: Final[Mapping[str, Field[object]]] = {each.name: each for each in fields(Settings)}

_OF_SERVER: Final = frozenset({"host", "port", "log_level"})


def load(
    path: str | os.PathLike[str] | None, *, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings from a file and from environment variables, which win.

    In a variable, `USERSESSIONS_` and the name in upper case, a string stands as it is, and all
    else as JSON; a list may also be separated by commas. Other variables of that prefix are left
    alone, as platforms set some of their own, unless their name looks like a misspelled setting.

    Args:
        path: a `.json` or `.toml` file, in UTF-8; None reads the environment alone.
        environ: the variables; None is those of this process.

    Raises:
        ConfigError: if the file cannot be read, a name is no setting, or a value is of another
            kind than its setting.
        MissingExtraError: if a TOML file is to be read by Python 3.10 without the extra `serve`.

    >>> load(None, environ={"USERSESSIONS_PORT": "9000", "USERSESSIONS_API_KEYS": "a,b"}).api_keys
    ('a', 'b')
    >>> load(None, environ={"USERSESSIONS_PROT": "9000"})
    Traceback (most recent call last):
    usersessions.errors.ConfigError: USERSESSIONS_PROT is no setting; did you mean port?
    """
    values: dict[str, object] = {}
    if path is not None:
        source = os.fsdecode(path)
        for name, value in _read(Path(source)).items():
            if name not in _FIELDS:
                hint = _suggestion(name) or "; `usersessions serve --help` lists them all"
                raise ConfigError(f"{source}: {name!r} is no setting{hint}")
            values[name] = _checked(f"{source}: {name}", _FIELDS[name], value)
    for variable, text in (os.environ if environ is None else environ).items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        if name in _FIELDS:
            values[name] = _checked(variable, _FIELDS[name], _parsed(_FIELDS[name], text))
        elif hint := _suggestion(name):
            raise ConfigError(f"{variable} is no setting{hint}")
    return Settings(**values)  # type: ignore[arg-type]  # each was checked by its field's kind


def of_framework(
    given: Mapping[str, object], *, where: str, others: Collection[str] = ()
) -> Settings:
    """Read the settings that an app keeps among those of its framework: by name in upper case.

    Args:
        given: the settings; lists may be tuples.
        where: how the framework calls them, for errors.
        others: further names that it knows, to suggest.

    Raises:
        ConfigError: if a name is no setting, or one of the server alone, such as `PORT`; or if a
            value is of another kind than its setting.

    >>> of_framework({"API_KEYS": ("a", "b")}, where="APP").api_keys
    ('a', 'b')
    >>> of_framework({"STOR": "memory"}, where="APP")
    Traceback (most recent call last):
    usersessions.errors.ConfigError: APP: 'STOR' is no setting; did you mean STORE?
    """
    known = {name.upper(): each for name, each in _FIELDS.items() if name not in _OF_SERVER}
    values: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            close = get_close_matches(str(name).upper(), [*known, *others], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{where}: {name!r} is no setting{hint}")
        setting, listed = known[name], list(value) if isinstance(value, tuple) else value
        values[setting.name] = _checked(f"{where}: {name}", setting, listed)
    return Settings(**values)  # type: ignore[arg-type]  # each was checked by its field's kind


def _read(path: Path) -> Mapping[str, object]:
    if path.suffix not in (".json", ".toml"):
        raise ConfigError(f"{path}: the name of a config file must end in .json or .toml")
    toml = None
    if path.suffix == ".toml":
        toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", extra="serve")
    problem = ""
    parsed: object = None
    try:
        data = path.read_bytes()
        parsed = loads(data) if toml is None else toml.loads(data.decode())
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except JSONError as error:
        problem = str(error)
    except (RecursionError, ValueError) as error:
        problem = f"not valid TOML: {error}"
    if problem:
        # Raised out here, since the errors above may hold the whole text of the file.
        raise ConfigError(f"{path}: {problem}")
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path}: the settings must be one JSON object")
    return parsed


def _parsed(setting: Field[object], text: str) -> object:
    kind: Kind = setting.metadata["kind"]
    if kind.form == "text":
        return text
    if kind.form == "list" and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return loads(text)
    except JSONError:
        # As a string it is of no kind that is asked for here, and is refused as such.
        return text


def _checked(where: str, setting: Field[object], value: object) -> object:
    kind: Kind = setting.metadata["kind"]
    if not kind.accepts(value):
        raise ConfigError(f"{where} must be {kind.wanted}")
    return tuple(value) if isinstance(value, list) else value


def _suggestion(name: str) -> str:
    close = get_close_matches(name, _FIELDS, n=1)
    return f"; did you mean {close[0]}?" if close else ""
