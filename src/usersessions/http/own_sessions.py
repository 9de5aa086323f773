"""A user's own sessions over HTTP: `GET` and `DELETE` of `/sessions`, and of `/sessions/{client}`.

1. The caller is known by a bearer token and by nothing else: see `authentication`.
2. Every answer is JSON; an error is `{"error": {"code", "message"}}` with a fitting status.
3. Answers are the user's own and are never cached.
"""

from __future__ import annotations

from dataclasses import asdict

from ..devices import device_name
from ..errors import (
    ErrorCode,
    InvalidValue,
    NoSuchSession,
    SessionTooYoung,
    StoreUnavailable,
    TokenError,
)
from ..execution import closed_json
from ..flows import Flow
from ..operations import Operations
from ..own_sessions import OwnOperations
from ..records import OwnList
from ..strictjson import JSON, dumps
from .authentication import NO_TOKEN, Refusal, bearer, refusal_of
from .base import Request, Response

__all__ = ["OwnSessionsApi"]

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
            verbs = {"allow": ", ".join(allowed)}
            return Refusal(405, ErrorCode.BAD_REQUEST, "wrong verb", verbs).response
        token = bearer(request.headers)
        if token is None:
            return NO_TOKEN.response
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
        except (TokenError, StoreUnavailable) as error:
            return refusal_of(error).response
        except NoSuchSession as error:
            return Refusal(404, ErrorCode.NOT_AVAILABLE, str(error)).response
        except SessionTooYoung as error:
            return Refusal(403, ErrorCode.PERMISSION_DENIED, str(error)).response
        except InvalidValue as error:
            return Refusal(400, ErrorCode.BAD_REQUEST, str(error)).response
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
