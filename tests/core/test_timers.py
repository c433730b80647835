"""The heap of due moments."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from swarmd.core.timers import Timers


def test_due_ids_come_in_order_and_not_before() -> None:
    timers = Timers()
    for due_at, id in ((3.0, 30), (1.0, 10), (2.0, 20), (inf, 99)):
        timers.push(due_at, id)
    assert timers.next_due() == 1.0 and len(timers) == 3
    assert timers.pop_due(0.999_998) is None
    assert [timers.pop_due(2.0) for _ in range(3)] == [10, 20, None]
    assert timers.next_due() == 3.0


@given(st.lists(st.tuples(st.floats(0, 1e9), st.integers(1, (1 << 63) - 1)), max_size=30))
def test_at_next_due_something_is_due_that_is_never_early(entries: list[tuple[float, int]]) -> None:
    timers = Timers()
    for due_at, id in entries:
        timers.push(due_at, id)
    wanted = {(due_at, id) for due_at, id in entries}
    while timers.next_due() < inf:
        now = timers.next_due()
        id = timers.pop_due(now)
        assert id is not None
        assert any(i == id and due_at <= now + 1e-6 for due_at, i in wanted)
    assert len(timers) == 0


def test_a_rebuild_keeps_only_what_is_alive() -> None:
    timers = Timers()
    count = 0
    while not timers.is_bloated:
        timers.push(5.0, 7)
        count += 1
    assert count == 1_025
    timers.rebuild([(5.0, 7), (inf, 8)])
    assert len(timers) == 1 and not timers.is_bloated
    assert timers.pop_due(5.0) == 7
