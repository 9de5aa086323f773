"""Strict JSON: one reading, one clear error, and no text of what was refused."""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.secrecy import said
from usersessions.errors import JSONError
from usersessions.strictjson import JSON, MAX_DEPTH, dumps, loads, loads_many

# Much of what makes text hard to scan: brackets and quotes inside of strings.
texts = st.text(max_size=12) | st.text('[]{}"\\,: ', max_size=12)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
pieces = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    '"',
    '"a"',
    '"\\""',
    "\\",
    "\\u",
    "\\ud800",
    "0",
    "-1",
    "1e",
]
pieces += ["1.5", "1e999", "NaN", "true", "nul", "null", "\ufeff", "\n"]
tokens = st.lists(st.sampled_from(pieces) | texts).map("".join)


def refusal(data: bytes | str, read: Callable[[bytes | str], object] = loads) -> str:
    with pytest.raises(JSONError) as caught:
        read(data)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def no_form(value: object) -> str:
    with pytest.raises(JSONError) as caught:
        dumps(value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_any_json_is_read_as_it_was_written(
    value: JSON, ensure_ascii: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
    # By repr, as 1 == True == 1.0, and 0.0 == -0.0.
    assert repr(loads(text)) == repr(loads(text.encode())) == repr(value)


@given(json_values)
def test_what_is_written_is_compact_utf_8_and_reads_back(value: JSON) -> None:
    data = dumps(value)
    assert data == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert repr(loads(data)) == repr(value)


@given(st.binary() | tokens | tokens.map(str.encode))
@example(b"\xff\xfe{\x00}\x00")
@example("\ud800")
def test_any_bytes_or_text_give_what_python_reads_or_a_json_error(data: bytes | str) -> None:
    try:
        values = loads_many(data)
    except JSONError as error:
        assert str(error).startswith("not valid JSON: ")
        return
    if len(values) == 1:
        assert repr(json.loads(data)) == repr(values[0])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the text is empty"),
        (b" \t\r\n", "the text is empty"),
        (b"{} {}", "there is more after the first value"),
        (b"01", "there is more after the first value"),
        (b"nul", "Expecting value at line 1, column 1"),
        (b"\n  {,}", "Expecting property name enclosed in double quotes at line 2, column 4"),
        (b'{"a" 1}', "Expecting ':' delimiter at line 1, column 6"),
        (b"[1 2]", "Expecting ',' delimiter at line 1, column 4"),
        (b'["a', "Unterminated string starting at line 1, column 2"),
        (b'"a\x00"', "Invalid control character at line 1, column 3"),
        (b'"\\x41"', "Invalid \\escape at line 1, column 2"),
        (b'"\\u12"', "Invalid \\uXXXX escape at line 1, column 3"),
        (b"{'a': 1}", "Expecting property name enclosed in double quotes at line 1, column 2"),
        (b"\xa0{}", "the text is not UTF-8"),
        (b'"\xed\xa0\x80"', "the text is not UTF-8"),
        (b'"\xc0\xaf"', "the text is not UTF-8"),
        ('"ü"'.encode("utf-16"), "the text is not UTF-8"),
        (
            "{}".encode("utf-16-le"),
            "Expecting property name enclosed in double quotes at line 1, column 2",
        ),
        ("{}".encode("utf-32-be"), "Expecting value at line 1, column 1"),
        (b"\xef\xbb\xbf{}", "the text begins with a byte order mark, which must be left out"),
        ("\ufeff{}", "the text begins with a byte order mark, which must be left out"),
    ],
)
def test_text_that_is_not_json_is_refused_with_the_place(data: bytes | str, why: str) -> None:
    assert refusal(data) == f"not valid JSON: {why}"


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "b": 2, "\\u0061": 3}',
        b'[{"x": {"": 1, "": 2}}]',
        '{"ü": 1, "ü": 2}'.encode(),
    ],
)
def test_a_member_name_stands_once_in_its_object(data: bytes) -> None:
    assert refusal(data) == "not valid JSON: a member name stands twice in one object"


def test_a_member_name_may_stand_in_several_objects() -> None:
    assert loads(b'{"a": {"a": 1}, "b": {"a": 2}}') == {"a": {"a": 1}, "b": {"a": 2}}
    # Two ways to write what looks the same are two names.
    assert loads(b'{"\\u00fc": 1, "u\\u0308": 2}') == {"\u00fc": 1, "u\u0308": 2}


@pytest.mark.parametrize("data", [b"NaN", b"Infinity", b"-Infinity", b'{"a": [NaN]}'])
def test_nan_and_infinity_are_not_json(data: bytes) -> None:
    assert refusal(data) == "not valid JSON: NaN and Infinity are not JSON"


@pytest.mark.parametrize("data", [b"1e999", b"-1e999", b"[1.0e309]", b"9" * 999 + b".0"])
def test_a_number_that_only_infinity_could_hold_is_refused(data: bytes) -> None:
    assert refusal(data) == "not valid JSON: a number is out of range"


@pytest.fixture
def digits_limited() -> Iterator[None]:
    """Python's usual limit, whatever the environment says."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(4300)
    yield
    sys.set_int_max_str_digits(before)


@pytest.mark.usefixtures("digits_limited")
def test_an_integer_of_too_many_digits_is_refused_in_words_of_our_own() -> None:
    assert loads(b"9" * 4300) == 10**4300 - 1
    assert refusal(b"9" * 4301) == "not valid JSON: a number has too many digits"
    assert refusal(b"-" + b"9" * 65536) == "not valid JSON: a number has too many digits"


@pytest.mark.parametrize(
    "data", [b'"\\ud800"', b'"\\udfff"', b'{"\\ud83d": 1}', b'["\\ude00\\ud83d"]', b'"\\ud83dx"']
)
def test_a_lone_surrogate_is_refused(data: bytes) -> None:
    assert refusal(data) == "not valid JSON: a lone surrogate is not a character"


@pytest.mark.parametrize("data", ['"\ud800"', '{"\udfff": 1}', '"\ude00\ud83d"', '"\ud83d\ude00"'])
def test_a_surrogate_in_a_string_is_refused_too(data: str) -> None:
    assert refusal(data) == "not valid JSON: the text is not UTF-8"


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert loads(b'"\\\\ud800"') == "\\ud800"


@pytest.mark.parametrize("shape", ["[%s]", '{"a":%s}', '["[{", %s]'])
def test_nesting_is_at_most_thirty_two_deep(shape: str) -> None:
    text = "0"
    for _ in range(MAX_DEPTH):
        text = shape % text
    assert loads(text) is not None
    assert refusal(shape % text) == "not valid JSON: nesting is deeper than 32"


@given(json_values, st.integers(0, MAX_DEPTH + 8))
def test_depth_is_judged_by_the_brackets_that_nest(value: JSON, extra: int) -> None:
    for _ in range(extra):
        value = [value]
    text = json.dumps(value)
    if _depth(value) > MAX_DEPTH:
        assert refusal(text) == "not valid JSON: nesting is deeper than 32"
    else:
        assert repr(loads(text)) == repr(value)


def _depth(value: JSON) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def test_brackets_that_do_not_nest_are_not_counted() -> None:
    assert loads_many(nested(MAX_DEPTH) * 40) == [loads(nested(MAX_DEPTH))] * 40
    for text in ("[" * 99, '"' + "[" * 99, "\\" * 98 + "{" * 99, '[\\"' * 99):
        assert loads(json.dumps(text)) == text
        assert loads(json.dumps([[], text, {text: text}])) == [[], text, {text: text}]


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 65536,
        b'{"a":' * 13107,
        b"[{" * 32768,
        b"]" * 65536,
        b"[]" * 40 + b'"' * 65535,
        b"[]" * 40 + b'"' + b"\\" * 65536,
        b"[]" * 40 + b'"' + b"\\" * 65535,
        b"[]" * 40 + b'"' + b'\\"' * 32768,
        b"[]" * 40 + b'"' + b"a" * 65536,
        b"[" + b'"[",' * 16384,
        b'"' + b"\\ud800" * 10922 + b'"',
        b"-" * 65536,
        b"\n" * 65536 + b"x",
        b'{"' + b"\\u0000" * 10922,
    ],
    ids=lambda data: f"{data[:4]!r}...{data[-4:]!r}",
)
def test_a_long_hostile_text_is_refused(data: bytes) -> None:
    # That no scan here starts over is for readers to see; one that did would be felt at this size.
    assert refusal(data).startswith("not valid JSON: ")


def test_a_million_members_are_read() -> None:
    members = b",".join(b'"%d":0' % number for number in range(1_000_000))
    value = loads(b"{" + members + b"}")
    assert isinstance(value, dict)
    assert len(value) == 1_000_000


@pytest.mark.parametrize(
    "data", [b'{"a": 1}\n{"b": 2}\n', b'{"a": 1}{"b": 2}', b'\r\n {"a": 1} \t{"b": 2}']
)
def test_values_may_follow_one_another_with_or_without_space(data: bytes) -> None:
    assert loads_many(data) == [{"a": 1}, {"b": 2}]


def test_no_text_is_no_values() -> None:
    assert loads_many(b"") == loads_many(b" \n") == []


def test_one_bad_value_refuses_all_and_says_where() -> None:
    why = refusal(b'{"a": 1}\n{"b": 2,}', loads_many)
    assert "at line 2, column" in why
    assert "lone surrogate" in refusal(b'"fine" "\\ud800"', loads_many)


SECRET = "s3cret"


@pytest.mark.parametrize(
    "data",
    [
        f'{{"{SECRET}": "{SECRET}", "{SECRET}": 1}}',
        f'["{SECRET}", {SECRET}]',
        f'["{SECRET}',
        f'"{SECRET}\\x"',
        f'"{SECRET}\x01"',
        f'{{"{SECRET}" "{SECRET}"}}',
        f'"{SECRET}" "{SECRET}"',
        f'"{SECRET}\\ud800"',
        f'"{SECRET}\ud800"',
        f'["{SECRET}", NaN]',
        f'["{SECRET}", 1e999]',
        f'["{SECRET}", {"9" * 5000}]',
        "[" * 33 + f'"{SECRET}"',
        f'\ufeff"{SECRET}"',
        SECRET.encode() + b"\xff",
    ],
)
def test_an_error_keeps_nothing_of_what_it_refused(data: bytes | str) -> None:
    with pytest.raises(JSONError) as caught:
        loads(data)
    assert SECRET not in said(caught.value)
    assert "999" not in said(caught.value)


@given(json_values, st.integers(0, 99), st.sampled_from(["", ",", "}", '"', "\\", "\x00", "NaN"]))
def test_no_broken_text_is_quoted(value: JSON, place: int, junk: str) -> None:
    text = json.dumps([{SECRET: value}, SECRET])
    place = min(place, len(text))
    try:
        loads(text[:place] + junk + text[place + 1 :])
    except JSONError as error:
        assert SECRET not in said(error)
        assert error.__context__ is None


class Opaque:
    def __repr__(self) -> str:
        return SECRET


def _cycle() -> list[object]:
    cycle: list[object] = [SECRET]
    cycle.append(cycle)
    return cycle


def _deep(depth: int) -> object:
    value: object = SECRET
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.usefixtures("digits_limited")
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Opaque(), "only dict, list, str, int, float, bool and None have a JSON form"),
        ({"a": SECRET.encode()}, "only dict, list, str, int, float, bool and None"),
        ({SECRET}, "only dict, list, str, int, float, bool and None"),
        ({(SECRET,): 1}, "only dict, list, str, int, float, bool and None"),
        (f"{SECRET}\ud800", "a lone surrogate is not a character"),
        ({f"{SECRET}\udfff": 1}, "a lone surrogate is not a character"),
        ([SECRET, math.nan], "numbers must be finite"),
        (math.inf, "numbers must be finite"),
        ([SECRET, 10**5000], "numbers must be finite and not too long"),
        (_cycle(), "a value must not contain itself"),
        (_deep(MAX_DEPTH + 1), "nesting is deeper than 32"),
        (_deep(1_000_000), "nesting is deeper than 32"),
        ({1: SECRET, "1": SECRET}, "the names of members must be strings"),
        ([{"a": ({None: SECRET},)}], "the names of members must be strings"),
        ({True: SECRET}, "the names of members must be strings"),
        ({1.5: SECRET}, "the names of members must be strings"),
    ],
    ids=lambda value: value if isinstance(value, str) and SECRET not in value else "",
)
def test_a_value_without_a_json_form_is_refused_unseen(value: object, why: str) -> None:
    with pytest.raises(JSONError) as caught:
        dumps(value)
    assert str(caught.value).startswith("no JSON form: ")
    assert why in str(caught.value)
    assert SECRET not in said(caught.value)
    assert caught.value.__context__ is None


def test_the_usual_kin_of_json_values_are_written_as_such() -> None:
    assert dumps((1, [2], (3,))) == b"[1,[2],[3]]"
    assert dumps(OrderedDict(b=1, a=2)) == b'{"b":1,"a":2}'
    assert dumps("ü\U0001f600\u2028\x00") == '"ü\U0001f600\u2028\\u0000"'.encode()
    assert dumps(_deep(MAX_DEPTH)) == nested(MAX_DEPTH).replace(b"[]", b'["s3cret"]')


def test_brackets_in_what_is_written_count_as_depth_only_outside_of_strings() -> None:
    assert loads(dumps(["[" * 99, {"{" * 99: []}])) == ["[" * 99, {"{" * 99: []}]


anything = st.recursive(
    leaves | st.text(st.characters()) | st.floats() | st.binary() | st.just(Opaque()),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.none(), inner)
        | st.tuples(inner)
    ),
)


@given(anything)
def test_any_value_is_written_as_text_that_can_be_read_or_is_refused(value: object) -> None:
    try:
        data = dumps(value)
    except JSONError as error:
        assert str(error).startswith("no JSON form: ")
        return
    assert dumps(loads(data)) == data
