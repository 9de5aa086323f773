"""A user's own sessions over HTTP, without any framework."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jwt
import pytest

from tests.standins import AWAY, SharedStandIn
from usersessions import Disconnect, Key, Session, TokenVerifier, UserSessions
from usersessions.fetch import FetchFailed
from usersessions.flows import Flow
from usersessions.http.base import Request, Response
from usersessions.http.own_sessions import OwnSessionsApi
from usersessions.jwks import JWKS
from usersessions.stores.base import ListUser

SECRET = "a secret of at least thirty-two bytes"
NOW = 1_800_000_000


def token(**claims: object) -> str:
    return jwt.encode({"sub": "42", "iat": NOW - 60, **claims}, SECRET, algorithm="HS256")


class Own:
    """The endpoint, and sessions that end as soon as they are told to."""

    def __init__(self, **settings: Any) -> None:
        self.store = SharedStandIn(clock=lambda: NOW)
        self.sessions = UserSessions(
            TokenVerifier(Key(SECRET, algorithm="HS256")), store=self.store, **settings
        )
        self._api = OwnSessionsApi(self.sessions.operations)
        self.told: dict[str, Disconnect] = {}
        self.blocks = ExitStack()

    def connect(self, **arguments: Any) -> Session:
        def close(disconnect: Disconnect) -> None:
            self.told[session.client] = disconnect
            self.store.end(session.user, session.client)

        session: Session = self.blocks.enter_context(
            self.sessions.connect(transport="websocket", close=close, **arguments)
        )
        return session

    def __call__(
        self,
        verb: str,
        caller: str | None = None,
        *,
        client: str | None = None,
        query: str = "",
        **headers: str,
    ) -> Response:
        if caller is not None:
            headers["authorization"] = f"Bearer {caller}"
        request = Request(verb, query, headers)
        return self.sessions.run(self._api(request, client))


@pytest.fixture
def own() -> Iterator[Own]:
    one = Own()
    with one.blocks:
        yield one
    one.sessions.close(timeout=0)


def said(response: Response) -> Any:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    return json.loads(response.body)


def error_of(response: Response) -> tuple[int, int, str]:
    error = said(response)["error"]
    return response.status, error["code"], error["message"]


def test_the_list_has_the_callers_sessions_and_no_meta(own: Own) -> None:
    mine = token(jti="mine", meta={"plan": "swordfish"})
    current = own.connect(token=mine, app_name="web", user_agent="curl/8.5.0")
    other = own.connect(token=token(jti="other"), remote_addr="192.0.2.7")
    own.connect(user="43")
    response = own("GET", mine)
    assert response.status == 200
    facts = {"transport": "websocket", "connected_at": NOW, "last_seen": NOW}
    assert said(response) == {
        "sessions": [
            {
                "client": current.client,
                "current": True,
                "app_name": "web",
                "device": "curl",
                **facts,
            },
            {"client": other.client, "current": False, "remote_addr": "192.0.2.7", **facts},
        ]
    }
    assert b"swordfish" not in response.body
    marked = said(own("GET", mine, query=f"current={other.client}"))["sessions"]
    assert [one["current"] for one in marked] == [False, True]


def test_ending_one_closes_it_and_its_token_works_no_more(own: Own) -> None:
    mine, lost = token(jti="mine"), token(jti="lost")
    own.connect(token=mine)
    other = own.connect(token=lost)
    response = own("DELETE", mine, client=other.client)
    assert (response.status, said(response)) == (
        200,
        {"closed": [other.client], "unconfirmed": [], "not_revocable": []},
    )
    assert own.told == {other.client: Disconnect(3503, "force disconnect")}
    assert error_of(own("GET", lost)) == (401, 101, "unauthorized: the token is refused")


def test_ending_all_others_keeps_the_caller(own: Own) -> None:
    mine = token(jti="mine")
    own.connect(token=mine)
    others = [own.connect(token=token(jti=str(number))).client for number in range(2)]
    ended = {"closed": others, "unconfirmed": [], "not_revocable": []}
    assert said(own("DELETE", mine)) == ended
    without = token()
    assert error_of(own("DELETE", without))[:2] == (400, 107)
    last = own.connect(token=without)
    assert said(own("DELETE", without, query=f"current={last.client}"))["closed"] != []
    assert set(own.sessions.user_connections("42")) == {last.client}


def test_a_foreign_session_is_not_found_like_one_that_is_not_there(own: Own) -> None:
    foreign = own.connect(user="43")
    answers = {
        error_of(own("DELETE", token(), client=client))
        for client in (foreign.client, "nobody", "%00")
    }
    assert answers == {(404, 108, "not available: there is no session of this client ID")}
    assert own.told == {}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
        {"authorization": "Basic NDI6"},
        {"cookie": f"token={token()}"},
        {"x-api-key": "0123456789abcdef"},
    ],
)
def test_nothing_but_a_bearer_token_says_who_asks(own: Own, headers: dict[str, str]) -> None:
    response = own("GET", **headers)
    assert error_of(response) == (401, 101, "unauthorized: give a bearer token")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_refused_token_is_unauthorized_and_says_so_without_a_word_of_it(own: Own) -> None:
    assert error_of(own("GET", token(exp=1))) == (401, 109, "token expired")
    bad = token(sub="secret user") + "x"
    response = own("DELETE", bad, client="c1")
    assert error_of(response) == (401, 101, "unauthorized: the token is refused")
    assert error_of(own("GET", token(sub="")))[:2] == (401, 101)


def test_the_anonymous_user_has_no_sessions_of_their_own() -> None:
    own = Own(allow_anonymous=True)
    assert error_of(own("GET", token(sub="")))[:2] == (400, 107)


def test_a_login_that_cannot_be_revoked_is_said_to_be_so(own: Own) -> None:
    session = own.connect(user="42")
    ended = said(own("DELETE", token(jti="mine"), client=session.client))
    assert ended["closed"] == ended["not_revocable"] == [session.client]


@pytest.mark.parametrize(
    ("verb", "client", "allowed"),
    [("POST", None, "GET, DELETE"), ("GET", "c1", "DELETE"), ("PUT", "c1", "DELETE")],
)
def test_other_verbs_are_not_allowed(own: Own, verb: str, client: str | None, allowed: str) -> None:
    response = own(verb, token(), client=client)
    assert (response.status, response.headers["allow"]) == (405, allowed)
    assert said(response)["error"]["code"] == 107


def test_a_login_that_is_too_young_is_denied() -> None:
    own = Own(end_others_min_age=3600.0)
    with own.blocks:
        other = own.connect(token=token(jti="other"))
        mine = token(jti="mine")
        for response in (own("DELETE", mine), own("DELETE", mine, client=other.client)):
            assert error_of(response)[:2] == (403, 103)
        assert own.told == {}


def test_while_keys_cannot_be_fetched_nobody_is_told_that_their_token_is_bad() -> None:
    keys = JWKS("https://login.example/jwks.json", algorithms="ES256")
    sessions = UserSessions(TokenVerifier(keys))
    ec_token = "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"
    flow: Flow[Response] = OwnSessionsApi(sessions.operations)(
        Request("GET", headers={"authorization": f"Bearer {ec_token}"})
    )
    next(flow)
    with pytest.raises(StopIteration) as end:
        flow.send(FetchFailed("connection refused"))
    response: Response = end.value.value
    assert error_of(response) == (503, 108, "not available: tokens cannot be verified now")


def test_an_answer_that_may_not_be_whole_says_so_at_its_end(own: Own) -> None:
    own.store.partial = True
    assert own("GET", token()).body == b'{"sessions":[],"partial":true}'
    ended = b'{"closed":[],"unconfirmed":[],"not_revocable":[],"partial":true}'
    assert own("DELETE", token(jti="mine")).body == ended
    assert error_of(own("DELETE", token(), client="c1"))[:2] == (503, 108)


def test_while_the_store_is_away_users_are_told_to_come_back(
    own: Own, caplog: pytest.LogCaptureFixture
) -> None:
    own.store.away = {ListUser}
    for response in (own("GET", token()), own("DELETE", token(), client="c1")):
        message = "not available: sessions cannot be reached now"
        assert error_of(response) == (503, 108, message)
    assert [(one.levelname, one.getMessage(), one.exc_info) for one in caplog.records] == [
        ("WARNING", f"a request was not answered: {AWAY}", None)
    ] * 2
