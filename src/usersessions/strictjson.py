"""JSON with one reading: what this library accepts from the wire, and how it writes it.

The rules (RFC 8259, with the restrictions of I-JSON, RFC 7493):

1. Text is UTF-8, without a byte order mark; UTF-16 and UTF-32 are refused.
2. A member name stands once in its object.
3. Every number is finite: no `NaN`, no `Infinity`, no `1e999`.
4. No lone surrogates, escaped or not.
5. Nesting is at most `MAX_DEPTH` deep, checked before anything is parsed.
6. What is written is compact UTF-8.

Errors carry positions, never text, and keep no reference to what they refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import NoReturn, TypeAlias

from .errors import JSONError

__all__ = ["JSON", "MAX_DEPTH", "dumps", "loads", "loads_many"]

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"

MAX_DEPTH = 32

# A whole string (or an unterminated one up to the end, so that no match ever fails and backtracks)
# or one bracket.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
_TOO_DEEP = f"nesting is deeper than {MAX_DEPTH}"


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member name stands twice in one object")
    return members


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_no_constant
)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def loads(data: bytes | str) -> JSON:
    """Parse one JSON text strictly.

    Raises:
        JSONError: if it breaks any of this module's rules.

    >>> loads(b'{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    >>> loads(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    usersessions.errors.JSONError: not valid JSON: a member name stands twice in one object
    """
    values = loads_many(data)
    if len(values) != 1:
        raise JSONError(
            "not valid JSON: the text is empty"
            if not values
            else "not valid JSON: there is more after the first value"
        )
    return values[0]


def loads_many(data: bytes | str) -> list[JSON]:
    """Parse JSON values that follow one another, with white space (or nothing) between them.

    >>> loads_many(b'{"a": 1}\\n{"b": 2}\\n')
    [{'a': 1}, {'b': 2}]
    """
    text = _text(data)
    if _too_deep(text):
        raise JSONError(f"not valid JSON: {_TOO_DEEP}")
    values: list[JSON] = []
    problem = ""
    try:
        values = list(_values(text))
    except json.JSONDecodeError as error:
        # Some of Python's messages end in " at", or in ": " and perhaps the text in question.
        what = error.msg.split(": ")[0].removesuffix(" at")
        problem = f"{what} at line {error.lineno}, column {error.colno}"
    except ValueError as error:
        # Python's own message for an integer of too many digits speaks of interpreter settings.
        problem = str(error) if "digits" not in str(error) else "a number has too many digits"
    if not problem:
        # A lone surrogate can only come from a \u escape: `_text` refused all others.
        if "\\u" in text and not _encodable(values):
            problem = "a lone surrogate is not a character"
        else:
            return values
    raise JSONError(f"not valid JSON: {problem}")


def dumps(value: object) -> bytes:
    """Write a value as compact JSON.

    Raises:
        JSONError: if the value, or something in it, has no strict JSON form.

    >>> dumps({"plan": "pro", "beta": True})
    b'{"plan":"pro","beta":true}'
    """
    data, problem = b"", ""
    try:
        text = _encoder.encode(value)
        data = text.encode()
    except UnicodeEncodeError:
        problem = "a lone surrogate is not a character"
    except TypeError:
        problem = "only dict, list, str, int, float, bool and None have a JSON form"
    except ValueError:
        problem = "numbers must be finite and not too long, and a value must not contain itself"
    except RecursionError:
        problem = _TOO_DEEP
    else:
        if _too_deep(text):
            problem = _TOO_DEEP
        elif not _names_are_strings(value):
            problem = "the names of members must be strings"
    if problem:
        raise JSONError(f"no JSON form: {problem}")
    return data


def _text(data: bytes | str) -> str:
    # A string with lone surrogates becomes bytes that are not UTF-8.
    octets = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    problem = "the text is not UTF-8"
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        pass
    else:
        if not text.startswith("\ufeff"):
            return text
        problem = "the text begins with a byte order mark, which must be left out"
    raise JSONError(f"not valid JSON: {problem}")


def _values(text: str) -> Iterator[JSON]:
    position = _skip_space(text, 0)
    while position < len(text):
        value, position = _decoder.raw_decode(text, position)
        yield value
        position = _skip_space(text, position)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        character = text[match.start()]
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _names_are_strings(value: object) -> bool:
    # Python's encoder would write 1 and "1" as one name, twice.
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                return False
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return True
    for member in value:
        if isinstance(member, (dict, list, tuple)) and not _names_are_strings(member):
            return False
    return True


def _encodable(values: list[JSON]) -> bool:
    try:
        _encoder.encode(values).encode()
    except UnicodeEncodeError:
        return False
    return True
