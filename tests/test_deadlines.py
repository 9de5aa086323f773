"""Deadlines: each client once, the first one first, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usersessions.deadlines import Deadlines

STEPS = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.one_of(st.none(), st.integers(0, 20).map(float)),
        st.booleans(),
    ),
    max_size=200,
)


@given(STEPS)
def test_deadlines_agree_with_a_plain_table(steps: list[tuple[str, float | None, bool]]) -> None:
    deadlines = Deadlines()
    model: dict[str, float] = {}
    for client, when, take in steps:
        if take:
            due = deadlines.due(when or 0.0)
            expected = {one: at for one, at in model.items() if at <= (when or 0.0)}
            assert sorted(due) == sorted(expected)
            assert [expected[one] for one in due] == sorted(expected.values())
            model = {one: at for one, at in model.items() if one not in expected}
        else:
            deadlines.set(client, when)
            model.pop(client, None)
            if when is not None:
                model[client] = when
        assert deadlines.next == min(model.values(), default=None)


def test_replaced_and_discarded_deadlines_do_not_pile_up() -> None:
    deadlines = Deadlines()
    deadlines.set("first", 0.0)
    for moment in range(10_000):
        deadlines.set("c1", float(moment + 1))
    for moment in range(10_000):
        deadlines.set(f"c{moment}", float(moment + 1))
        deadlines.discard(f"c{moment}")
    assert len(deadlines._heap) <= 100
    assert deadlines.next == 0.0
