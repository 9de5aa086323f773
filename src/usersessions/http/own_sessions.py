"""A user's own sessions over HTTP: `GET` and `DELETE` of `/sessions`, and of `/sessions/{client}`.

1. The caller is known by a bearer token (RFC 6750) and by nothing else: no cookie is read, so no
   foreign page can act for the user.
2. Every answer is JSON; an error is `{"error": {"code", "message"}}` with a fitting status.
3. Answers are the user's own and are never cached.
"""

from __future__ import annotations

import logging
from dataclasses import asdict

from ..devices import device_name
from ..dispatch import error_json
from ..errors import (
    CommandError,
    ErrorCode,
    InvalidValue,
    KeysUnavailable,
    NoSuchSession,
    SessionTooYoung,
    StoreUnavailable,
    TokenError,
    TokenExpired,
)
from ..execution import closed_json
from ..flows import Flow
from ..operations import Operations
from ..own_sessions import OwnOperations
from ..records import OwnList
from ..strictjson import JSON, dumps
from .base import Request, Response

__all__ = ["OwnSessionsApi"]

logger = logging.getLogger(__name__)

_HEADERS = {"content-type": "application/json", "cache-control": "no-store"}


class OwnSessionsApi:
    """Answers users about their own sessions.

    Args:
        operations: what carries it out.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        # The first name takes a tenth of a second, for loading tables: now, while nobody waits.
        device_name("")

    def __call__(self, request: Request, client: str | None = None) -> Flow[Response]:
        """Answer a request.

        Args:
            request: the request; its query parameter `current` is the client ID of the session that
                asks, for callers with several sessions of one token.
            client: the `{client}` of its path; None for `/sessions` itself.
        """
        allowed = ("DELETE",) if client is not None else ("GET", "DELETE")
        if request.method not in allowed:
            return _error(405, ErrorCode.BAD_REQUEST, "wrong verb", {"allow": ", ".join(allowed)})
        token = _bearer(request)
        if token is None:
            return _unauthorized(ErrorCode.UNAUTHORIZED, "give a bearer token")
        own = OwnOperations(self._operations, token)
        current = request.parameter("current")
        try:
            if request.method == "GET":
                sessions = yield from own.list(current=current)
                return Response(200, _listed(sessions), _HEADERS)
            if client is not None:
                closed = yield from own.end(client, revoke=True)
            else:
                closed = yield from own.end_others(current=current, revoke=True)
        except KeysUnavailable:
            return _error(503, ErrorCode.NOT_AVAILABLE, "tokens cannot be verified now")
        except TokenExpired:
            return _unauthorized(ErrorCode.TOKEN_EXPIRED, "")
        except TokenError:
            return _unauthorized(ErrorCode.UNAUTHORIZED, "the token is refused")
        except NoSuchSession as error:
            return _error(404, ErrorCode.NOT_AVAILABLE, str(error))
        except SessionTooYoung as error:
            return _error(403, ErrorCode.PERMISSION_DENIED, str(error))
        except InvalidValue as error:
            return _error(400, ErrorCode.BAD_REQUEST, str(error))
        except StoreUnavailable as error:
            logger.warning("a request for own sessions was not answered: %s", error)
            return _error(503, ErrorCode.NOT_AVAILABLE, "sessions cannot be reached now")
        return Response(200, closed_json(closed), _HEADERS)


def _listed(sessions: OwnList) -> bytes:
    members: dict[str, JSON] = {
        "sessions": [
            {name: value for name, value in asdict(one).items() if value is not None}
            for one in sessions
        ]
    }
    if sessions.partial:
        members["partial"] = True
    return dumps(members)


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _unauthorized(code: ErrorCode, message: str) -> Response:
    return _error(401, code, message, {"www-authenticate": "Bearer"})


def _error(
    status: int, code: ErrorCode, message: str, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        status, error_json(CommandError(code, message)), {**_HEADERS, **(headers or {})}
    )
