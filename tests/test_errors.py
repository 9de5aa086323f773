"""The exception tree, the codes of the wire, and the word on extras that are missing."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import usersessions
from usersessions import errors
from usersessions.errors import (
    CommandError,
    ConfigError,
    ConnectRefused,
    DisconnectCode,
    ErrorCode,
    InvalidValue,
    JSONError,
    KeysUnavailable,
    MissingExtraError,
    StoreUnavailable,
    TokenError,
    TokenExpired,
    UserSessionsError,
    require,
)

CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, Exception) and each.__module__ == errors.__name__
]


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (UserSessionsError, (Exception,)),
        (ConfigError, (UserSessionsError, ValueError)),
        (InvalidValue, (UserSessionsError, ValueError)),
        (JSONError, (InvalidValue,)),
        (TokenError, (UserSessionsError, ValueError)),
        (TokenExpired, (TokenError,)),
        (KeysUnavailable, (TokenError,)),
        (CommandError, (UserSessionsError,)),
        (ConnectRefused, (UserSessionsError,)),
        (StoreUnavailable, (UserSessionsError,)),
        (MissingExtraError, (UserSessionsError, ImportError)),
    ],
)
def test_an_error_is_also_what_callers_expect(
    error: type[Exception], parents: tuple[type[Exception], ...]
) -> None:
    assert error.__bases__ == parents


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_of_one_tree_is_in_its_drawing_and_is_exported(
    error: type[Exception],
) -> None:
    assert issubclass(error, UserSessionsError)
    assert f" {error.__name__} " in (errors.__doc__ or "").replace("\n", " ")
    assert error.__name__ in errors.__all__
    assert getattr(usersessions, error.__name__) is error


def test_the_api_error_codes_are_those_of_the_wire() -> None:
    assert {int(code): code.message for code in ErrorCode} == {
        100: "internal server error",
        101: "unauthorized",
        103: "permission denied",
        104: "method not found",
        106: "limit exceeded",
        107: "bad request",
        108: "not available",
        109: "token expired",
        110: "expired",
        111: "too many requests",
    }


def test_the_disconnect_codes_are_those_of_the_wire() -> None:
    assert {int(code): code.reason for code in DisconnectCode} == {
        3000: "connection closed",
        3001: "shutdown",
        3004: "internal server error",
        3005: "connection expired",
        3008: "slow",
        3011: "force reconnect",
        3012: "no pong",
        3500: "invalid token",
        3501: "bad request",
        3502: "stale",
        3503: "force disconnect",
        3504: "connection limit",
        3507: "permission denied",
    }


def test_codes_are_found_by_their_number() -> None:
    assert ErrorCode(107) is ErrorCode.BAD_REQUEST
    assert DisconnectCode(3503) is DisconnectCode.FORCE_DISCONNECT


@pytest.mark.parametrize("code", [0, 2999, 3002, 3999, 4000, 4999, -1])
def test_a_code_of_an_apps_own_has_no_standard_reason(code: int) -> None:
    assert DisconnectCode.reason_of(code) == ""


def test_a_command_error_says_its_code_and_the_detail() -> None:
    error = CommandError(ErrorCode.BAD_REQUEST, "user is missing")
    assert (error.code, error.detail) == (ErrorCode.BAD_REQUEST, "user is missing")
    assert str(error) == "bad request: user is missing"
    assert str(CommandError(ErrorCode.METHOD_NOT_FOUND)) == "method not found"


def test_a_refusal_has_the_standard_reason_of_its_code_unless_it_gives_another() -> None:
    standard = ConnectRefused(3500)
    assert (standard.code, standard.reason) == (3500, "invalid token")
    assert str(standard) == "connection refused: 3500 invalid token"
    own = ConnectRefused(4500, "banned")
    assert (own.code, own.reason) == (4500, "banned")
    assert str(own) == "connection refused: 4500 banned"
    assert ConnectRefused(3500, "").reason == ""
    assert str(ConnectRefused(4500)) == "connection refused: 4500"


def test_the_code_of_a_refusal_is_a_plain_number() -> None:
    assert type(ConnectRefused(DisconnectCode.SHUTDOWN).code) is int


@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        CommandError(ErrorCode.BAD_REQUEST, "user is missing"),
        CommandError(ErrorCode.INTERNAL),
        ConnectRefused(4500, "banned"),
        ConnectRefused(DisconnectCode.SHUTDOWN),
        MissingExtraError("httpx is not installed", name="httpx"),
        TokenExpired("the token has expired"),
        JSONError("not valid JSON"),
    ],
    ids=repr,
)
def test_an_error_crosses_to_another_process_whole(
    error: Exception, duplicate: Callable[[Exception], Exception]
) -> None:
    twin = duplicate(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported until the test is over."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_optional_module_that_is_there_is_imported() -> None:
    assert require("xml.dom", extra="any") is sys.modules["xml.dom"]


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("not_installed_anywhere", "not_installed_anywhere"),
        ("not_installed_anywhere.part", "not_installed_anywhere"),
        ("json.not_a_part", "json.not_a_part"),
    ],
)
def test_a_missing_extra_names_the_command_that_installs_it(module: str, missing: str) -> None:
    with pytest.raises(ImportError) as caught:
        require(module, extra="serve")
    assert isinstance(caught.value, MissingExtraError)
    assert str(caught.value) == (
        f'{module} is not installed; run: pip install "usersessions[serve]"'
    )
    assert caught.value.name == missing
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    "broken",
    [
        "import a_dependency_of_it_that_is_missing",
        "import an_extra._a_part_that_is_missing",
        "import an_extra_",
        "raise ModuleNotFoundError('something else is wrong')",
        "raise ImportError('it does not work here')",
    ],
)
def test_a_module_that_is_there_but_broken_raises_its_own_error(folder: Path, broken: str) -> None:
    package = folder / "an_extra"
    package.mkdir()
    (package / "__init__.py").write_text(broken)
    with pytest.raises(ImportError) as caught:
        require("an_extra", extra="any")
    assert not isinstance(caught.value, MissingExtraError)
