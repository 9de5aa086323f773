"""What Redis replies, as redis-py hands it over from one server and from a cluster."""

from __future__ import annotations

import pytest

from usersessions.stores.redis.replies import nodes, pairs, streams, text, verdict

ENTRY = (b"log", b"5-0", {b"entry": b"{}"})


def test_text_is_given_whatever_bytes_there_are() -> None:
    assert (text(b"5-0"), text(7), text(b"\xff")) == ("5-0", "7", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("reply", [[b"c1", b"x"], (b"c1", b"x"), {b"c1": b"x"}])
def test_a_hash_comes_flat_or_as_a_mapping(reply: object) -> None:
    assert pairs(reply) == {b"c1": b"x"}


@pytest.mark.parametrize("reply", [None, [], {}, b"", 0])
def test_no_hash_is_an_empty_one(reply: object) -> None:
    assert pairs(reply) == {}


def test_what_is_given_may_be_changed_and_the_reply_stays() -> None:
    reply = {b"c1": b"x"}
    pairs(reply).clear()
    assert reply == {b"c1": b"x"}


def test_a_verdict_is_a_word_with_details_or_without() -> None:
    assert verdict([b"ok", b"5-0", b"c1"]) == ("ok", ["5-0", "c1"])
    assert verdict([b"blocked"]) == verdict(b"blocked") == ("blocked", [])


def test_nodes_come_three_by_three() -> None:
    reply = [b"0a", 1500, b"{}", b"0b", 1, b""]
    assert nodes(reply) == [("0a", 1.5, b"{}"), ("0b", 0.001, b"")]
    assert nodes([]) == nodes(None) == []


@pytest.mark.parametrize(
    "reply",
    [
        [[b"log", [[b"5-0", [b"entry", b"{}"]]]]],
        [[b"log", [(b"5-0", {b"entry": b"{}"})]]],
        {b"log": [[b"5-0", [b"entry", b"{}"]]]},
    ],
)
def test_entries_of_streams_come_as_lists_or_mappings(reply: object) -> None:
    assert streams(reply) == [ENTRY]


@pytest.mark.parametrize("reply", [None, [], {}])
def test_where_there_is_nothing_new_there_are_no_entries(reply: object) -> None:
    assert streams(reply) == []


def test_an_entry_that_was_deleted_has_no_fields() -> None:
    assert streams([[b"log", [[b"5-0", None]]]]) == [(b"log", b"5-0", {})]
