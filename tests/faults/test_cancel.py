"""A cancel that was acknowledged has its effect, whatever else was under way."""

from __future__ import annotations

import pytest

from swarmd.core.model import Outcome, TaskState
from tests.core.builders import DIED, World


@pytest.mark.parametrize("end", [Outcome(ok=False, timed_out=True), DIED])
@pytest.mark.parametrize("restart", [False, True])
def test_a_task_canceled_while_its_limit_stops_it_is_not_tried_again(end: Outcome, restart: bool) -> None:
    """The limit came first and names the state; the cancel sees to it that no retry follows, also after a restart."""
    world = World(session_deadline_s=1e6)
    op = world.submit(retries=2, bot_retries=2, hard_limit_s=100.0, grace_s=10.0)
    bot = world.bot(enforces_limits=False)
    attempt = bot.take()
    world.pass_time(101.0)
    assert world.cancel(op) and not world.cancel(op)
    if restart:
        world.restart()
        attempt = world.engine.attempts[attempt.id]
    bot.finish(attempt, end)
    assert world.state(op) is TaskState.TIMED_OUT
