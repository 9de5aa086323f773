"""The app's HTTP backend decides.

A backend that fails or lies is logged by what it did, without a word of what it or the client sent.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from urllib.parse import urlsplit

from ..errors import (
    ConfigError,
    ConnectRefused,
    DisconnectCode,
    ErrorCode,
    InvalidValue,
    require,
)
from ..fetch import Fetch, FetchFailed
from ..flows import Flow
from ..models import ConnectRequest, Disconnect, Identity, check_id, check_reason, check_time
from ..strictjson import JSON, dumps, loads
from .base import ConnectProxy

__all__ = ["ERROR_DISCONNECTS", "MAX_ANSWER_BYTES", "HttpConnectProxy"]

logger = logging.getLogger("usersessions.proxy")

MAX_ANSWER_BYTES = 65536
"""The largest answer of an HTTP backend, in bytes."""

ERROR_DISCONNECTS: Mapping[int, DisconnectCode] = MappingProxyType(
    {
        ErrorCode.UNAUTHORIZED: DisconnectCode.PERMISSION_DENIED,
        ErrorCode.PERMISSION_DENIED: DisconnectCode.PERMISSION_DENIED,
        ErrorCode.LIMIT_EXCEEDED: DisconnectCode.CONNECTION_LIMIT,
        ErrorCode.BAD_REQUEST: DisconnectCode.BAD_REQUEST,
        ErrorCode.TOKEN_EXPIRED: DisconnectCode.CONNECTION_EXPIRED,
        ErrorCode.EXPIRED: DisconnectCode.CONNECTION_EXPIRED,
    }
)
"""How a backend's `error` ends the connection, by its code.

Any other code, 111 (too many requests) among them, is 3004: the client may try again later.
"""

# RFC 9110, 5.6.2 and 5.5.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# What belongs to one hop (RFC 9110, 7.6.1) or describes the client's message, not ours.
_NEVER_FORWARDED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class HttpConnectProxy(ConnectProxy):
    """Asks the app's HTTP backend, with a POST of JSON; it answers HTTP 200 with JSON.

    The question is `{client, transport, protocol, encoding, name?, version?, data?}`. The answer is
    one of `{"result": {"user", "meta"?, "labels"?, "info"?, "data"?, "expire_at"?}}`,
    `{"disconnect": {"code", "reason"}}`, and `{"error": {"code", "message"}}` (see
    `ERROR_DISCONNECTS`). A result without `user` is the anonymous user. `expire_at` is in seconds
    since the epoch; 0 is never. Anything else refuses the connection with 3004.

    A forwarded header whose value cannot stand in HTTP refuses the connection with 3501: without
    it, the backend might take the client for somebody else.

    Args:
        url: where to POST, `http` or `https`; credentials in it are sent as HTTP Basic
            authentication (RFC 7617).
        timeout: seconds for the whole exchange.
        headers: names of the client's request headers to send on, in any case.

    Raises:
        ConfigError: if the URL, the timeout or a header name cannot work.
        MissingExtraError: if `httpx` is not installed.

    >>> proxy = HttpConnectProxy("https://app.example/connect", headers=["Cookie"])
    >>> next(proxy.decide(ConnectRequest("c1", "uni_sse"))).body
    b'{"client":"c1","transport":"uni_sse","protocol":"json","encoding":"json"}'
    """

    def __init__(self, url: str, *, timeout: float = 1.0, headers: Iterable[str] = ()) -> None:
        require("httpx", extra="httpx")
        has_credentials = _check_url(url)
        self._url = url
        self._timeout = _check_timeout(timeout)
        self._headers = _check_header_names(headers)
        if has_credentials and "authorization" in self._headers:
            raise ConfigError(
                "the connect proxy cannot forward 'authorization' to a URL with credentials, "
                "which are sent under the same name; drop one of the two"
            )

    def decide(self, request: ConnectRequest) -> Flow[Identity]:
        """Ask the backend.

        Raises:
            ConnectRefused: as the backend says; 3004 if it says nothing usable, 3501 if what the
                client sent cannot be passed on.
        """
        reply = yield from Fetch(
            self._url,
            timeout=self._timeout,
            max_bytes=MAX_ANSWER_BYTES,
            body=_question(request),
            headers={"content-type": "application/json", **self._forwarded(request)},
        )
        if isinstance(reply, FetchFailed):
            raise _backend_failed(f"failed: {reply.why}")
        if reply.status != 200:
            raise _backend_failed(f"answered HTTP {reply.status}")
        try:
            return _decision(loads(reply.body))
        except InvalidValue as error:
            raise _backend_failed(f"gave an unusable answer: {error}") from error

    def _forwarded(self, request: ConnectRequest) -> dict[str, str]:
        given: Mapping[str, object] = request.headers
        forwarded = {}
        for name in self._headers:
            value = given.get(name)
            if value is None:
                continue
            # A client can also send headers inside of its connect request, where any text fits.
            if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
                raise ConnectRefused(DisconnectCode.BAD_REQUEST)
            forwarded[name] = value.strip(" \t")
        return forwarded


def _check_url(url: str) -> bool:
    """Whether the URL has credentials; the message of an error shows none of it."""
    with suppress(TypeError, ValueError):
        # urlsplit would drop line breaks and tabs in silence.
        parts = urlsplit(url) if re.fullmatch(r"[\x21-\x7e]+", url) else None
        if parts and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return "@" in parts.netloc
    raise ConfigError("the connect proxy's URL must look like https://host/path, in ASCII")


def _check_timeout(timeout: object) -> float:
    if isinstance(timeout, (int, float)) and timeout is not True and 0 < timeout < math.inf:
        return timeout
    raise ConfigError("the connect proxy's timeout must be a number of seconds above 0")


def _check_header_names(names: Iterable[object]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigError("the connect proxy's headers must be a list of names, not one string")
    checked: dict[str, None] = {}
    for position, name in enumerate(names):
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            # Not shown: it may be a whole header, with a secret.
            raise ConfigError(f"the connect proxy's headers[{position}] is not a header name")
        if name.lower() in _NEVER_FORWARDED:
            raise ConfigError(
                f"the connect proxy cannot forward {name!r}: it belongs to the client's own "
                "exchange"
            )
        checked[name.lower()] = None
    return tuple(checked)


def _question(request: ConnectRequest) -> bytes:
    members: dict[str, JSON] = {
        "client": request.client,
        "transport": request.transport,
        "protocol": request.protocol,
        "encoding": "json",
    }
    if request.name:
        members["name"] = request.name
    if request.version:
        members["version"] = request.version
    if request.data is not None:
        members["data"] = request.data
    try:
        return dumps(members)
    except InvalidValue as error:
        raise ConnectRefused(DisconnectCode.BAD_REQUEST) from error


def _backend_failed(what: str) -> ConnectRefused:
    logger.warning("the connect proxy's backend %s", what)
    return ConnectRefused(DisconnectCode.INTERNAL_SERVER_ERROR)


def _decision(answer: JSON) -> Identity:
    if not isinstance(answer, dict):
        raise InvalidValue("the answer must be an object")
    given = [
        (kind, answer[kind])
        for kind in ("result", "error", "disconnect")
        if answer.get(kind) is not None
    ]
    if len(given) != 1:
        raise InvalidValue("the answer must have one of result, error and disconnect")
    kind, members = given[0]
    if not isinstance(members, dict):
        raise InvalidValue(f"{kind} must be an object")
    if kind == "result":
        return _identity(members)
    raise _refusal(members) if kind == "disconnect" else _error(members)


def _identity(members: dict[str, JSON]) -> Identity:
    expire_at = members.get("expire_at")
    if expire_at is not None:
        expire_at = check_time("expire_at", expire_at) or None
    labels = members.get("labels")
    if labels is None:
        labels = {}
    if not isinstance(labels, dict):
        raise InvalidValue("labels must be an object")
    return Identity(
        check_id("user", members.get("user", "")),
        meta=members.get("meta"),
        labels={name: check_id("label", text) for name, text in labels.items()},
        info=members.get("info"),
        data=members.get("data"),
        expire_at=expire_at,
    )


def _refusal(members: dict[str, JSON]) -> ConnectRefused:
    code = members.get("code")
    if not isinstance(code, int):
        raise InvalidValue("disconnect code must be an integer")
    disconnect = Disconnect(code, check_reason(members.get("reason", "")))
    return ConnectRefused(disconnect.code, disconnect.reason)


def _error(members: dict[str, JSON]) -> ConnectRefused:
    code = members.get("code")
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code < 2**32:
        raise InvalidValue("error code must be an integer from 0 to 4294967295")
    if code in ERROR_DISCONNECTS:
        return ConnectRefused(ERROR_DISCONNECTS[code])
    return _backend_failed(f"answered error {code}")
