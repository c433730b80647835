"""How much a bot holds: more of short tasks, few of long ones, and nothing that waits for long."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio

from swarmd.bot.lookahead import GATHER_S, GIVE_BACK_S, LOOKAHEAD_S, MAX_PREFETCH, Lookahead
from swarmd.bot.session import HELD_S, SPREAD
from swarmd.core.model import Command
from swarmd.testing.fake_runner import FakeRunner, Script
from tests.bot.fake_daemon import ANSWER_S, open_lab


def run(name: str) -> tuple[Command]:
    return (Command(argv=(name,)),)


SCRIPTS = {
    "tiny": Script(after_s=0.002),
    "short": Script(after_s=0.05),
    "long": Script(after_s=60.0),
    "endless": Script(after_s=math.inf),
}
NOTICED_S = 2 * GATHER_S + 4 * ANSWER_S  # until the daemon knows of it


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
        (0.2, 2, 2),
        (0.3, 1, 1),
        (0.45, 8, 4),
        (GIVE_BACK_S, 64, 0),
        (3600.0, 512, 0),
        (0.001, 200, 200),
        (0.0, 1, MAX_PREFETCH),
    ],
)
def test_the_work_of_the_lookahead_is_held(task_s, slots, expected):
    lookahead = Lookahead(slots)
    for _ in range(60):
        lookahead.ended(task_s)
    assert lookahead.prefetch(slots) == expected


def test_a_long_task_brings_it_to_nothing_at_once_and_short_ones_slowly_up():
    lookahead = Lookahead(2)
    for _ in range(60):
        lookahead.ended(0.001)
    lookahead.ended(LOOKAHEAD_S + 0.01)
    assert lookahead.prefetch(2) == 2
    lookahead.ended(GIVE_BACK_S)
    assert lookahead.prefetch(2) == 0
    steps = 0
    while lookahead.prefetch(2) < MAX_PREFETCH:
        lookahead.ended(0.001)
        steps += 1
    assert 10 < steps < 30


def test_of_slots_that_are_stuck_nothing_is_expected():
    lookahead = Lookahead(4)
    for _ in range(60):
        lookahead.ended(0.02)
    assert [lookahead.prefetch(moving) for moving in (4, 2, 0)] == [50, 25, 0]


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
    assert (len(last.running), len(last.queued), last.free) == (2, 0, 0)
    assert len(lab.daemon.declined) == len(set(lab.daemon.declined))
    assert {*lab.daemon.declined, *last.running} == set(others) & set(lab.daemon._offered_in)
    assert lab.daemon.lost_attempts == []


async def test_short_tasks_that_follow_behind_a_stuck_slot_go_on(lab, autojump_clock):
    lab.daemon.add(commands=run("endless"))
    tasks = [lab.daemon.add(commands=run("short")) for _ in range(100)]
    await lab.start_bot(slots=2)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 100)
    assert sorted(lab.daemon.finished) == tasks
    assert trio.current_time() < 100 * 0.05 + 0.1
    # When one of two slots turns out to be stuck, half of what was held for both is given back, once.
    assert 0 < len(lab.daemon.declined) <= 5


async def test_a_bot_with_long_tasks_is_quiet(lab, autojump_clock):
    for _ in range(10):
        lab.daemon.add(commands=run("endless"))
    await lab.start_bot(slots=2)
    await trio.sleep(299)
    assert len(lab.daemon.calls) <= 3 + 1 + math.ceil(299 / (HELD_S * (1 - SPREAD)))
    assert len(lab.daemon.declined) == 2


async def test_nothing_waits_behind_slots_that_are_stuck(lab, autojump_clock):
    """Three of four slots have a task that never ends: what was held for them goes back, the fourth one goes on,
    until it is stuck as well."""
    stuck = [lab.daemon.add(commands=run("endless")) for _ in range(3)]
    tasks = [lab.daemon.add(commands=run("short")) for _ in range(200)]
    stuck.append(lab.daemon.add(commands=run("endless")))
    rest = [lab.daemon.add(commands=run("tiny")) for _ in range(9)]
    await lab.start_bot(slots=4)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 200)
    assert sorted(lab.daemon.finished) == tasks and lab.daemon.lost_attempts == []
    assert trio.current_time() < 200 * 0.05 + 0.3
    waits = await longest_waits(lab, lambda: len(lab.daemon.pending) == 9, within_s=1)
    assert max(waits) <= GIVE_BACK_S + NOTICED_S
    await trio.sleep(60)
    assert lab.daemon.calls[-1].request.running == stuck and lab.daemon.calls[-1].request.queued == []
    assert all(lab.daemon.declined.count(attempt) <= 1 for attempt in rest)


async def test_what_a_stuck_bot_gave_back_it_does_not_take_again(lab, autojump_clock):
    """Whatever is submitted while all slots are stuck stays with the daemon, for whoever is idle."""
    lab.daemon.add(commands=run("endless"))
    await lab.start_bot(slots=1)
    await trio.sleep(5)
    tasks = [lab.daemon.add(commands=run("tiny")) for _ in range(4)]
    await trio.sleep(60)
    assert not set(tasks) & set(lab.daemon._offered_in), (
        "the call that was held since before asks for nothing"
    )


async def test_a_bot_asks_for_less_as_soon_as_it_is_stuck(lab, autojump_clock):
    lab.daemon.add(commands=run("endless"))
    await lab.start_bot(slots=1)
    await trio.sleep(GIVE_BACK_S / 2)
    assert lab.daemon.calls[-1].request.free == 1
    await trio.sleep(GIVE_BACK_S / 2 + NOTICED_S)
    assert (lab.daemon.calls[-1].request.free, lab.daemon.calls[-1].request.wait_s > 0) == (0, True)


async def test_tasks_that_turn_long_after_many_short_ones_wait_nowhere(lab, autojump_clock):
    for _ in range(500):
        lab.daemon.add(commands=run("tiny"))
    others = [lab.daemon.add(commands=run("long")) for _ in range(30)]
    await lab.start_bot(slots=2)
    waits = await longest_waits(lab, lambda: len(lab.daemon.finished) == 530)
    assert max(waits) <= GIVE_BACK_S + NOTICED_S
    assert trio.current_time() < 1.5 + 30 / 2 * (60 + 0.1)
    assert sorted(lab.daemon.declined) == sorted(set(lab.daemon.declined)), "each goes back once at most"
    assert set(lab.daemon.declined) <= set(others) and lab.daemon.lost_attempts == []


async def test_after_a_long_task_short_ones_are_held_again(lab, autojump_clock):
    lab.daemon.add(commands=run("long"))
    for _ in range(1000):
        lab.daemon.add(commands=run("tiny"))
    await lab.start_bot(slots=1)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 1001)
    assert max(len(call.request.queued) for call in lab.daemon.calls) > MAX_PREFETCH / 2
    assert trio.current_time() < 60 + 1000 * 0.002 + 0.3


@pytest.mark.parametrize("task_s", [0.3, 0.45, 0.6, 1.0, 5.0])
@pytest.mark.parametrize("slots", [1, 8])
async def test_tasks_of_any_length_are_seldom_given_back(lab, autojump_clock, slots, task_s):
    """Once it is known how long they take; and slots lose no more than a round trip for each."""
    lab.runner._script = Script(after_s=task_s)
    count = 20 * slots
    for _ in range(count):
        lab.daemon.add(commands=run("any"))
    await lab.start_bot(slots=slots)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == count)
    assert len(lab.daemon.declined) <= slots
    assert trio.current_time() < 20 * (task_s + 0.01) + 0.1


async def longest_waits(lab, is_over, within_s=3600.0) -> list[float]:
    """How long each attempt was named as queued, until `is_over`."""
    await lab.daemon.until(is_over, within_s)
    since: dict[str, float] = {}
    waits = [0.0]
    for call in lab.daemon.calls:
        since = {id: since.get(id, call.at) for id in call.request.queued}
        waits += [call.at - at for at in since.values()]
    return waits
