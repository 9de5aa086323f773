"""The names in Redis: apart from one another, and together where a script needs them together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from usersessions.errors import ConfigError
from usersessions.stores.redis.keys import Keys

KEYS = Keys("app")
IDS = st.text(max_size=20) | st.text("{}%:u25", max_size=6)


def of_user(user: str) -> list[str]:
    return [KEYS.sessions(user), KEYS.kept_out(user), KEYS.ended(user, "c1")]


@given(IDS)
def test_all_of_a_user_is_on_one_server(user: str) -> None:
    assert len({key_slot(name.encode()) for name in of_user(user)}) == 1


def test_all_of_the_processes_is_on_one_server() -> None:
    names = [KEYS.leases, KEYS.about, KEYS.log, KEYS.mailbox("0a"), KEYS.mailbox("0b")]
    assert len({key_slot(name.encode()) for name in names}) == 1


def test_users_are_spread_over_the_servers() -> None:
    slots = {key_slot(KEYS.sessions(str(number)).encode()) for number in range(100)}
    assert len(slots) > 90


@given(st.lists(IDS, min_size=2, max_size=2, unique=True))
def test_no_two_names_are_the_same(ids: list[str]) -> None:
    names = [
        *(name for user in ids for name in of_user(user)),
        *map(KEYS.token, ids),
        *(KEYS.leases, KEYS.about, KEYS.log, KEYS.mailbox("0a")),
    ]
    assert len(set(names)) == len(names)


def test_apps_with_prefixes_of_their_own_share_no_name() -> None:
    other = Keys("other")
    assert KEYS.sessions("42") != other.sessions("42")
    assert KEYS.token("t1") != other.token("t1")
    assert KEYS.log != other.log


@pytest.mark.parametrize("prefix", ["a", "A_b.c:d-9", "x" * 64])
def test_a_prefix_stands_in_front_of_every_name(prefix: str) -> None:
    keys = Keys(prefix)
    names = [keys.sessions("42"), keys.token("t1"), keys.leases, keys.mailbox("0a")]
    assert all(name.startswith(f"{prefix}:{{") for name in names)


@pytest.mark.parametrize("prefix", ["", "x" * 65, None, 7, b"app"])
def test_a_prefix_that_is_no_string_of_that_length_is_refused(prefix: object) -> None:
    with pytest.raises(ConfigError, match="1 to 64 characters"):
        Keys(prefix)  # type: ignore[arg-type]  # as an app may give it


@pytest.mark.parametrize("prefix", ["a b", "a{b", "}", "a*", "ä", "a\n", "٣"])
def test_a_prefix_with_other_characters_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits and the characters"):
        Keys(prefix)
