"""What can be asked over the server API: one record a method, and how each is read from JSON.

1. Nothing is carried out here; bounds are checked where that is done.
2. Members that a method does not know are ignored, as Centrifugo does.
3. A member that is absent, null, empty or 0 is unset: Centrifugo's protocol knows no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, TypeVar

from .errors import CommandError, DisconnectCode, ErrorCode, InvalidValue
from .models import FORCED, Disconnect, check_id, check_reason
from .strictjson import JSON

__all__ = [
    "BlockUserCommand",
    "Command",
    "DisconnectCommand",
    "Info",
    "InvalidateUserTokens",
    "Refresh",
    "RevokeTokenCommand",
    "UnblockUserCommand",
    "UserConnections",
    "read_command",
]

T = TypeVar("T")
Params: TypeAlias = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class UserConnections:
    """`user_connections`: list a user's connections."""

    method: ClassVar[str] = "user_connections"

    user: str

    @classmethod
    def read(cls, params: Params) -> UserConnections:
        """Make it from the `params` of a request."""
        return cls(_required(params, "user"))


@dataclass(frozen=True, slots=True)
class DisconnectCommand:
    """`disconnect`: end a user's connections: all, or some; never those in `whitelist`."""

    method: ClassVar[str] = "disconnect"

    user: str
    client: str | None = None
    session: str | None = None
    whitelist: frozenset[str] = frozenset()
    label_filter: Mapping[str, str] = field(default_factory=dict)
    disconnect: Disconnect = FORCED
    revoke: bool = False

    @classmethod
    def read(cls, params: Params) -> DisconnectCommand:
        """Make it from the `params` of a request."""
        disconnect = _optional(params, "disconnect", dict, "an object")
        return cls(
            _required(params, "user"),
            client=_text(params, "client"),
            session=_text(params, "session"),
            whitelist=frozenset(
                check_id("an entry of whitelist", entry)
                for entry in _optional(params, "whitelist", list, "an array of strings") or ()
            ),
            label_filter=_optional(params, "label_filter", dict, "an object of strings") or {},
            disconnect=FORCED if disconnect is None else _disconnect(disconnect),
            revoke=_flag(params, "revoke"),
        )


@dataclass(frozen=True, slots=True)
class BlockUserCommand:
    """`block_user`: keep a user out, and end their connections."""

    method: ClassVar[str] = "block_user"

    user: str
    expire_at: float | None = None

    @classmethod
    def read(cls, params: Params) -> BlockUserCommand:
        """Make it from the `params` of a request."""
        return cls(_required(params, "user"), _number(params, "expire_at"))


@dataclass(frozen=True, slots=True)
class UnblockUserCommand:
    """`unblock_user`: let a user in again."""

    method: ClassVar[str] = "unblock_user"

    user: str

    @classmethod
    def read(cls, params: Params) -> UnblockUserCommand:
        """Make it from the `params` of a request."""
        return cls(_required(params, "user"))


@dataclass(frozen=True, slots=True)
class RevokeTokenCommand:
    """`revoke_token`: keep a token out, and end its connections."""

    method: ClassVar[str] = "revoke_token"

    uid: str = field(repr=False)
    expire_at: float | None = None

    @classmethod
    def read(cls, params: Params) -> RevokeTokenCommand:
        """Make it from the `params` of a request."""
        return cls(_required(params, "uid"), _number(params, "expire_at"))


@dataclass(frozen=True, slots=True)
class InvalidateUserTokens:
    """`invalidate_user_tokens`: keep out a user's older tokens, and end their connections."""

    method: ClassVar[str] = "invalidate_user_tokens"

    user: str
    issued_before: float | None = None
    expire_at: float | None = None

    @classmethod
    def read(cls, params: Params) -> InvalidateUserTokens:
        """Make it from the `params` of a request."""
        return cls(
            _required(params, "user"),
            _number(params, "issued_before"),
            _number(params, "expire_at"),
        )


@dataclass(frozen=True, slots=True)
class Refresh:
    """`refresh`: set when a user's connections expire, or end them now as expired."""

    method: ClassVar[str] = "refresh"

    user: str
    client: str | None = None
    session: str | None = None
    expire_at: float | None = None
    expired: bool = False

    @classmethod
    def read(cls, params: Params) -> Refresh:
        """Make it from the `params` of a request."""
        return cls(
            _required(params, "user"),
            client=_text(params, "client"),
            session=_text(params, "session"),
            expire_at=_number(params, "expire_at"),
            expired=_flag(params, "expired"),
        )


@dataclass(frozen=True, slots=True)
class Info:
    """`info`: list the processes that share the store."""

    method: ClassVar[str] = "info"

    @classmethod
    def read(cls, params: Params) -> Info:
        """Make it from the `params` of a request, of which it needs none."""
        return cls()


Command: TypeAlias = (
    UserConnections
    | DisconnectCommand
    | BlockUserCommand
    | UnblockUserCommand
    | RevokeTokenCommand
    | InvalidateUserTokens
    | Refresh
    | Info
)

_READERS: Mapping[str, Callable[[Params], Command]] = {
    UserConnections.method: UserConnections.read,
    DisconnectCommand.method: DisconnectCommand.read,
    BlockUserCommand.method: BlockUserCommand.read,
    UnblockUserCommand.method: UnblockUserCommand.read,
    RevokeTokenCommand.method: RevokeTokenCommand.read,
    InvalidateUserTokens.method: InvalidateUserTokens.read,
    Refresh.method: Refresh.read,
    Info.method: Info.read,
}


def read_command(method: JSON, params: JSON) -> Command:
    """Read one command.

    Args:
        method: the name of the method.
        params: its parameters; None where there are none.

    Raises:
        CommandError: if there is no such method, or its parameters are not what it takes.

    >>> read_command("user_connections", {"user": "42"})
    UserConnections(user='42')
    """
    if not isinstance(method, str):
        raise CommandError(ErrorCode.BAD_REQUEST, "method must be a string")
    reader = _READERS.get(method)
    if reader is None:
        raise CommandError(ErrorCode.METHOD_NOT_FOUND)
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise CommandError(ErrorCode.BAD_REQUEST, "params must be an object")
    problem = ""
    try:
        return reader(params)
    except InvalidValue as error:
        problem = str(error)
    raise CommandError(ErrorCode.BAD_REQUEST, problem)


def _required(params: Params, name: str) -> str:
    if params.get(name) is None:
        raise InvalidValue(f"{name} is missing")
    return check_id(name, params[name])


def _optional(params: Params, name: str, kind: type[T], what: str) -> T | None:
    value = params.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise InvalidValue(f"{name} must be {what}")


def _disconnect(members: Params) -> Disconnect:
    code = members.get("code")
    reason = members.get("reason")
    if code is None:
        code = DisconnectCode.FORCE_DISCONNECT
    if not isinstance(code, int):
        raise InvalidValue("disconnect code must be an integer")
    if reason is None:
        return Disconnect.of(code)
    return Disconnect(code, check_reason(reason))


def _text(params: Params, name: str) -> str | None:
    value = _optional(params, name, str, "a string")
    return check_id(name, value) if value else None


def _flag(params: Params, name: str) -> bool:
    return _optional(params, name, bool, "true or false") or False


def _number(params: Params, name: str) -> float | None:
    value = params.get(name)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value or None
    raise InvalidValue(f"{name} must be a number of seconds")
