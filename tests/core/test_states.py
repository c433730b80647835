"""The tables of legal steps, and which state an end names."""

from __future__ import annotations

import pytest

from swarmd.core.model import AttemptState, Outcome, StopReason, TaskState
from swarmd.core.states import ATTEMPT_STEPS, TASK_STEPS, final_state

from .builders import World

ENDS = [
    (Outcome(ok=True), None, "COMPLETED"),
    (Outcome(ok=False, exit_code=1), None, "COMPLETED"),
    (Outcome(ok=False, timed_out=True), None, "TIMED_OUT"),
    (Outcome(ok=False, canceled=True), None, "CANCELED"),
    (Outcome(ok=False, client_error=True), None, "CLIENT_ERROR"),
    (Outcome(ok=False, died=True), None, "BOT_DIED"),
    (Outcome(ok=True), StopReason.CANCELED, "KILLED"),
    (Outcome(ok=False, died=True), StopReason.CANCELED, "KILLED"),
    (Outcome(ok=False, timed_out=True), StopReason.CANCELED, "KILLED"),
    (Outcome(ok=False, canceled=True), StopReason.CANCELED, "CANCELED"),
    (Outcome(ok=True), StopReason.HARD_LIMIT, "TIMED_OUT"),
    (Outcome(ok=False, died=True), StopReason.HARD_LIMIT, "TIMED_OUT"),
    (Outcome(ok=False, canceled=True), StopReason.HARD_LIMIT, "TIMED_OUT"),
    (Outcome(ok=False, client_error=True), StopReason.IO_LIMIT, "TIMED_OUT"),
    (Outcome(ok=False, timed_out=True, died=True), None, "TIMED_OUT"),
    (Outcome(ok=False, client_error=True, died=True), None, "CLIENT_ERROR"),
]


@pytest.mark.parametrize(("outcome", "stop", "state"), ENDS)
def test_the_reason_that_came_first_names_the_state(
    outcome: Outcome, stop: StopReason | None, state: str
) -> None:
    assert final_state(outcome, stop).name == state


def test_a_final_state_is_final() -> None:
    assert not [step for step in TASK_STEPS if step[0].is_final]
    ends = (AttemptState.ENDED, AttemptState.LOST, AttemptState.DROPPED)
    assert not [step for step in ATTEMPT_STEPS if step[0] in ends]


def test_every_state_can_be_reached_and_left() -> None:
    assert {to for _, to in TASK_STEPS} == set(TaskState)
    assert {start for start, _ in TASK_STEPS} == {s for s in TaskState if not s.is_final}


def test_an_illegal_step_is_an_error_of_ours() -> None:
    world = World()
    task = world.task(world.submit())
    with pytest.raises(AssertionError, match="no step from PENDING to SKIPPED"):
        world.engine.move(task, TaskState.SKIPPED)
