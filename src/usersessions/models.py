"""The records everything else speaks of: frozen, slotted, checked when they are made.

`meta` is for the server alone. No `repr` here shows it, and no record that goes to a client has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import DisconnectCode, InvalidValue, JSONError
from .strictjson import JSON, dumps, loads

__all__ = [
    "MAX_DATA_BYTES",
    "MAX_ID_LENGTH",
    "MAX_LABELS",
    "MAX_REASON_BYTES",
    "ConnectRequest",
    "ConnectionInfo",
    "Disconnect",
    "Identity",
    "check_id",
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


def _json_bytes(name: str, value: object) -> bytes:
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


def _labels(value: object) -> dict[str, str]:
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
        if len(check_id("disconnect reason", self.reason).encode()) > MAX_REASON_BYTES:
            raise InvalidValue(f"disconnect reason is over {MAX_REASON_BYTES} bytes of UTF-8")
        object.__setattr__(self, "code", int(self.code))

    @classmethod
    def of(cls, code: int) -> Disconnect:
        """The disconnect of a code, with the code's standard reason if it has one."""
        return cls(code, DisconnectCode.reason_of(code))

    @property
    def reconnect(self) -> bool:
        """Whether the client is invited to connect again."""
        return self.code % 1000 < 500


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is behind a connection, as a token or the app itself says.

    Args:
        user: the user ID; `""` is the anonymous user.
        meta: any JSON value, for the server alone; None is no meta.
        info: any JSON value that may be shown to others; None is no info.
        data: any JSON value to greet the client with; None is none.
        labels: a few words about the connection for the app: at most `MAX_LABELS` strings by name.
        token_id: the token's `jti`.
        issued_at: the token's `iat`, in seconds since the epoch.
        expire_at: when the connection expires, in seconds since the epoch; None is never.

    Raises:
        InvalidValue: if a value is outside of its bounds: IDs of `MAX_ID_LENGTH` characters,
            JSON values of `MAX_DATA_BYTES`, nested at most 32 deep.

    >>> Identity("42", meta={"plan": "pro"})
    Identity(user='42', token_id=None, issued_at=None, expire_at=None)
    """

    user: str
    meta: object = field(default=None, repr=False, kw_only=True)
    info: object = field(default=None, repr=False, kw_only=True)
    data: object = field(default=None, repr=False, kw_only=True)
    labels: Mapping[str, str] = field(default_factory=dict, repr=False, kw_only=True)
    token_id: str | None = field(default=None, kw_only=True)
    issued_at: float | None = field(default=None, kw_only=True)
    expire_at: float | None = field(default=None, kw_only=True)
    meta_json: bytes | None = field(init=False, repr=False, compare=False)
    data_json: bytes | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_id("user", self.user)
        if self.token_id is not None:
            check_id("token_id", self.token_id)
        for name in ("issued_at", "expire_at"):
            value = getattr(self, name)
            if value is not None:
                check_time(name, value)
        object.__setattr__(self, "labels", _labels(self.labels))
        if self.info is not None:
            _json_bytes("info", self.info)
        for name, value in (("meta", self.meta), ("data", self.data)):
            prepared = None if value is None else _json_bytes(name, value)
            object.__setattr__(self, f"{name}_json", prepared)


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

    def __post_init__(self) -> None:
        for name in ("client", "transport", "protocol"):
            check_id(name, getattr(self, name))
        for name in ("name", "version"):
            if getattr(self, name) is not None:
                check_id(name, getattr(self, name))


_META = b',"meta":'


@dataclass(frozen=True, slots=True, init=False)
class ConnectionInfo:
    """One connection as the server API lists it; the server's own view, with `meta`.

    It is a view on the JSON that was prepared when the session was registered; `meta` is parsed
    only when it is asked for.

    Attributes:
        app_name: the client's app name, or None.
        app_version: the client's app version, or None.
        transport: the name of the transport.
        protocol: the encoding of the messages.

    >>> info = ConnectionInfo(b'{"transport":"sse","protocol":"json","meta":{"plan":"pro"}}')
    >>> info.transport, info.meta
    ('sse', {'plan': 'pro'})
    >>> info
    ConnectionInfo(app_name=None, app_version=None, transport='sse', protocol='json')
    """

    app_name: str | None
    app_version: str | None
    transport: str
    protocol: str
    _meta: bytes | None = field(repr=False)

    def __init__(self, prepared: bytes) -> None:
        # `meta` is the last member, and no JSON string holds an unescaped quote: the first match
        # is the member itself.
        facts, found, meta = prepared.partition(_META)
        members = loads(facts + b"}" if found else facts)
        if not isinstance(members, dict):
            raise JSONError("not the prepared JSON of a connection")
        for name in ("app_name", "app_version", "transport", "protocol"):
            object.__setattr__(self, name, members.get(name))
        object.__setattr__(self, "_meta", meta[:-1] if found else None)

    @property
    def meta(self) -> JSON:
        """The private metadata, parsed anew at each use; None where there is none."""
        return None if self._meta is None else loads(self._meta)

    @staticmethod
    def prepare(request: ConnectRequest, identity: Identity) -> bytes:
        """The JSON of a new session, made once: unset members are absent, `meta` stands last."""
        names = {"app_name": request.name, "app_version": request.version}
        facts = {name: value for name, value in names.items() if value}
        head = dumps(facts | {"transport": request.transport, "protocol": request.protocol})
        return head if identity.meta_json is None else head[:-1] + _META + identity.meta_json + b"}"
