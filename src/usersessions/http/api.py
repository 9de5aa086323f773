"""The server API over HTTP: `POST /api`, `/api/{method}` and `/api/batch`.

1. The key comes first: without one, nobody learns anything, not even whether a body is sound.
2. A command that fails is an error in an HTTP 200; only what is no command at all is a 4xx.
"""

from __future__ import annotations

from ..dispatch import ApiKeys, answer_batch, answer_body, answer_method
from ..errors import JSONError
from ..flows import Flow
from ..operations import Operations
from .base import Request, Response, body_of, text

__all__ = ["ServerApi"]


class ServerApi:
    """Answers the requests of the server API.

    Args:
        operations: what carries the commands out.
        keys: the API keys that may use it.
    """

    def __init__(self, operations: Operations, keys: ApiKeys) -> None:
        self._operations = operations
        self._keys = keys

    def __call__(self, request: Request, method: str | None = None) -> Flow[Response]:
        """Answer a request.

        Args:
            request: the request.
            method: the `{method}` of its path; None for `/api` itself.
        """
        if request.method != "POST":
            return text(405, "the server API takes POST", {"allow": "POST"})
        if not self._keys.match(_presented(request)):
            return Response(401)
        body = body_of(request, "a request body")
        if isinstance(body, Response):
            return body
        try:
            if method is None:
                reply = yield from answer_body(self._operations, body)
            elif method == "batch":
                reply = yield from answer_batch(self._operations, body)
            else:
                reply = yield from answer_method(self._operations, method, body)
        except JSONError as error:
            return text(400, str(error))
        return Response(200, reply, {"content-type": "application/json"})


def _presented(request: Request) -> str | None:
    key = request.headers.get("x-api-key")
    if key is not None:
        return key
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "apikey":
        return credentials.strip()
    return request.parameter("api_key")
