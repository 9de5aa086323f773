"""What is kept of a session, and what each view shows of it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usersessions.errors import JSONError
from usersessions.models import ConnectRequest, Identity
from usersessions.records import (
    ConnectionInfo,
    Connections,
    Facts,
    OwnList,
    OwnSession,
    app_name_of,
    facts_of,
    prepare,
    refreshed,
    wire_of,
)
from usersessions.strictjson import JSON, loads

SECRET = "s3cret"
RUBBISH = [
    b"",
    b"[]",
    b"1",
    b'{"a"',
    b'{"a":1,"a":1}',
    b"\xff",
    b"{}",
    b"{}\n",
    b"{}\n[]",
    b'{}\n{"labels":{}}',
    b'[]\n{"connected_at":0}',
]


def entry(request: ConnectRequest, identity: Identity) -> bytes:
    return prepare(request, identity, Facts(connected_at=0))


REQUEST = ConnectRequest("c1", "uni_sse", name="web", version="1.2")


@pytest.mark.parametrize(
    ("request_", "identity", "prepared"),
    [
        (
            REQUEST,
            Identity("42", meta={"plan": "pro"}),
            b'{"app_name":"web","app_version":"1.2","transport":"uni_sse","protocol":"json",'
            b'"meta":{"plan":"pro"}}',
        ),
        (
            ConnectRequest("c1", "websocket", protocol="protobuf"),
            Identity("42"),
            b'{"transport":"websocket","protocol":"protobuf"}',
        ),
        (
            ConnectRequest("c1", "sse", name="", version=""),
            Identity("42", meta=None),
            b'{"transport":"sse","protocol":"json"}',
        ),
        (
            ConnectRequest("c1", "sse", version="1"),
            Identity("42", meta=0),
            b'{"app_version":"1","transport":"sse","protocol":"json","meta":0}',
        ),
        (ConnectRequest("c1", "", protocol=""), Identity(""), b'{"transport":"","protocol":""}'),
    ],
)
def test_an_entry_has_exactly_the_members_that_are_set_and_in_this_order(
    request_: ConnectRequest, identity: Identity, prepared: bytes
) -> None:
    assert wire_of(entry(request_, identity)) == prepared


def test_an_entry_says_nothing_but_its_facts_and_meta() -> None:
    request = ConnectRequest(
        "c1", "sse", token=SECRET, data={SECRET: SECRET}, headers={"cookie": SECRET}
    )
    identity = Identity(
        SECRET, info=SECRET, data=SECRET, labels={SECRET: SECRET}, token_id=SECRET, expire_at=1
    )
    prepared = entry(request, identity)
    assert wire_of(prepared) == b'{"transport":"sse","protocol":"json"}'


names = (
    st.none() | st.text(max_size=20) | st.sampled_from([',"meta":', '","meta":', '\\","meta":1'])
)
metas = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just(',"meta":'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.just("meta") | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(names, names, st.text(min_size=1, max_size=9), metas)
@example(',"meta":', ',"meta":1}', '"', {"a": 1, "meta": {"x": 0, "meta": ',"meta":'}})
def test_what_goes_into_an_entry_comes_out_of_it(
    name: str | None, version: str | None, transport: str, meta: JSON
) -> None:
    request = ConnectRequest("c1", transport, name=name, version=version)
    prepared = entry(request, Identity("42", meta=meta))
    info = ConnectionInfo(prepared)
    assert (info.app_name, info.app_version) == (name or None, version or None)
    assert (info.transport, info.protocol) == (transport, "json")
    assert repr(info.meta) == repr(meta)
    whole = {
        "app_name": name,
        "app_version": version,
        "transport": transport,
        "protocol": "json",
        "meta": meta,
    }
    unset = {key for key in ("app_name", "app_version") if not whole[key]}
    unset |= {"meta"} if meta is None else set()
    assert loads(wire_of(prepared)) == {
        key: value for key, value in whole.items() if key not in unset
    }


def test_meta_is_made_anew_at_each_use() -> None:
    info = ConnectionInfo(entry(REQUEST, Identity("42", meta={"plan": "pro"})))
    first = info.meta
    assert isinstance(first, dict)
    first.clear()
    assert info.meta == {"plan": "pro"}


def test_connections_are_equal_by_what_they_say() -> None:
    prepared = entry(REQUEST, Identity("42", meta=[1]))
    info = ConnectionInfo(prepared)
    assert info == ConnectionInfo(prepared)
    assert hash(info) == hash(ConnectionInfo(prepared))
    assert info != ConnectionInfo(entry(REQUEST, Identity("42", meta=[2])))
    assert info != ConnectionInfo(entry(REQUEST, Identity("42")))
    of_another_kind: object = prepared
    assert info != of_another_kind


@pytest.mark.parametrize("prepared", RUBBISH)
def test_what_is_no_entry_is_refused(prepared: bytes) -> None:
    with pytest.raises(JSONError):
        ConnectionInfo(prepared)


FULL = Facts(
    1700000000.5,
    expire_at=1700000100,
    token_id=SECRET,
    issued_at=0,
    token_expires=1700000200,
    labels={"device": SECRET},
    remote_addr="192.0.2.7",
    user_agent="curl/8.5.0",
)


@pytest.mark.parametrize("facts", [FULL, Facts(0), Facts(0, issued_at=0)])
def test_facts_come_out_of_a_record_as_they_went_in(facts: Facts) -> None:
    record = prepare(REQUEST, Identity("42", meta="\n"), facts)
    assert facts_of(record) == facts
    assert repr(facts_of(record)) == f"Facts(connected_at={facts.connected_at})"


def test_facts_of_a_token_without_iat_say_that_there_is_a_token() -> None:
    identity = Identity("42")
    of_token = Facts.of(REQUEST, identity, connected_at=1, from_token=True)
    of_app = Facts.of(REQUEST, identity, connected_at=1, from_token=False)
    assert (of_token.issued_at, of_app.issued_at) == (0, None)


@pytest.mark.parametrize("sign", [{"token_id": "t1"}, {"token_expires": 9}])
def test_an_identity_that_shows_signs_of_a_token_has_one(sign: dict[str, Any]) -> None:
    for issued_at, fact in ((None, 0), (7, 7)):
        identity = Identity("42", issued_at=issued_at, **sign)
        facts = Facts.of(REQUEST, identity, connected_at=1, from_token=False)
        assert facts.issued_at == fact


def test_facts_that_are_not_known_here_are_passed_over() -> None:
    assert facts_of(b'{}\n{"connected_at":1,"shoe_size":43}') == Facts(1)


def test_a_refreshed_record_differs_in_what_was_changed() -> None:
    record = prepare(REQUEST, Identity("42", meta=[1]), FULL)
    changed = refreshed(record, expire_at=None, token_id="t2")
    assert wire_of(changed) == wire_of(record)
    assert facts_of(changed) == dataclasses.replace(FULL, expire_at=None, token_id="t2")


def test_a_connection_shows_its_facts_to_the_server_and_its_repr_shows_none() -> None:
    info = ConnectionInfo(prepare(REQUEST, Identity("42", meta=SECRET), FULL), last_seen=1700000009)
    assert (info.connected_at, info.last_seen) == (1700000000.5, 1700000009)
    assert (info.expire_at, info.labels) == (1700000100, {"device": SECRET})
    assert (info.remote_addr, info.user_agent, info.device) == ("192.0.2.7", "curl/8.5.0", "curl")
    shown = (
        "ConnectionInfo(app_name='web', app_version='1.2', transport='uni_sse', protocol='json')"
    )
    assert repr(info) == shown


def test_a_user_sees_their_own_session_without_meta() -> None:
    info = ConnectionInfo(prepare(REQUEST, Identity("42", meta=SECRET), FULL))
    own = OwnSession.of("c1", info, current=True)
    assert own == OwnSession(
        "c1", True, "web", "1.2", "uni_sse", 1700000000.5, 1700000000.5, "curl", "192.0.2.7"
    )
    assert SECRET not in str(dataclasses.asdict(own))
    assert "meta" not in {field.name for field in dataclasses.fields(OwnSession)}


def test_the_app_name_of_a_record_is_that_of_its_list() -> None:
    assert app_name_of(entry(REQUEST, Identity("42"))) == "web"
    assert app_name_of(entry(ConnectRequest("c1", "sse"), Identity("42"))) is None


INFO = ConnectionInfo(prepare(ConnectRequest("c1", "sse"), Identity("42"), Facts(connected_at=0)))
OWN = OwnSession.of("c1", INFO, current=True)


@pytest.mark.parametrize(
    ("view", "plain"),
    [
        (Connections({"c1": INFO}, partial=True), {"c1": INFO}),
        (Connections([("c1", INFO)]), {"c1": INFO}),
        (Connections(), {}),
        (OwnList([OWN], partial=True), (OWN,)),
        (OwnList(one for one in (OWN,)), (OWN,)),
        (OwnList(), ()),
    ],
)
def test_a_view_of_several_sessions_is_as_a_plain_one_and_knows_if_it_is_whole(
    view: Connections | OwnList, plain: object
) -> None:
    assert (view == plain, repr(view), len(view)) == (True, repr(plain), int(bool(plain)))
    for copied in (copy.copy(view), pickle.loads(pickle.dumps(view))):
        assert (type(copied), copied, copied.partial) == (type(view), view, view.partial)


def test_a_view_of_several_sessions_is_whole_unless_it_says_otherwise() -> None:
    assert not Connections().partial and Connections(partial=True).partial
    assert not OwnList().partial and OwnList(partial=True).partial
