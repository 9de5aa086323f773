"""Who makes a request: by a bearer token (RFC 6750), for own sessions and an app's own endpoints.

1. A caller is known by the `Authorization` header and by nothing else: no cookie is read, so no
   foreign page can act for the user.
2. A refusal says what kind it is, and no word of the token.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..dispatch import error_json
from ..errors import (
    CommandError,
    ErrorCode,
    KeysUnavailable,
    StoreUnavailable,
    TokenError,
    TokenExpired,
)
from ..flows import Flow
from ..models import Identity
from ..operations import Operations
from .base import Response

__all__ = ["NO_TOKEN", "Refusal", "authenticate", "bearer", "refusal_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: its HTTP status, its error for machines and for people, headers."""

    status: int
    code: ErrorCode
    detail: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The error in words."""
        return str(CommandError(self.code, self.detail))

    @property
    def response(self) -> Response:
        """The same as JSON, `{"error": {"code", "message"}}`, never to be cached."""
        return Response(
            self.status,
            error_json(CommandError(self.code, self.detail)),
            {
                "content-type": "application/json",
                "cache-control": "no-store",
                **self.headers,
            },
        )


_CHALLENGE = {"www-authenticate": "Bearer"}

NO_TOKEN = Refusal(401, ErrorCode.UNAUTHORIZED, "give a bearer token", _CHALLENGE)
"""How a request without a token is refused."""


def bearer(headers: Mapping[str, str]) -> str | None:
    """The bearer token of a request; None where there is none.

    >>> bearer({"authorization": "Bearer e30.e30.c2ln"})
    'e30.e30.c2ln'
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def authenticate(operations: Operations, headers: Mapping[str, str]) -> Flow[Identity | Refusal]:
    """Say who makes a request, or how it is refused: 401, or 503 where that cannot be said now.

    Args:
        operations: what carries it out.
        headers: the headers of the request, as `Request` has them.
    """
    token = bearer(headers)
    if token is None:
        return NO_TOKEN
    try:
        return (yield from operations.authenticate(token))
    except (TokenError, StoreUnavailable) as error:
        return refusal_of(error)


def refusal_of(error: TokenError | StoreUnavailable) -> Refusal:
    """How a request is refused whose token is, or for which the store is away."""
    if isinstance(error, StoreUnavailable):
        logger.warning("a request was not answered: %s", error)
        return Refusal(503, ErrorCode.NOT_AVAILABLE, "sessions cannot be reached now")
    if isinstance(error, KeysUnavailable):
        return Refusal(503, ErrorCode.NOT_AVAILABLE, "tokens cannot be verified now")
    if isinstance(error, TokenExpired):
        return Refusal(401, ErrorCode.TOKEN_EXPIRED, "", _CHALLENGE)
    return Refusal(401, ErrorCode.UNAUTHORIZED, "the token is refused", _CHALLENGE)
