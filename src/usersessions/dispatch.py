"""Bytes of the server API in, bytes out: who may ask, what is asked, and how it is answered.

1. For any bytes there is a documented answer; no exception but the app's own escapes.
2. Several commands in one body are answered one a line, each by itself: an error in one is no
   error in the next, and neither is a store that does not answer in time. But a body that is not
   JSON to its end is refused whole, before anything is carried out.
3. However many commands a body has, they wait for connections to end as long as one would.
4. API keys are compared as digests, in constant time, all of them every time.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from hashlib import sha256

from .commands import Command, read_command
from .errors import (
    CommandError,
    ConfigError,
    ErrorCode,
    InvalidValue,
    JSONError,
    StoreUnavailable,
)
from .execution import execute
from .flows import Flow
from .operations import TIMEOUT_SECONDS, Operations
from .strictjson import JSON, dumps, loads, loads_many

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_COMMANDS",
    "ApiKeys",
    "answer_batch",
    "answer_body",
    "answer_method",
    "dispatch",
    "error_json",
]

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 65536
"""The largest request body, in bytes."""

MAX_COMMANDS = 256
"""The most commands in one body."""

_TOO_MANY = f"one body has at most {MAX_COMMANDS} commands"


class ApiKeys:
    """The keys that may use the server API; several are valid at once, so that one can be rotated.

    Args:
        keys: each of 16 to 255 visible ASCII characters, which any HTTP header can carry.

    Raises:
        ConfigError: if a key is outside of these bounds.

    >>> keys = ApiKeys(["0123456789abcdef"])
    >>> keys.match("0123456789abcdef"), keys.match("guess"), keys.match(None)
    (True, False, False)
    """

    def __init__(self, keys: Iterable[str]) -> None:
        if isinstance(keys, str):
            raise ConfigError("API keys must be a list of strings, not one string")
        self._digests = [sha256(_checked(key)).digest() for key in keys]

    def __repr__(self) -> str:
        return f"ApiKeys({len(self._digests)} keys)"

    def match(self, presented: str | None) -> bool:
        """Whether this is one of the keys; without any key configured, nothing is."""
        digest = sha256((presented or "").encode(errors="surrogatepass")).digest()
        # A list, not a generator: how long this takes must not say which key it was.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def _checked(key: object) -> bytes:
    if not isinstance(key, str) or not 16 <= len(key) <= 255:
        raise ConfigError("an API key must be a string of 16 to 255 characters")
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError("an API key must be made of visible ASCII characters")
    return key.encode()


def dispatch(operations: Operations, body: bytes) -> Flow[bytes]:
    """Answer a body of one or more `{"method", "params"}`, one reply a line, whatever it holds."""
    try:
        return (yield from answer_body(operations, body))
    except JSONError as error:
        return error_json(CommandError(ErrorCode.BAD_REQUEST, str(error)))


def answer_body(operations: Operations, body: bytes) -> Flow[bytes]:
    """Answer a body of one or more `{"method", "params"}`, one reply a line.

    Raises:
        JSONError: if the body is not JSON, is empty, is over `MAX_BODY_BYTES`, or has over
            `MAX_COMMANDS`.
    """
    requests = loads_many(_bounded(body))
    if not requests:
        raise JSONError("not valid JSON: the text is empty")
    if len(requests) > MAX_COMMANDS:
        raise JSONError(_TOO_MANY)
    replies = []
    for request in requests:
        replies.append((yield from _answer(operations, request, share=len(requests))))
    return b"\n".join(replies)


def answer_method(operations: Operations, method: str, body: bytes) -> Flow[bytes]:
    """Answer a body that is the `params` of one method; an empty one stands for `{}`.

    Raises:
        JSONError: if the body is not JSON, or is over `MAX_BODY_BYTES`.
    """
    params = loads(_bounded(body)) if body else None
    return (yield from _answer(operations, {"method": method, "params": params}, share=1))


def answer_batch(operations: Operations, body: bytes) -> Flow[bytes]:
    """Answer `{"commands": [{METHOD: params}, ...]}` with `{"replies": [{METHOD: result}, ...]}`.

    Raises:
        JSONError: if the body is not JSON, is over `MAX_BODY_BYTES`, or has over `MAX_COMMANDS`.
    """
    request = loads(_bounded(body))
    commands = request.get("commands") if isinstance(request, dict) else None
    if not isinstance(commands, list):
        return error_json(CommandError(ErrorCode.BAD_REQUEST, "commands must be an array"))
    if len(commands) > MAX_COMMANDS:
        raise JSONError(_TOO_MANY)
    replies = []
    for command in commands:
        if isinstance(command, dict) and len(command) == 1:
            ((method, params),) = command.items()
            named: JSON = {"method": method, "params": params}
            reply = yield from _answer(operations, named, share=len(commands))
            # {"result": ...} becomes {METHOD: ...}; errors stay as they are.
            if reply.startswith(_RESULT):
                reply = b"{" + dumps(method) + b":" + reply[len(_RESULT) :]
        else:
            reply = error_json(
                CommandError(ErrorCode.BAD_REQUEST, "a command must be an object of one method")
            )
        replies.append(reply)
    return b'{"replies":[' + b",".join(replies) + b"]}"


_RESULT = b'{"result":'


def error_json(error: CommandError) -> bytes:
    """The reply of a command that failed.

    >>> error_json(CommandError(ErrorCode.METHOD_NOT_FOUND))
    b'{"error":{"code":104,"message":"method not found"}}'
    """
    return dumps({"error": {"code": int(error.code), "message": str(error)}})


def _answer(operations: Operations, request: JSON, *, share: int) -> Flow[bytes]:
    try:
        command = _read(request)
    except CommandError as error:
        return error_json(error)
    try:
        result = yield from execute(operations, command, timeout=TIMEOUT_SECONDS / share)
    except InvalidValue as error:
        return error_json(CommandError(ErrorCode.BAD_REQUEST, str(error)))
    except StoreUnavailable as error:
        logger.warning("the command %s was not answered: %s", command.method, error)
        return error_json(CommandError(ErrorCode.NOT_AVAILABLE))
    return _RESULT + result + b"}"


def _read(request: JSON) -> Command:
    if not isinstance(request, dict):
        raise CommandError(ErrorCode.BAD_REQUEST, "a command must be an object")
    return read_command(request.get("method"), request.get("params"))


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise JSONError(f"the body is over {MAX_BODY_BYTES} bytes")
    return body
