"""The records: checked when they are made, frozen after, and silent about what is private."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from tests.secrecy import said
from usersessions.errors import ConfigError, InvalidValue
from usersessions.models import (
    MAX_DATA_BYTES,
    MAX_ID_LENGTH,
    MAX_LABELS,
    MAX_REASON_BYTES,
    MAX_TIME,
    ConnectRequest,
    Disconnect,
    Identity,
    SessionLimit,
    check_id,
    check_labels,
    check_time,
)
from usersessions.strictjson import JSON, dumps, loads

SECRET = "s3cret"
DEEPEST: JSON = loads(b"[" * 32 + b"]" * 32)


def refusal(make: Callable[..., object], *values: object, **named: object) -> str:
    with pytest.raises(InvalidValue) as caught:
        make(*values, **named)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert SECRET not in said(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "value", ["", "42", "x" * MAX_ID_LENGTH, "\U0001f600" * MAX_ID_LENGTH, "\x00\n", "ü", "\ufffd"]
)
def test_an_id_is_any_string_within_bounds(value: str) -> None:
    assert check_id("user", value) is value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (42, "user must be a string, not int"),
        (None, "user must be a string, not NoneType"),
        (SECRET.encode(), "user must be a string, not bytes"),
        ([SECRET], "user must be a string, not list"),
        (SECRET * 43, "user is longer than 255 characters"),
        (f"{SECRET}\ud800", "user holds a lone surrogate, which is not a character"),
        (f"\udfff{SECRET}", "user holds a lone surrogate, which is not a character"),
    ],
)
def test_what_is_no_id_is_refused_by_name_and_kind(value: object, why: str) -> None:
    assert refusal(check_id, "user", value) == why


@pytest.mark.parametrize("value", [0, -1, 1.5, MAX_TIME, -MAX_TIME])
def test_a_time_is_a_number_of_seconds(value: float) -> None:
    assert check_time("exp", value) is value


@pytest.mark.parametrize("value", ["1", None, True, [1], b"1"])
def test_a_time_is_no_other_kind(value: object) -> None:
    kind = type(value).__name__
    assert refusal(check_time, "exp", value) == f"exp must be a number of seconds, not {kind}"


@pytest.mark.parametrize("value", [MAX_TIME + 1, -MAX_TIME - 1, math.inf, math.nan, 10**400])
def test_a_time_is_finite_and_exact(value: float) -> None:
    assert refusal(check_time, "exp", value) == "exp is out of range"


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        (3000, True),
        (3499, True),
        (3500, False),
        (3999, False),
        (4000, True),
        (4499, True),
        (4500, False),
        (4999, False),
    ],
)
def test_the_code_of_a_disconnect_says_whether_to_reconnect(code: int, reconnect: bool) -> None:
    assert Disconnect(code).reconnect is reconnect


def test_a_disconnect_takes_its_reason_from_its_code_where_that_is_asked() -> None:
    assert Disconnect.of(3001) == Disconnect(3001, "shutdown")
    assert Disconnect.of(4001) == Disconnect(4001, "")
    assert type(Disconnect.of(3001).code) is int


@pytest.mark.parametrize("code", [2999, 5000, 0, -3000, 10**400])
def test_a_disconnect_code_out_of_range_is_refused(code: int) -> None:
    assert refusal(Disconnect, code) == "disconnect code must be from 3000 to 4999"


@pytest.mark.parametrize("code", ["3000", 3000.0, True, None])
def test_a_disconnect_code_is_an_integer(code: object) -> None:
    assert refusal(Disconnect, code) == "disconnect code must be an integer"


def test_a_reason_fits_into_a_websocket_close_frame() -> None:
    assert Disconnect(4000, "ü" * 61 + "x").reason == "ü" * 61 + "x"
    for reason in ("x" * (MAX_REASON_BYTES + 1), "x" * 300, "ü" * 62):
        assert refusal(Disconnect, 4000, reason) == "disconnect reason is over 123 bytes of UTF-8"
    assert "must be a string" in refusal(Disconnect, 4000, None)
    assert "lone surrogate" in refusal(Disconnect, 4000, "\ud800")


def test_an_identity_is_a_user_and_by_default_no_more() -> None:
    identity = Identity("42")
    assert (identity.user, identity.labels) == ("42", {})
    for name in ("meta", "info", "data", "token_id", "issued_at", "expire_at"):
        assert getattr(identity, name) is None
    assert identity.meta_json is None
    assert identity.data_json is None


def test_an_empty_token_id_is_none() -> None:
    assert Identity("42", token_id="").token_id is None


def test_an_identity_prepares_its_json_once() -> None:
    identity = Identity("42", meta={"plan": "pro", "ü": [1.5, None]}, data=[1, 2])
    assert identity.meta_json == '{"plan":"pro","ü":[1.5,null]}'.encode()
    assert identity.data_json == b"[1,2]"


@pytest.mark.parametrize("value", [0, False, "", [], {}])
def test_an_empty_value_is_a_value(value: JSON) -> None:
    identity = Identity("42", meta=value, data=value)
    assert identity.meta_json == identity.data_json == dumps(value)


@pytest.mark.parametrize("name", ["meta", "info", "data"])
def test_json_of_an_identity_is_bounded(name: str) -> None:
    fitting: list[dict[str, Any]] = [{name: "x" * (MAX_DATA_BYTES - 2)}, {name: DEEPEST}]
    for values in fitting:
        assert getattr(Identity("42", **values), name) == values[name]
    over = {name: "ü" * (MAX_DATA_BYTES // 2)}
    assert refusal(Identity, "42", **over) == f"{name} is over 8192 bytes of compact JSON"
    deep = {name: [DEEPEST]}
    assert refusal(Identity, "42", **deep) == f"{name} has no JSON form: nesting is deeper than 32"


@pytest.mark.parametrize("name", ["meta", "info", "data"])
@pytest.mark.parametrize(
    "value",
    [
        {SECRET: SECRET.encode()},
        {SECRET: math.nan},
        [f"{SECRET}\ud800"],
        {1: SECRET, "1": SECRET},
        {SECRET},
    ],
    ids=["bytes", "nan", "surrogate", "names", "set"],
)
def test_a_value_without_a_json_form_is_refused_by_name_alone(name: str, value: object) -> None:
    assert refusal(Identity, "42", **{name: value}).startswith(f"{name} has no JSON form: ")


def test_labels_are_a_few_short_strings_by_name() -> None:
    labels = {f"label {number}": "x" * MAX_ID_LENGTH for number in range(MAX_LABELS)}
    assert Identity("42", labels=labels).labels == labels
    assert Identity("42", labels=MappingProxyType(labels)).labels == labels


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([(SECRET, SECRET)], "labels must be a mapping, not list"),
        ("", "labels must be a mapping, not str"),
        ({str(number): SECRET for number in range(17)}, "there are more than 16 labels"),
        ({SECRET: 1}, "label must be a string, not int"),
        ({1: SECRET}, "label name must be a string, not int"),
        ({SECRET: SECRET * 43}, "label is longer than 255 characters"),
        ({SECRET * 43: ""}, "label name is longer than 255 characters"),
    ],
)
def test_labels_out_of_bounds_are_refused(labels: object, why: str) -> None:
    assert refusal(Identity, "42", labels=labels) == why


def test_labels_are_a_copy_that_later_changes_do_not_reach() -> None:
    labels = {"device": "phone"}
    identity = Identity("42", labels=labels)
    labels["device"] = "desk"
    assert identity.labels == {"device": "phone"}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"user": 42}, "user must be a string, not int"),
        ({"user": None}, "user must be a string, not NoneType"),
        ({"token_id": 7}, "token_id must be a string, not int"),
        ({"issued_at": "now"}, "issued_at must be a number of seconds, not str"),
        ({"expire_at": True}, "expire_at must be a number of seconds, not bool"),
        ({"expire_at": math.inf}, "expire_at is out of range"),
    ],
)
def test_an_identity_out_of_bounds_is_refused(wrong: Mapping[str, object], why: str) -> None:
    assert refusal(Identity, **{"user": "42", **wrong}) == why


def test_identities_are_equal_by_what_they_say() -> None:
    assert Identity("42", meta={"a": 1}) == Identity("42", meta={"a": 1})
    assert Identity("42", meta={"a": 1}) != Identity("42", meta={"a": 2})


@pytest.mark.parametrize("name", ["client", "transport", "protocol", "name", "version"])
def test_the_names_in_a_connect_request_are_within_the_bounds_of_ids(name: str) -> None:
    good = {"client": "c1", "transport": "sse"}
    assert f"{name} must be a string, not int" in refusal(ConnectRequest, **{**good, name: 7})
    assert f"{name} is longer" in refusal(ConnectRequest, **{**good, name: "x" * 256})
    assert f"{name} holds a lone" in refusal(ConnectRequest, **{**good, name: "\ud800"})


def test_a_connect_request_is_of_json_and_by_default_of_nothing_else() -> None:
    request = ConnectRequest("c1", "sse")
    assert (request.protocol, request.token, request.name, request.version) == (
        "json",
        None,
        None,
        None,
    )
    assert (request.data, request.headers) == (None, {})


RECORDS = [
    Disconnect(4001, "bye"),
    Identity(
        "42",
        meta={SECRET: SECRET},
        info=SECRET,
        data=[SECRET],
        labels={SECRET: SECRET},
        token_id=SECRET,
        issued_at=1,
        expire_at=2,
    ),
    ConnectRequest(
        "c1",
        "sse",
        token=SECRET,
        name="web",
        version="1.2",
        data=SECRET,
        headers={"authorization": SECRET},
    ),
    SessionLimit(5, policy="evict_idle"),
]
SHOWN = [
    "Disconnect(code=4001, reason='bye')",
    "Identity(user='42', issued_at=1, expire_at=2)",
    "ConnectRequest(client='c1', transport='sse', protocol='json', name='web', version='1.2')",
    "SessionLimit(max_sessions=5, policy='evict_idle', per_app=False)",
]
each_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)


@pytest.mark.parametrize(("record", "shown"), list(zip(RECORDS, SHOWN, strict=True)))
def test_a_repr_shows_nothing_private(record: object, shown: str) -> None:
    assert repr(record) == str(record) == f"{record}" == shown


@each_record
def test_a_record_is_frozen_and_slotted(record: object) -> None:
    assert dataclasses.is_dataclass(record)
    for field in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field.name, None)
    assert not hasattr(record, "__dict__")


@each_record
def test_a_record_crosses_to_another_process_whole(record: object) -> None:
    assert pickle.loads(pickle.dumps(record)) == record


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"max_sessions": 0}, "max_sessions must be 1 at least"),
        ({"max_sessions": 1.0}, "max_sessions must be a whole number"),
        ({"max_sessions": True}, "max_sessions must be a whole number"),
        (
            {"max_sessions": 1, "policy": "evict"},
            "policy must be one of reject, evict_oldest, evict_idle",
        ),
    ],
)
def test_a_limit_that_cannot_work_is_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        SessionLimit(**values)


def test_labels_are_copied() -> None:
    labels = {"device": "phone"}
    checked = check_labels(labels)
    labels.clear()
    assert checked == {"device": "phone"}


@pytest.mark.parametrize("name", ["remote_addr", "user_agent"])
def test_what_is_there_to_be_read_alone_is_cut_and_not_refused(name: str) -> None:
    values: dict[str, Any] = {name: "x" * 300}
    assert getattr(ConnectRequest("c1", "sse", **values), name) == "x" * MAX_ID_LENGTH
    values = {name: 7}
    with pytest.raises(InvalidValue, match=f"{name} must be a string, not int"):
        ConnectRequest("c1", "sse", **values)
