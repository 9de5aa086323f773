"""What is kept of a session, and the two views of it: the server's, and the user's own.

1. A record is two lines of JSON, made once: what lists over the wire show, `meta` last; then the
   facts that this library goes by.
2. `OwnSession` is what a user sees of their own sessions. It is a type without `meta`: secrecy by
   type, not by care.
3. `meta` is kept as JSON and parsed only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from typing_extensions import Self

from .devices import device_name
from .errors import JSONError
from .models import ConnectRequest, Identity
from .strictjson import JSON, dumps, loads

__all__ = [
    "ConnectionInfo",
    "Connections",
    "Facts",
    "OwnList",
    "OwnSession",
    "app_name_of",
    "facts_of",
    "prepare",
    "refreshed",
    "wire_of",
]

_META = b',"meta":'


@dataclass(frozen=True, slots=True)
class Facts:
    """What the library goes by.

    Attributes:
        connected_at: when the session was registered, in seconds since the epoch.
        expire_at: when it expires; None is never.
        token_id: the `jti` of its token.
        issued_at: the `iat` of its token, 0 for a token without; None if there is no token, as far
            as is known.
        token_expires: the `exp` of its token.
        labels: its labels.
        remote_addr: the client's address.
        user_agent: what the client says it is.
    """

    connected_at: float
    expire_at: float | None = field(default=None, repr=False)
    token_id: str | None = field(default=None, repr=False)
    issued_at: float | None = field(default=None, repr=False)
    token_expires: float | None = field(default=None, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    remote_addr: str | None = field(default=None, repr=False)
    user_agent: str | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        request: ConnectRequest,
        identity: Identity,
        *,
        connected_at: float,
        from_token: bool,
    ) -> Facts:
        """The facts of a new session."""
        issued_at = identity.issued_at
        # The app may have authenticated a token, and hand in what it found.
        signs = (identity.token_id, identity.token_expires)
        if issued_at is None and (from_token or any(sign is not None for sign in signs)):
            issued_at = 0
        return cls(
            connected_at,
            expire_at=identity.expire_at,
            token_id=identity.token_id,
            issued_at=issued_at,
            token_expires=identity.token_expires,
            labels=identity.labels,
            remote_addr=request.remote_addr,
            user_agent=request.user_agent,
        )

    def ttl(self, now: float) -> int | None:
        """Whole seconds until the session expires, at least 0; None if it never does."""
        return None if self.expire_at is None else max(0, int(self.expire_at - now))

    def to_json(self) -> bytes:
        """As a line of a record: unset members are absent."""
        members: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        return dumps({name: value for name, value in members.items() if value or value == 0})


_FACTS = frozenset(one.name for one in fields(Facts))


def prepare(request: ConnectRequest, identity: Identity, facts: Facts) -> bytes:
    """The record of a new session.

    >>> record = prepare(ConnectRequest("c1", "sse"), Identity("42", meta={"plan": "pro"}),
    ...                  Facts(connected_at=1700000000))
    >>> wire_of(record)
    b'{"transport":"sse","protocol":"json","meta":{"plan":"pro"}}'
    >>> facts_of(record)
    Facts(connected_at=1700000000)
    """
    names = {"app_name": request.name, "app_version": request.version}
    shown = {name: value for name, value in names.items() if value}
    wire = dumps(shown | {"transport": request.transport, "protocol": request.protocol})
    if identity.meta_json is not None:
        wire = wire[:-1] + _META + identity.meta_json + b"}"
    return wire + b"\n" + facts.to_json()


def refreshed(record: bytes, **changes: Any) -> bytes:
    """The record with some of its facts changed."""
    return wire_of(record) + b"\n" + replace(facts_of(record), **changes).to_json()


def wire_of(record: bytes) -> bytes:
    """The first line: what lists over the wire show."""
    return record.partition(b"\n")[0]


def facts_of(record: bytes) -> Facts:
    """The second line, parsed; members that are not known here are passed over.

    Raises:
        JSONError: if it is not the record of a session.
    """
    members: dict[str, Any] = _object(record.partition(b"\n")[2])
    known = {name: value for name, value in members.items() if name in _FACTS}
    if "connected_at" not in known:
        raise JSONError("not the record of a session: it does not say since when")
    return Facts(**known)


def app_name_of(record: bytes) -> str | None:
    """The app name in the first line."""
    return ConnectionInfo(record).app_name


def _object(data: bytes) -> dict[str, JSON]:
    members = loads(data)
    if not isinstance(members, dict):
        raise JSONError("not the record of a session")
    return members


@dataclass(frozen=True, slots=True, init=False)
class ConnectionInfo:
    """One connection as the server sees it, with `meta`.

    It is a view on the record that was prepared when the session was registered; `meta` is parsed
    only when it is asked for.

    Attributes:
        app_name: the client's app name, or None.
        app_version: the client's app version, or None.
        transport: the name of the transport.
        protocol: the encoding of the messages.
        connected_at: when the session was registered, in seconds since the epoch.
        last_seen: when the client was last heard of; `connected_at` where it never was.
        expire_at: when the session expires; None is never.
        labels: the labels of its identity.
        remote_addr: the client's address, or None.
        user_agent: what the client says it is, or None.

    >>> record = prepare(ConnectRequest("c1", "sse"), Identity("42", meta={"plan": "pro"}),
    ...                  Facts(connected_at=1700000000))
    >>> info = ConnectionInfo(record)
    >>> info.transport, info.meta, info.last_seen
    ('sse', {'plan': 'pro'}, 1700000000)
    >>> info
    ConnectionInfo(app_name=None, app_version=None, transport='sse', protocol='json')
    """

    app_name: str | None
    app_version: str | None
    transport: str
    protocol: str
    connected_at: float = field(repr=False)
    last_seen: float = field(repr=False)
    expire_at: float | None = field(repr=False)
    labels: Mapping[str, str] = field(repr=False, hash=False)
    remote_addr: str | None = field(repr=False)
    user_agent: str | None = field(repr=False)
    _meta: bytes | None = field(repr=False)

    def __init__(self, record: bytes, *, last_seen: float | None = None) -> None:
        # `meta` is the last member, and no JSON string holds an unescaped quote: the first match
        # is the member itself.
        head, found, meta = wire_of(record).partition(_META)
        shown = _object(head + b"}" if found else head)
        facts = facts_of(record)
        values = {
            **{
                name: shown.get(name)
                for name in ("app_name", "app_version", "transport", "protocol")
            },
            "connected_at": facts.connected_at,
            "last_seen": facts.connected_at if last_seen is None else last_seen,
            "expire_at": facts.expire_at,
            "labels": facts.labels,
            "remote_addr": facts.remote_addr,
            "user_agent": facts.user_agent,
            "_meta": meta[:-1] if found else None,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def meta(self) -> JSON:
        """The private metadata, parsed anew at each use; None where there is none."""
        return None if self._meta is None else loads(self._meta)

    @property
    def device(self) -> str | None:
        """A short name of the device, such as "Firefox on Windows"; see `device_name`."""
        return device_name(self.user_agent)


class Connections(dict[str, ConnectionInfo]):
    """A user's connections by client ID, oldest first: a dict that knows whether it is whole.

    Attributes:
        partial: whether there may be more than could be seen.

    >>> connections = Connections(partial=True)
    >>> connections, connections.partial
    ({}, True)
    """

    __slots__ = ("partial",)

    def __init__(
        self,
        connections: Mapping[str, ConnectionInfo] | Iterable[tuple[str, ConnectionInfo]] = (),
        *,
        partial: bool = False,
    ) -> None:
        super().__init__(connections)
        self.partial = partial


@dataclass(frozen=True, slots=True)
class OwnSession:
    """One of a user's sessions, as the user may see it.

    Attributes:
        client: its client ID.
        current: whether it is the one that asks.
        app_name: the client's app name, or None.
        app_version: the client's app version, or None.
        transport: the name of the transport.
        connected_at: when it was registered, in seconds since the epoch.
        last_seen: when the client was last heard of.
        device: a short name of the device, such as "Firefox on Windows", or None.
        remote_addr: the client's address, or None.
    """

    client: str
    current: bool
    app_name: str | None
    app_version: str | None
    transport: str
    connected_at: float
    last_seen: float
    device: str | None
    remote_addr: str | None

    @classmethod
    def of(cls, client: str, info: ConnectionInfo, *, current: bool) -> OwnSession:
        """What the user may see of a connection."""
        return cls(
            client,
            current,
            info.app_name,
            info.app_version,
            info.transport,
            info.connected_at,
            info.last_seen,
            info.device,
            info.remote_addr,
        )


class OwnList(tuple[OwnSession, ...]):
    """A user's sessions, oldest first: a tuple that knows whether it is whole.

    Attributes:
        partial: whether there may be more than could be seen.

    >>> own = OwnList(partial=True)
    >>> own, own.partial
    ((), True)
    """

    partial: bool

    def __new__(cls, sessions: Iterable[OwnSession] = (), *, partial: bool = False) -> Self:
        made = super().__new__(cls, sessions)
        made.partial = partial
        return made
