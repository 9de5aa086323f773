"""Who is kept out, until when, and that nothing of it piles up."""

from __future__ import annotations

import pytest

from usersessions.refusals import Refusal, Refusals


def check(refusals: Refusals, user: str = "42", **facts: object) -> Refusal | None:
    values: dict[str, object] = {"token_id": None, "issued_at": None, "now": 0.0}
    return refusals.check(user, **{**values, **facts})  # type: ignore[arg-type]


def test_a_block_hits_one_user_with_any_token_until_it_ends() -> None:
    refusals = Refusals()
    refusals.block("42", until=10.0, now=0.0)
    assert check(refusals, now=9.9) is Refusal.BLOCKED
    assert check(refusals, now=9.9, token_id="t1") is Refusal.BLOCKED
    assert check(refusals, now=10.0) is None
    assert check(refusals, user="43") is None


def test_a_block_without_an_end_lasts_until_it_is_lifted() -> None:
    refusals = Refusals()
    refusals.block("42", until=None, now=0.0)
    assert check(refusals, now=1e12) is Refusal.BLOCKED
    refusals.unblock("42")
    refusals.unblock("42")
    assert check(refusals, now=1e12) is None


def test_a_revoked_token_is_kept_out_whoever_has_it() -> None:
    refusals = Refusals()
    refusals.revoke("t1", until=10.0, now=0.0)
    assert check(refusals, token_id="t1", now=9.9) is Refusal.REVOKED
    assert check(refusals, token_id="t1", now=10.0) is None
    assert check(refusals, token_id="t2") is None
    assert check(refusals) is None


def test_invalidated_tokens_are_those_issued_before() -> None:
    refusals = Refusals()
    refusals.invalidate("42", issued_before=5.0, until=10.0, now=0.0)
    assert check(refusals, issued_at=4.9) is Refusal.REVOKED
    assert check(refusals, issued_at=0) is Refusal.REVOKED
    assert check(refusals, issued_at=5.0) is None
    assert check(refusals, issued_at=None) is None
    assert check(refusals, issued_at=4.9, now=10.0) is None
    assert check(refusals, user="43", issued_at=4.9) is None


@pytest.mark.parametrize("kind", ["block", "revoke", "invalidate"])
def test_a_later_entry_never_shortens_an_earlier_one(kind: str) -> None:
    refusals = Refusals()
    for until in (20.0, 10.0):
        if kind == "block":
            refusals.block("42", until=until, now=0.0)
        elif kind == "revoke":
            refusals.revoke("t1", until=until, now=0.0)
        else:
            refusals.invalidate("42", issued_before=until, until=until, now=0.0)
    assert check(refusals, token_id="t1", issued_at=15.0, now=15.0) is not None


def test_what_has_ended_does_not_pile_up() -> None:
    refusals = Refusals()
    now = 0.0
    for minute in range(3000):
        now = 60.0 * minute
        refusals.block(f"u{minute}", until=now + 10, now=now)
        refusals.revoke(f"t{minute}", until=now + 10, now=now)
        refusals.invalidate(f"u{minute}", issued_before=now, until=now + 10, now=now)
        assert len(refusals) < 400
    assert check(refusals, user="u2999", now=now) is Refusal.BLOCKED


def test_an_invalidation_that_has_ended_does_not_come_back_with_a_later_one() -> None:
    refusals = Refusals()
    refusals.invalidate("42", issued_before=8.0, until=10.0, now=9.0)
    refusals.invalidate("42", issued_before=5.0, until=30.0, now=10.0)
    assert check(refusals, issued_at=4.0, now=20.0) is Refusal.REVOKED
    assert check(refusals, issued_at=6.0, now=20.0) is None


@pytest.mark.parametrize("kind", ["block", "revoke", "invalidate"])
def test_a_clock_that_is_set_back_lets_in_nobody_who_was_kept_out(kind: str) -> None:
    refusals = Refusals()
    if kind == "block":
        refusals.block("42", until=1000.0, now=0.0)
    elif kind == "revoke":
        refusals.revoke("t1", until=1000.0, now=0.0)
    else:
        refusals.invalidate("42", issued_before=1.0, until=1000.0, now=0.0)
    for number in range(300):
        refusals.revoke(f"others {number}", until=1060.0, now=1060.0)
    assert check(refusals, token_id="t1", issued_at=0.0, now=1060.0) is None
    assert check(refusals, token_id="t1", issued_at=0.0, now=999.0) is not None
