"""Everything that can go wrong, and the numbers the wire knows it by.

    UserSessionsError
    ├── ConfigError (ValueError)        a setting, key or option that cannot work
    ├── InvalidValue (ValueError)       a value outside its bounds: a user ID, meta, a name
    │   └── JSONError                   text that is not strict JSON
    ├── TokenError (ValueError)         a token that is refused, and why
    │   ├── TokenExpired                it was good once
    │   ├── TokenRevoked                it is good, but it or its user is kept out
    │   └── KeysUnavailable             its keys cannot be fetched now; try again later
    ├── CommandError                    an API command that failed, with its error code
    ├── ConnectRefused                  a connection that is refused, with its disconnect code
    ├── NoSuchSession (LookupError)     the user has no session of this client ID
    ├── SessionTooYoung                 a login is too young to end other sessions
    ├── StoreUnavailable                what the processes share cannot be reached now
    └── MissingExtraError (ImportError) an optional dependency that is not installed

No message here ever carries a token, a key or a `meta`: each says what was wrong by name and kind.
"""

from __future__ import annotations

from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "CommandError",
    "ConfigError",
    "ConnectRefused",
    "DisconnectCode",
    "ErrorCode",
    "InvalidValue",
    "JSONError",
    "KeysUnavailable",
    "MissingExtraError",
    "NoSuchSession",
    "SessionTooYoung",
    "StoreUnavailable",
    "TokenError",
    "TokenExpired",
    "TokenRevoked",
    "UserSessionsError",
    "require",
]


class ErrorCode(IntEnum):
    """The error codes of the server API, each with its standard message.

    >>> ErrorCode.BAD_REQUEST, ErrorCode.BAD_REQUEST.message
    (<ErrorCode.BAD_REQUEST: 107>, 'bad request')
    """

    message: str

    # Without the default, type checkers refuse to look up `ErrorCode(107)`.
    def __new__(cls, code: int, message: str = "") -> ErrorCode:
        member = int.__new__(cls, code)
        member._value_ = code
        member.message = message
        return member

    INTERNAL = 100, "internal server error"
    UNAUTHORIZED = 101, "unauthorized"
    PERMISSION_DENIED = 103, "permission denied"
    METHOD_NOT_FOUND = 104, "method not found"
    LIMIT_EXCEEDED = 106, "limit exceeded"
    BAD_REQUEST = 107, "bad request"
    NOT_AVAILABLE = 108, "not available"
    TOKEN_EXPIRED = 109, "token expired"
    EXPIRED = 110, "expired"
    TOO_MANY_REQUESTS = 111, "too many requests"


class DisconnectCode(IntEnum):
    """Why a connection is ended: the standard codes, each with its reason.

    A client may reconnect after 3000-3499 and must not after 3500-3999. An app's own codes follow
    the same rule: 4000-4499 invite a reconnect, 4500-4999 forbid it.

    >>> DisconnectCode.FORCE_DISCONNECT, DisconnectCode.FORCE_DISCONNECT.reason
    (<DisconnectCode.FORCE_DISCONNECT: 3503>, 'force disconnect')
    """

    reason: str

    def __new__(cls, code: int, reason: str = "") -> DisconnectCode:
        member = int.__new__(cls, code)
        member._value_ = code
        member.reason = reason
        return member

    CONNECTION_CLOSED = 3000, "connection closed"
    SHUTDOWN = 3001, "shutdown"
    INTERNAL_SERVER_ERROR = 3004, "internal server error"
    CONNECTION_EXPIRED = 3005, "connection expired"
    SLOW = 3008, "slow"
    FORCE_RECONNECT = 3011, "force reconnect"
    NO_PONG = 3012, "no pong"
    INVALID_TOKEN = 3500, "invalid token"
    BAD_REQUEST = 3501, "bad request"
    STALE = 3502, "stale"
    FORCE_DISCONNECT = 3503, "force disconnect"
    CONNECTION_LIMIT = 3504, "connection limit"
    PERMISSION_DENIED = 3507, "permission denied"

    @classmethod
    def reason_of(cls, code: int) -> str:
        """The standard reason of a code; `""` for a code of an app's own.

        >>> DisconnectCode.reason_of(3001), DisconnectCode.reason_of(4001)
        ('shutdown', '')
        """
        return next((known.reason for known in cls if known == code), "")


class UserSessionsError(Exception):
    """The root of every exception this library raises on purpose."""


class ConfigError(UserSessionsError, ValueError):
    """A setting, key or option cannot work; the message says which, and how to mend it."""


class InvalidValue(UserSessionsError, ValueError):
    """A value is outside its bounds; the message names the value and the bound."""


class JSONError(InvalidValue):
    """Text is not strict JSON, or a Python value has no JSON form."""


class TokenError(UserSessionsError, ValueError):
    """A token is refused; the message says why, without a word of the token itself."""


class TokenExpired(TokenError):
    """A token was good until its `exp`, which is past."""


class TokenRevoked(TokenError):
    """A token is well signed and in time, but it was revoked, or its user is blocked."""


class KeysUnavailable(TokenError):
    """The keys that would verify a token could not be fetched; the token may be good."""


class CommandError(UserSessionsError):
    """An API command failed.

    `code` is an `ErrorCode`; the message is the code's own, with a detail where there is one.

    >>> str(CommandError(ErrorCode.BAD_REQUEST, "user must be a string"))
    'bad request: user must be a string'
    """

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        # The arguments as they are, so that it can be pickled, as a task queue does.
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code.message}: {self.detail}" if self.detail else self.code.message


class ConnectRefused(UserSessionsError):
    """A connection may not be made: close it with this `code` and `reason`.

    Without a `reason`, it is the standard one of the code. The exception that led here, if any, is
    its `__cause__`.

    >>> refused = ConnectRefused(DisconnectCode.INVALID_TOKEN)
    >>> refused.code, refused.reason
    (3500, 'invalid token')
    """

    def __init__(self, code: int, reason: str | None = None) -> None:
        self.code = int(code)
        self.reason = DisconnectCode.reason_of(code) if reason is None else reason
        super().__init__(self.code, self.reason)

    def __str__(self) -> str:
        return f"connection refused: {self.code} {self.reason}".rstrip()


class NoSuchSession(UserSessionsError, LookupError):
    """The user has no session of this client ID; whether somebody else has one is not said."""


class SessionTooYoung(UserSessionsError):
    """The login behind a session is too young to end other sessions."""


class StoreUnavailable(UserSessionsError):
    """The store that the processes share did not answer in time; try again later.

    What was asked may have been done all the same: ask again, as asking twice does no harm.
    """


class MissingExtraError(UserSessionsError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Only the absence of `module` itself, or of a package it is in, is reported so: a module that is
    there but fails to import raises its own error, which would otherwise be hidden.

    Raises:
        MissingExtraError: if the module is not installed.

    >>> require("json", extra="none").__name__
    'json'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f'{module} is not installed; run: pip install "usersessions[{extra}]"', name=error.name
        ) from error
