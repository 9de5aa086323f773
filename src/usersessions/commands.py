"""What can be asked over the server API: one record a method, and how each is read from JSON.

Nothing is carried out here. Members that a method does not know are ignored, as Centrifugo does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

from .errors import CommandError, DisconnectCode, ErrorCode, InvalidValue
from .models import Disconnect, check_id
from .strictjson import JSON

__all__ = ["Command", "DisconnectCommand", "UserConnections", "read_command"]

T = TypeVar("T")

FORCE_DISCONNECT = Disconnect.of(DisconnectCode.FORCE_DISCONNECT)


@dataclass(frozen=True, slots=True)
class UserConnections:
    """`user_connections`: list a user's connections."""

    method: ClassVar[str] = "user_connections"

    user: str

    @classmethod
    def read(cls, params: Mapping[str, JSON]) -> UserConnections:
        """Make it from the `params` of a request."""
        return cls(_user(params))


@dataclass(frozen=True, slots=True)
class DisconnectCommand:
    """`disconnect`: end a user's connections, all or one, never those in `whitelist`."""

    method: ClassVar[str] = "disconnect"

    user: str
    client: str | None = None
    whitelist: frozenset[str] = frozenset()
    disconnect: Disconnect = FORCE_DISCONNECT

    @classmethod
    def read(cls, params: Mapping[str, JSON]) -> DisconnectCommand:
        """Make it from the `params` of a request."""
        client = _optional(params, "client", str, "a string")
        whitelist = _optional(params, "whitelist", list, "an array of strings") or []
        disconnect = _optional(params, "disconnect", dict, "an object")
        return cls(
            _user(params),
            # An unset member and an empty one are the same in Centrifugo's protocol.
            client=check_id("client", client) if client else None,
            whitelist=frozenset(check_id("an entry of whitelist", entry) for entry in whitelist),
            disconnect=FORCE_DISCONNECT if disconnect is None else _disconnect(disconnect),
        )


Command: TypeAlias = UserConnections | DisconnectCommand

_READERS: Mapping[str, Callable[[Mapping[str, JSON]], Command]] = {
    UserConnections.method: UserConnections.read,
    DisconnectCommand.method: DisconnectCommand.read,
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


def _user(params: Mapping[str, JSON]) -> str:
    if params.get("user") is None:
        raise InvalidValue("user is missing")
    return check_id("user", params["user"])


def _optional(params: Mapping[str, JSON], name: str, kind: type[T], what: str) -> T | None:
    value = params.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise InvalidValue(f"{name} must be {what}")


def _disconnect(members: Mapping[str, JSON]) -> Disconnect:
    code = members.get("code")
    reason = members.get("reason")
    if code is None:
        code = DisconnectCode.FORCE_DISCONNECT
    if not isinstance(code, int):
        raise InvalidValue("disconnect code must be an integer")
    if reason is None:
        return Disconnect.of(code)
    return Disconnect(code, check_id("disconnect reason", reason))
