"""Who makes a request, for an app's own endpoints: by a bearer token, or a refusal that fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest

from tests.standins import AWAY, SharedStandIn
from usersessions import (
    Identity,
    Key,
    KeysUnavailable,
    StoreUnavailable,
    TokenError,
    TokenExpired,
    TokenVerifier,
    UserSessions,
)
from usersessions.errors import ErrorCode
from usersessions.fetch import FetchFailed
from usersessions.http.authentication import (
    NO_TOKEN,
    Refusal,
    authenticate,
    bearer,
    refusal_of,
)
from usersessions.jwks import JWKS
from usersessions.stores.base import CheckIdentity

SECRET = "a secret of at least thirty-two bytes"
CHALLENGE = {"www-authenticate": "Bearer"}


def token(**claims: object) -> str:
    return jwt.encode({"sub": "42", **claims}, SECRET, algorithm="HS256")


class Asked:
    """Sessions on a store that may be away, asked about the headers of requests."""

    def __init__(self, **settings: Any) -> None:
        self.store = SharedStandIn()
        verifier = TokenVerifier(Key(SECRET, algorithm="HS256"))
        self.sessions = UserSessions(verifier, store=self.store, **settings)

    def __call__(self, headers: Mapping[str, str]) -> Identity | Refusal:
        return self.sessions.run(authenticate(self.sessions.operations, headers))

    def refusal(self, given: str) -> Refusal:
        who = self({"authorization": f"Bearer {given}"})
        assert isinstance(who, Refusal)
        assert given not in f"{who} {who.message} {who.response} {who.response.body!r}"
        return who


@pytest.fixture
def asked() -> Asked:
    return Asked()


# The token ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("Bearer a.b.c", "a.b.c"),
        ("bearer a.b.c", "a.b.c"),
        ("BEARER   a.b.c ", "a.b.c"),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer  \t", None),
        ("Bearera.b.c", None),
        ("", None),
        ("a.b.c", None),
        ("Basic NDI6", None),
        ("apikey a.b.c", None),
        ("Token a.b.c", None),
    ],
)
def test_a_bearer_token_is_found_whatever_the_case_of_its_scheme(
    value: str, found: str | None
) -> None:
    assert bearer({"authorization": value}) == found


def test_a_token_counts_nowhere_else() -> None:
    elsewhere = {"cookie": "a.b.c", "x-api-key": "a.b.c", "proxy-authorization": "Bearer a.b.c"}
    assert bearer(elsewhere) is None
    assert bearer({}) is None


# Who asks -----------------------------------------------------------------------------------------


def test_a_token_says_who_asks_and_all_that_it_says_of_them(asked: Asked) -> None:
    given = token(meta={"plan": "pro"}, jti="phone")
    who = asked({"authorization": f"Bearer {given}"})
    assert isinstance(who, Identity)
    assert (who.user, who.meta, who.token_id) == ("42", {"plan": "pro"}, "phone")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic NDI6"}, {"cookie": "user=42"}])
def test_without_a_token_the_refusal_asks_for_one(asked: Asked, headers: dict[str, str]) -> None:
    who = asked(headers)
    assert who is NO_TOKEN
    assert isinstance(who, Refusal)
    assert who == Refusal(401, ErrorCode.UNAUTHORIZED, "give a bearer token", CHALLENGE)
    assert who.message == "unauthorized: give a bearer token"


def test_a_token_that_is_expired_is_refused_as_such(asked: Asked) -> None:
    assert asked.refusal(token(exp=1)) == Refusal(401, ErrorCode.TOKEN_EXPIRED, "", CHALLENGE)
    assert asked.refusal(token(exp=1)).message == "token expired"


def test_a_token_that_is_none_that_nobody_signed_or_that_names_nobody_is_refused(
    asked: Asked,
) -> None:
    forged = jwt.encode({"sub": "42"}, "another secret of thirty-two bytes", algorithm="HS256")
    refused = Refusal(401, ErrorCode.UNAUTHORIZED, "the token is refused", CHALLENGE)
    for given in ("swordfish", token() + "x", forged, token(sub="")):
        assert asked.refusal(given) == refused


def test_without_a_verifier_every_token_is_refused() -> None:
    sessions = UserSessions()
    headers = {"authorization": f"Bearer {token()}"}
    who = sessions.run(authenticate(sessions.operations, headers))
    assert isinstance(who, Refusal) and who.status == 401


def test_an_anonymous_user_is_let_in_where_that_is_allowed() -> None:
    who = Asked(allow_anonymous=True)({"authorization": f"Bearer {token(sub='')}"})
    assert isinstance(who, Identity) and who.user == ""


def test_a_user_who_is_blocked_and_a_token_that_is_revoked_are_refused(asked: Asked) -> None:
    first, second = token(jti="first"), token(jti="second")
    asked.sessions.revoke_token("first")
    assert asked.refusal(first).status == 401
    assert isinstance(asked({"authorization": f"Bearer {second}"}), Identity)
    asked.sessions.block_user("42")
    assert asked.refusal(second).status == 401
    asked.sessions.unblock_user("42")
    assert isinstance(asked({"authorization": f"Bearer {second}"}), Identity)


# Where it cannot be said --------------------------------------------------------------------------


def test_while_the_store_is_away_nobody_is_told_that_their_token_is_bad(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    asked.store.away = {CheckIdentity}
    given = token(meta={"pin": "swordfish"})
    refusal = asked.refusal(given)
    assert (refusal.status, refusal.code, refusal.headers) == (503, ErrorCode.NOT_AVAILABLE, {})
    assert refusal.message == "not available: sessions cannot be reached now"
    ((level, line, trace),) = [
        (one.levelname, one.getMessage(), one.exc_info) for one in caplog.records
    ]
    assert (level, line, trace) == ("WARNING", f"a request was not answered: {AWAY}", None)


def test_while_keys_cannot_be_fetched_nobody_is_told_that_their_token_is_bad() -> None:
    keys = JWKS("https://login.example/jwks.json", algorithms="ES256")
    sessions = UserSessions(TokenVerifier(keys))
    headers = {"authorization": "Bearer eyJhbGciOiJFUzI1NiJ9.e30.AAAA"}
    flow = authenticate(sessions.operations, headers)
    next(flow)
    with pytest.raises(StopIteration) as end:
        flow.send(FetchFailed("connection refused"))
    assert end.value.value == Refusal(503, ErrorCode.NOT_AVAILABLE, "tokens cannot be verified now")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreUnavailable("swordfish"), 503, 108),
        (KeysUnavailable("swordfish"), 503, 108),
        (TokenExpired("swordfish"), 401, 109),
        (TokenError("swordfish"), 401, 101),
    ],
)
def test_a_refusal_as_a_response_is_json_that_nobody_keeps(
    error: TokenError | StoreUnavailable, status: int, code: int
) -> None:
    refusal = refusal_of(error)
    response = refusal.response
    assert response.status == refusal.status == status
    assert json.loads(response.body) == {"error": {"code": code, "message": refusal.message}}
    assert response.headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        **(CHALLENGE if status == 401 else {}),
    }
    assert b"swordfish" not in response.body


def test_a_defect_is_no_refusal(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(token: str) -> Any:
        raise LookupError("a defect")

    monkeypatch.setattr(asked.sessions.operations, "authenticate", fail)
    with pytest.raises(LookupError, match="a defect"):
        asked({"authorization": f"Bearer {token()}"})
