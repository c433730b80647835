"""How much a bot holds: more of short tasks, few of long ones, and nothing that waits for long."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio

from swarmd.bot.lookahead import GATHER_S, GIVE_BACK_S, LOOKAHEAD_S, MAX_PREFETCH, Lookahead
from swarmd.core.model import Command
from swarmd.testing.fake_runner import FakeRunner, Script
from tests.bot.fake_daemon import ANSWER_S, open_lab


def run(name: str) -> tuple[Command]:
    return (Command(argv=(name,)),)


SCRIPTS = {
    "tiny": Script(after_s=0.002),
    "short": Script(after_s=0.05),
    "endless": Script(after_s=math.inf),
}


@pytest.fixture
async def lab(tmp_path: Path):
    async with open_lab(tmp_path / "bot", FakeRunner(SCRIPTS)) as lab:
        yield lab


@pytest.mark.parametrize("slots", [1, 2, 16, 200])
def test_nothing_known_is_as_many_again_as_slots(slots):
    assert Lookahead(slots).prefetch(slots) == slots


@pytest.mark.parametrize(
    ("task_s", "slots", "expected"),
    [
        (0.001, 2, MAX_PREFETCH),
        (0.05, 2, 10),
        (0.05, 8, 40),
        (0.2, 2, 3),
        (0.001, 200, 200),
        (0.0, 1, MAX_PREFETCH),
    ],
)
def test_the_work_of_the_lookahead_is_held(task_s, slots, expected):
    lookahead = Lookahead(slots)
    for _ in range(60):
        lookahead.ended(task_s)
    assert lookahead.prefetch(slots) == expected


def test_a_long_task_brings_it_back_at_once_and_short_ones_slowly_up():
    lookahead = Lookahead(2)
    for _ in range(60):
        lookahead.ended(0.001)
    lookahead.ended(LOOKAHEAD_S + 0.01)
    assert lookahead.prefetch(2) == 2
    steps = 0
    while lookahead.prefetch(2) < MAX_PREFETCH:
        lookahead.ended(0.001)
        steps += 1
    assert 10 < steps < 30


def test_of_slots_that_are_stuck_nothing_is_expected():
    lookahead = Lookahead(4)
    for _ in range(60):
        lookahead.ended(0.02)
    assert [lookahead.prefetch(moving) for moving in (4, 2, 0)] == [50, 25, 4]


async def test_short_tasks_share_requests_and_slots_never_idle(lab, autojump_clock):
    tasks = [lab.daemon.add(commands=run("tiny")) for _ in range(1000)]
    await lab.start_bot(slots=2)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 1000)
    assert sorted(lab.daemon.finished) == tasks
    assert trio.current_time() < 1.0 + 0.1  # 1000 tasks of 2 ms in 2 slots
    assert len(lab.daemon.calls) < 1000 / (2 * GATHER_S / 0.002) + 40
    assert max(len(call.request.queued) for call in lab.daemon.calls) <= MAX_PREFETCH
    assert lab.daemon.declined == lab.daemon.lost_attempts == []


async def test_the_last_results_do_not_wait(lab, autojump_clock):
    for _ in range(3):
        lab.daemon.add(commands=run("tiny"))
    await lab.start_bot(slots=2)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 3)
    assert trio.current_time() < 2 * 0.002 + 6 * ANSWER_S + 0.005


async def test_when_tasks_turn_out_long_the_rest_is_given_back_once(lab, autojump_clock):
    for _ in range(60):
        lab.daemon.add(commands=run("tiny"))
    others = [lab.daemon.add(commands=run("endless")) for _ in range(40)]
    await lab.start_bot(slots=2)
    await lab.daemon.until(lambda: bool(set(others) & lab.daemon.accepted))
    began_at = trio.current_time()
    assert len(lab.daemon.held) > 10
    await lab.daemon.until(lambda: bool(lab.daemon.declined))
    assert trio.current_time() < began_at + GIVE_BACK_S + 0.1
    await trio.sleep(30)
    last = lab.daemon.calls[-1].request
    assert (len(last.running), len(last.queued), last.free) == (2, 2, 0)
    assert len(lab.daemon.declined) == len(set(lab.daemon.declined))
    kept = {*last.running, *last.queued}
    assert {*lab.daemon.declined, *kept} == set(others) & set(lab.daemon._offered_in)


async def test_short_tasks_that_follow_behind_a_stuck_slot_go_on(lab, autojump_clock):
    lab.daemon.add(commands=run("endless"))
    tasks = [lab.daemon.add(commands=run("short")) for _ in range(100)]
    await lab.start_bot(slots=2)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 100)
    assert list(lab.daemon.finished) == tasks and lab.daemon.declined == []
    assert trio.current_time() < 100 * 0.05 + 0.1


async def test_a_bot_with_long_tasks_is_quiet(lab, autojump_clock):
    for _ in range(10):
        lab.daemon.add(commands=run("endless"))
    await lab.start_bot(slots=2)
    await trio.sleep(299)
    assert len(lab.daemon.calls) <= 15
