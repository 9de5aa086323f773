"""The files of the scripts: each says what it takes, takes that, and is used."""

from __future__ import annotations

import re
from hashlib import sha1
from importlib.resources import files

import pytest

from tests.redis_servers import RedisServer
from tests.stores.redis.pieces import Pieces, every_call, script_names
from usersessions.stores.redis.scripts import script

LUA = files("usersessions.stores.redis") / "lua"
CALLS = [*every_call(Pieces().calls), *every_call(Pieces(in_one_place=False).calls)]


def own_source(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


def head_and_body(name: str) -> tuple[str, str]:
    lines = own_source(name).splitlines()
    size = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--") for line in lines[:size]), "\n".join(lines[size:])


def listed(head: str, what: str) -> str:
    """What a head says of KEYS or ARGV."""
    found = re.search(rf"^ {what} +(.*?)(?=^ KEYS|^ ARGV|^ Gives|\Z)", head, re.M | re.S)
    return found[1] if found else ""


def numbers(text: str) -> list[int]:
    """The numbers under which something is listed."""
    return [int(one) for one in re.findall(r"(?:^|(?<=\s))(\d+)(?=(?:\.\.\.)? [a-z\"])", text)]


def test_there_is_a_call_for_each_script_and_a_script_for_each_call() -> None:
    assert sorted({call.name for call in CALLS if call.is_script}) == script_names()


@pytest.mark.parametrize("name", script_names())
def test_a_script_begins_by_saying_what_it_does_and_takes(name: str) -> None:
    head, _ = head_and_body(name)
    assert re.match(r" [A-Z][^\n]*\w", head)
    assert listed(head, "KEYS")


@pytest.mark.parametrize("name", script_names())
def test_a_script_takes_what_its_head_lists(name: str) -> None:
    head, body = head_and_body(name)
    for what in ("KEYS", "ARGV"):
        said, used = listed(head, what), {int(one) for one in re.findall(rf"{what}\[(\d+)\]", body)}
        assert used <= set(numbers(said)), what
        assert bool(said) == (what in body), what


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_gives_as_much_as_the_head_of_its_script_lists(call: object) -> None:
    assert call in CALLS
    assert isinstance(call, type(CALLS[0]))
    if call.is_script:
        head, _ = head_and_body(call.name)
        keys, arguments = (numbers(listed(head, what)) for what in ("KEYS", "ARGV"))
        if keys:
            assert len(call.keys) <= max(keys)
        if arguments and "..." not in listed(head, "ARGV"):
            assert len(call.arguments) == max(arguments)


@pytest.mark.parametrize("name", [*script_names(), "shared"])
def test_no_script_looks_through_all_of_redis(name: str) -> None:
    commands = set(re.findall(r"redis\.p?call\('(\w+)'", own_source(name)))
    assert not commands & {"KEYS", "SCAN", "HSCAN", "SORT", "EVAL", "FLUSHALL", "FLUSHDB"}
    assert not re.search(r"redis\.p?call\([^']", own_source(name))


def test_every_command_names_its_key_by_a_parameter() -> None:
    # In a cluster, a script must not touch a key that it was not given.
    for name in [*script_names(), "shared"]:
        for key in re.findall(r"redis\.p?call\('(?!TIME)\w+', ([^,)]+)", own_source(name)):
            assert key == "key" or key == "sessions" or key.startswith("KEYS["), (name, key)


@pytest.mark.parametrize("name", script_names())
def test_a_script_is_known_by_its_digest_and_redis_can_read_it(
    name: str, redis_of_module: RedisServer
) -> None:
    found = script(name)
    assert found.digest == sha1(found.source).hexdigest()
    assert redis_of_module.cli("SCRIPT LOAD", found.source) == found.digest
    assert "redis.call" not in repr(found)
