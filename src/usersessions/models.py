"""The records everything else speaks of: frozen, slotted, checked when they are made.

`meta` is for the server alone. No `repr` here shows it, and no record that goes to a client has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from .errors import ConfigError, DisconnectCode, InvalidValue, JSONError
from .strictjson import JSON, dumps, loads

__all__ = [
    "FORCED",
    "MAX_DATA_BYTES",
    "MAX_ID_LENGTH",
    "MAX_LABELS",
    "MAX_REASON_BYTES",
    "ConnectRequest",
    "Disconnect",
    "Identity",
    "LimitPolicy",
    "SessionLimit",
    "check_id",
    "check_labels",
    "check_reason",
    "check_time",
]

MAX_ID_LENGTH = 255
"""The longest user ID, token ID, client ID, app name or version, in characters."""

MAX_DATA_BYTES = 8192
"""The largest `meta`, `info` or `data`, in bytes of compact JSON."""

MAX_LABELS = 16
"""The most labels of one session."""

MAX_REASON_BYTES = 123
"""The longest disconnect reason, in bytes: what a WebSocket close frame holds (RFC 6455, 5.5.1)."""

MAX_TIME = 2**53
"""The latest time, in seconds: beyond it, JSON numbers are no longer exact (RFC 7493, 2.2)."""


def check_id(name: str, value: object) -> str:
    """Give `value` back if it is a string that may serve as an ID or a name.

    Raises:
        InvalidValue: if it is not a string, is over `MAX_ID_LENGTH` characters, or holds a lone
            surrogate.

    >>> check_id("user", "42")
    '42'
    >>> check_id("user", 42)
    Traceback (most recent call last):
    usersessions.errors.InvalidValue: user must be a string, not int
    """
    if not isinstance(value, str):
        raise InvalidValue(f"{name} must be a string, not {type(value).__name__}")
    if len(value) > MAX_ID_LENGTH:
        raise InvalidValue(f"{name} is longer than {MAX_ID_LENGTH} characters")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidValue(f"{name} holds a lone surrogate, which is not a character")
    return value


def check_reason(value: object) -> str:
    """Give `value` back if it is a string that may be the reason of a disconnect.

    Raises:
        InvalidValue: if it is not a string, is over `MAX_REASON_BYTES` of UTF-8, or holds a lone
            surrogate.

    >>> check_reason("bye")
    'bye'
    """
    # Cut, so that it is told its own bound, and never that of an ID, which is higher.
    kept = value[: MAX_REASON_BYTES + 1] if isinstance(value, str) else value
    reason = check_id("disconnect reason", kept)
    if len(reason.encode()) > MAX_REASON_BYTES:
        raise InvalidValue(f"disconnect reason is over {MAX_REASON_BYTES} bytes of UTF-8")
    return reason


def _json_bytes(name: str, value: object) -> bytes | None:
    if value is None:
        return None
    data, problem = b"", ""
    try:
        data = dumps(value)
    except JSONError as error:
        problem = str(error)
    if problem:
        raise InvalidValue(f"{name} has {problem}")
    if len(data) > MAX_DATA_BYTES:
        raise InvalidValue(f"{name} is over {MAX_DATA_BYTES} bytes of compact JSON")
    return data


def check_labels(value: object) -> dict[str, str]:
    """Give labels as a dict of their own.

    Raises:
        InvalidValue: if it is not a mapping of strings to strings, or has over `MAX_LABELS`.

    >>> check_labels({"device": "phone"})
    {'device': 'phone'}
    """
    if not isinstance(value, Mapping):
        raise InvalidValue(f"labels must be a mapping, not {type(value).__name__}")
    if len(value) > MAX_LABELS:
        raise InvalidValue(f"there are more than {MAX_LABELS} labels")
    return {check_id("label name", name): check_id("label", text) for name, text in value.items()}


@dataclass(frozen=True, slots=True)
class Disconnect:
    """How a connection is ended: a code from 3000 to 4999 and a reason for people.

    Raises:
        InvalidValue: if the code is outside of that range, or the reason is over
            `MAX_REASON_BYTES` of UTF-8.

    >>> Disconnect(4001, "another device took over").reconnect
    True
    >>> Disconnect.of(DisconnectCode.FORCE_DISCONNECT)
    Disconnect(code=3503, reason='force disconnect')
    """

    code: int
    reason: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.code, bool) or not isinstance(self.code, int):
            raise InvalidValue("disconnect code must be an integer")
        if not 3000 <= self.code <= 4999:
            raise InvalidValue("disconnect code must be from 3000 to 4999")
        check_reason(self.reason)
        object.__setattr__(self, "code", int(self.code))

    @classmethod
    def of(cls, code: int) -> Disconnect:
        """The disconnect of a code, with the code's standard reason if it has one."""
        return cls(code, DisconnectCode.reason_of(code))

    @property
    def reconnect(self) -> bool:
        """Whether the client is invited to connect again."""
        return self.code % 1000 < 500


FORCED = Disconnect.of(DisconnectCode.FORCE_DISCONNECT)
"""What a session is told that is ended on purpose, where nothing else is said."""


@dataclass(frozen=True, slots=True, init=False)
class Identity:
    """Who is behind a connection, as a token or the app itself says.

    `meta`, `info` and `data` are kept as compact JSON, and parsed anew at each use: a connection
    lives long, and trees of objects are large, and slow the garbage collector down.

    Args:
        user: the user ID; `""` is the anonymous user.
        meta: any JSON value, for the server alone; None is no meta.
        info: any JSON value that may be shown to others; None is no info.
        data: any JSON value to greet the client with; None is none.
        labels: a few words about the connection for the app: at most `MAX_LABELS` strings by name.
        token_id: the token's `jti`; an empty one is none.
        issued_at: the token's `iat`, in seconds since the epoch.
        token_expires: until when the token is good: its `exp`, and the verifier's leeway.
        expire_at: when the connection expires, in seconds since the epoch; None is never.

    Raises:
        InvalidValue: if a value is outside of its bounds: IDs of `MAX_ID_LENGTH` characters,
            JSON values of `MAX_DATA_BYTES`, nested at most 32 deep.

    >>> identity = Identity("42", meta={"plan": "pro"})
    >>> identity.meta, identity
    ({'plan': 'pro'}, Identity(user='42', issued_at=None, expire_at=None))
    """

    user: str
    token_id: str | None = field(repr=False)
    issued_at: float | None
    expire_at: float | None
    token_expires: float | None = field(repr=False)
    labels: Mapping[str, str] = field(repr=False, hash=False)
    meta_json: bytes | None = field(repr=False)
    info_json: bytes | None = field(repr=False)
    data_json: bytes | None = field(repr=False)

    def __init__(
        self,
        user: str,
        *,
        meta: object = None,
        info: object = None,
        data: object = None,
        labels: Mapping[str, str] | None = None,
        token_id: str | None = None,
        issued_at: float | None = None,
        token_expires: float | None = None,
        expire_at: float | None = None,
    ) -> None:
        values = {
            "user": check_id("user", user),
            "token_id": None if token_id is None else check_id("token_id", token_id) or None,
            "issued_at": _time("issued_at", issued_at),
            "expire_at": _time("expire_at", expire_at),
            "token_expires": _time("token_expires", token_expires),
            "labels": check_labels({} if labels is None else labels),
            "meta_json": _json_bytes("meta", meta),
            "info_json": _json_bytes("info", info),
            "data_json": _json_bytes("data", data),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def meta(self) -> JSON:
        """The private metadata; None where there is none."""
        return None if self.meta_json is None else loads(self.meta_json)

    @property
    def info(self) -> JSON:
        """What may be shown to others; None where there is nothing."""
        return None if self.info_json is None else loads(self.info_json)

    @property
    def data(self) -> JSON:
        """What greets the client; None where there is nothing."""
        return None if self.data_json is None else loads(self.data_json)


def _time(name: str, value: float | None) -> float | None:
    return None if value is None else check_time(name, value)


def check_time(name: str, value: object) -> float:
    """Give `value` back if it is a time in seconds since the epoch.

    Raises:
        InvalidValue: if it is not a finite number within plus or minus `MAX_TIME`.

    >>> check_time("exp", 1700000000)
    1700000000
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidValue(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not -MAX_TIME <= value <= MAX_TIME:
        raise InvalidValue(f"{name} is out of range")
    return value


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a client says when it connects, and over what; what a connect proxy decides on.

    Args:
        client: the ID this connection will have.
        transport: the name of the transport, as lists show it.
        protocol: the encoding of the messages, as lists show it.
        token: the connection token; None where the client sent none.
        name: the client's app name.
        version: the client's app version.
        data: any JSON value the client adds for the app.
        headers: HTTP headers of the request, names in lower case.
        remote_addr: the client's address, cut to `MAX_ID_LENGTH`.
        user_agent: what the client says it is, cut to `MAX_ID_LENGTH`.

    Raises:
        InvalidValue: if a value is outside of its bounds.
    """

    client: str
    transport: str
    protocol: str = "json"
    token: str | None = field(default=None, repr=False)
    name: str | None = None
    version: str | None = None
    data: JSON = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    remote_addr: str | None = field(default=None, repr=False)
    user_agent: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("client", "transport", "protocol"):
            check_id(name, getattr(self, name))
        for name in ("remote_addr", "user_agent"):
            value = getattr(self, name)
            # They are for people to read; a browser with a long name is let in all the same.
            if isinstance(value, str):
                object.__setattr__(self, name, value[:MAX_ID_LENGTH])
        for name in ("name", "version", "remote_addr", "user_agent"):
            if getattr(self, name) is not None:
                check_id(name, getattr(self, name))


LimitPolicy: TypeAlias = Literal["reject", "evict_oldest", "evict_idle"]


@dataclass(frozen=True, slots=True)
class SessionLimit:
    """How many sessions a user may have at once, and what happens when there is one more.

    Args:
        max_sessions: how many, from 1.
        policy: `"reject"` refuses the new one, `"evict_oldest"` ends the one that was connected
            first, `"evict_idle"` the one that was heard of the longest ago; all with 3504
            `connection limit`.
        per_app: count the sessions of each app name by themselves.

    Raises:
        ConfigError: if a value is not one of these.

    >>> SessionLimit(5, policy="evict_oldest")
    SessionLimit(max_sessions=5, policy='evict_oldest', per_app=False)
    """

    max_sessions: int
    policy: LimitPolicy = field(default="reject", kw_only=True)
    per_app: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.max_sessions, bool) or not isinstance(self.max_sessions, int):
            raise ConfigError("max_sessions must be a whole number")
        if self.max_sessions < 1:
            raise ConfigError("max_sessions must be 1 at least; for no limit, give no SessionLimit")
        if self.policy not in get_args(LimitPolicy):
            raise ConfigError(f"policy must be one of {', '.join(get_args(LimitPolicy))}")
