"""The unidirectional protocol: one connect request in, frames and deadlines out.

1. The first frame is `connect`; then `{}` pings; the last is `disconnect`, if the server ends it.
2. A refused connection gets `disconnect` as its only frame.
3. A ping is due `ping_interval` seconds after the last frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InvalidValue
from ..models import ConnectRequest, Disconnect, Identity, check_id
from ..strictjson import JSON, dumps, loads

__all__ = ["PING", "ConnectMessage", "Stream", "Transport", "disconnect_frame", "read_connect"]

PING = b"{}"


@dataclass(frozen=True, slots=True)
class Transport:
    """A way to carry frames: its name in lists, its media type, and what stands around a frame."""

    name: str
    media_type: str
    before: bytes = b""
    after: bytes = b""

    def wrap(self, frame: bytes) -> bytes:
        """A frame as it goes over the wire."""
        return self.before + frame + self.after


@dataclass(frozen=True, slots=True)
class ConnectMessage:
    """The connect request as a client sends it."""

    token: str | None = field(default=None, repr=False)
    data: JSON = field(default=None, repr=False)
    name: str | None = None
    version: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def request(
        self,
        client: str,
        transport: Transport,
        headers: Mapping[str, str],
        *,
        remote_addr: str | None = None,
    ) -> ConnectRequest:
        """What to decide on: this message, with the HTTP headers it came with.

        Headers that the client wrote into the message (as browsers must, which cannot set any)
        never replace those of the HTTP request, which a proxy in front may vouch for.
        """
        return ConnectRequest(
            client,
            transport.name,
            token=self.token,
            name=self.name,
            version=self.version,
            data=self.data,
            headers={**self.headers, **headers},
            remote_addr=remote_addr,
            user_agent=headers.get("user-agent"),
        )


def read_connect(body: bytes | str) -> ConnectMessage:
    """Read a connect request: `{token?, data?, name?, version?, headers?}`, others ignored.

    Raises:
        InvalidValue: if it is not a JSON object (then it is a `JSONError`), or a member is not
            what it has to be.

    >>> read_connect(b'{"name": "terminal"}').name
    'terminal'
    """
    members = loads(body)
    if not isinstance(members, dict):
        raise InvalidValue("a connect request must be a JSON object")
    headers = members.get("headers")
    if headers is None:
        headers = {}
    if not isinstance(headers, dict):
        raise InvalidValue("headers must be an object")
    token = members.get("token")
    if token is not None and not isinstance(token, str):
        raise InvalidValue("token must be a string")
    return ConnectMessage(
        token=token or None,
        data=members.get("data"),
        name=_name(members, "name"),
        version=_name(members, "version"),
        headers={name.lower(): _header(value) for name, value in headers.items()},
    )


def _name(members: Mapping[str, JSON], name: str) -> str | None:
    value = members.get(name)
    # An empty name is no name, as in Centrifugo's protocol.
    return None if value is None else check_id(name, value) or None


def _header(value: JSON) -> str:
    if not isinstance(value, str):
        raise InvalidValue("a header must be a string")
    return value


def disconnect_frame(disconnect: Disconnect) -> bytes:
    """The last frame of a connection that the server ends.

    >>> disconnect_frame(Disconnect(3001, "shutdown"))
    b'{"disconnect":{"code":3001,"reason":"shutdown"}}'
    """
    return dumps({"disconnect": {"code": disconnect.code, "reason": disconnect.reason}})


class Stream:
    """The frames of one admitted connection, and when they are due.

    Args:
        client: its client ID.
        identity: who is behind it; its `data` greets the client.
        version: the server's version, as the client is told it.
        ping_interval: seconds of silence before a ping.
        ttl: seconds until the session expires; None if it never does.
        now: the time of the connect frame, on a monotonic clock.
        longest_silence: seconds after which there is a ping in any case; the client may go by
            `ping_interval` all the same.

    >>> stream = Stream("c1", Identity("42"), version="1.0", ping_interval=25, now=100.0)
    >>> stream.connect_frame
    b'{"connect":{"client":"c1","version":"1.0","ping":25}}'
    >>> stream.next_deadline, stream.due(124.0), stream.due(125.0), stream.next_deadline
    (125.0, None, b'{}', 150.0)
    """

    def __init__(
        self,
        client: str,
        identity: Identity,
        *,
        version: str,
        ping_interval: int,
        now: float,
        ttl: int | None = None,
        longest_silence: int | None = None,
    ) -> None:
        self._silence = min(ping_interval, longest_silence or ping_interval)
        self.next_deadline = now + self._silence
        expiry: dict[str, JSON] = {} if ttl is None else {"expires": True, "ttl": ttl}
        head = dumps({"client": client, "version": version, "ping": ping_interval, **expiry})
        data = b"" if identity.data_json is None else b',"data":' + identity.data_json
        self.connect_frame = b'{"connect":' + head[:-1] + data + b"}}"

    def due(self, now: float) -> bytes | None:
        """The frame that is due by now; None if none is."""
        if now < self.next_deadline:
            return None
        self.next_deadline = now + self._silence
        return PING
