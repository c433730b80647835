"""The conversation of a bot with its daemon: what is said when, said again, kept, given back."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from swarmd.bot.session import HELD_S, SPREAD
from swarmd.bot.wire import Backoff, WireError
from swarmd.core.model import Command
from swarmd.testing.fake_runner import FakeRunner, Script
from tests.bot.fake_daemon import lost, open_lab

TRUE = (Command(argv=("true",)),)
LONG = (Command(argv=("long",)),)
ENDLESS = (Command(argv=("endless",)),)
SCRIPTS = {"true": Script(), "long": Script(after_s=10.0), "endless": Script(after_s=math.inf)}


@pytest.fixture
async def lab(tmp_path: Path):
    async with open_lab(tmp_path / "bot", FakeRunner(SCRIPTS)) as lab:
        yield lab


async def test_a_task_is_run_and_its_end_reported(lab, autojump_clock):
    task = lab.daemon.add(commands=TRUE)
    await lab.start_bot()
    await lab.daemon.until(lambda: task in lab.daemon.finished)
    report = lab.daemon.finished[task]
    assert (report.ok, report.exit_code) == (True, 0)
    assert lab.daemon.lost_attempts == lab.daemon.declined == []


async def test_a_new_bot_takes_as_many_again_as_it_has_slots_and_gives_them_back(lab, autojump_clock):
    tasks = [lab.daemon.add(commands=LONG) for _ in range(9)]
    await lab.start_bot(slots=3)
    await trio.sleep(0.1)
    last = lab.daemon.calls[-1].request
    assert lab.daemon.calls[0].request.free == 6
    assert (last.running, last.queued, last.free) == (tasks[:3], tasks[3:6], 0)
    await trio.sleep(0.9)
    last = lab.daemon.calls[-1].request
    assert (last.running, last.queued, last.free) == (tasks[:3], [], 0)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 9)
    assert sorted(lab.daemon.finished) == tasks


async def test_the_next_request_ends_a_held_one(lab, autojump_clock):
    lab.daemon.add(commands=LONG)
    await lab.start_bot(slots=1)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 1)
    said = next(call for call in lab.daemon.calls if call.request.finished)
    held = lab.daemon.calls[lab.daemon.calls.index(said) - 1]
    assert held.request.wait_s > said.at - held.at, "the report did not wait for the hold to end"
    assert said.request.wait_s == 0.0
    assert said.request.seen == held.request.seq - 1


async def test_a_held_request_that_arrives_after_the_next_one_does_no_harm(lab, autojump_clock):
    lab.runner._script = Script(after_s=0.05)
    tasks = [lab.daemon.add(commands=TRUE) for _ in range(6)]
    lab.daemon.late_s = [0.1] * 3
    await lab.start_bot(slots=1)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 6, within_s=3)
    assert list(lab.daemon.finished) == tasks and not lab.daemon.late_s
    assert len(lab.daemon.opened) == 1 and lab.daemon.lost_attempts == []


async def test_an_idle_bot_asks_once_per_hold(lab, autojump_clock):
    await lab.start_bot()
    await trio.sleep(299)
    assert len(lab.daemon.calls) <= 1 + 299 / (HELD_S * (1 - SPREAD))


async def test_holds_of_bots_that_came_at_once_drift_apart(lab, autojump_clock):
    await lab.start_bot()
    await trio.sleep(600)
    holds = [call.request.wait_s for call in lab.daemon.calls if call.request.wait_s]
    assert all(HELD_S * (1 - SPREAD) <= wait_s <= HELD_S for wait_s in holds)
    assert max(holds) - min(holds) > HELD_S * SPREAD / 2


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_lost_answer_is_asked_for_with_the_same_bytes(lab, autojump_clock, arrives):
    task = lab.daemon.add(commands=LONG)
    await lab.start_bot()
    await lab.daemon.until(lambda: task in lab.daemon.accepted)
    await trio.sleep(9)
    failures = lab.daemon.fail_after if arrives else lab.daemon.fail_before
    failures.extend(lost() for _ in range(4))
    await lab.daemon.until(lambda: task in lab.daemon.finished and not failures)
    await trio.sleep(60)
    bodies = {call.body for call in lab.daemon.calls if call.request.finished}
    assert len(bodies) == 1
    assert len([call for call in lab.daemon.calls if call.request.finished]) == (5 if arrives else 1)
    assert not lab.daemon.lost_attempts


async def test_pauses_between_tries_grow_to_15_s_and_are_seeded():
    pauses = [Backoff(random.Random(7)).next_s() for _ in range(2)]
    assert pauses[0] == pauses[1]
    backoff = Backoff(random.Random(7))
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0]
    for bound in bounds:
        assert bound / 2 <= backoff.next_s() <= bound


async def test_tasks_go_on_while_the_daemon_is_away(lab, autojump_clock):
    tasks = [lab.daemon.add(commands=LONG) for _ in range(2)]
    await lab.start_bot(slots=1)
    await lab.daemon.until(lambda: len(lab.daemon.held) == 2)
    lab.daemon.is_away = True
    lab.daemon.wake()
    await trio.sleep(120)
    assert not lab.daemon.finished and not lab.runner.running
    assert len(lab.runner.starts) == 2, "nobody could be given the second one: it is kept and run"
    lab.daemon.is_away = False
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 2, within_s=20)
    assert list(lab.daemon.finished) == tasks and len(lab.daemon.opened) == 1
    assert lab.daemon.declined == []


async def test_a_forgotten_session_is_opened_anew_with_what_is_held(lab, autojump_clock):
    tasks = [lab.daemon.add(commands=LONG) for _ in range(2)]
    await lab.start_bot(slots=1)
    await trio.sleep(0.1)
    lab.daemon.forget_session()
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 2)
    first, second = lab.daemon.opened
    assert (first.keeps, second.keeps) == ([], tasks)
    assert first.session_key != second.session_key and first.bot_key == second.bot_key
    assert (lab.daemon.lost_attempts, lab.daemon.declined) == ([], tasks[1:])


async def test_a_report_that_was_not_acknowledged_is_made_in_the_next_session(lab, autojump_clock):
    task = lab.daemon.add(commands=LONG)
    await lab.start_bot()
    await trio.sleep(9.9)
    lab.daemon.is_away = True
    lab.daemon.wake()
    await trio.sleep(30)
    lab.daemon.is_away = False
    lab.daemon.forget_session()
    await lab.daemon.until(lambda: task in lab.daemon.finished)
    assert lab.daemon.opened[1].keeps == [task]


async def test_what_the_daemon_gave_up_is_killed_and_not_reported(lab, autojump_clock):
    tasks = [lab.daemon.add(commands=ENDLESS), lab.daemon.add(commands=LONG)]
    await lab.start_bot(slots=1)
    await trio.sleep(0.1)
    lab.daemon.not_yours = [tasks[0]]
    lab.daemon.forget_session()
    await lab.daemon.until(lambda: tasks[1] in lab.daemon.finished)
    assert tasks[0] not in lab.daemon.finished
    assert lab.daemon.opened[1].keeps == tasks


async def test_a_name_in_use_is_waited_for_and_said(lab, autojump_clock, caplog):
    lab.daemon.refuse_open = [WireError(409, "bot_in_use", "bot bot1 has an open session") for _ in range(3)]
    await lab.start_bot()
    await lab.daemon.until(lambda: bool(lab.daemon.opened))
    refused = [record for record in caplog.records if record.getMessage() == "session.refused"]
    assert len(refused) == 3 and "has an open session" in refused[0].reason


@pytest.mark.parametrize("status", [401, 403])
async def test_a_bot_that_is_not_let_in_ends_with_3(lab, autojump_clock, status):
    lab.daemon.refuse_open = [WireError(status, "unauthorized", "no token")]
    await lab.start_bot()
    await lab.ended.wait()
    assert lab.ending.exit_code == 3


async def test_a_stop_order_ends_a_running_attempt_after_its_grace(lab, autojump_clock):
    lab.runner._script = Script(after_s=math.inf, ignores_sigterm=True)
    task = lab.daemon.add(commands=ENDLESS)
    await lab.start_bot()
    await lab.daemon.until(lambda: task in lab.daemon.accepted)
    began_at = trio.current_time()
    lab.daemon.order("stop", task, grace_s=5.0, reason="canceled")
    await lab.daemon.until(lambda: task in lab.daemon.finished)
    assert 5.0 <= trio.current_time() - began_at < 5.1
    report = lab.daemon.finished[task]
    assert (report.ok, report.exit_code, report.canceled) == (False, -9, False)


async def test_an_order_that_is_repeated_does_not_make_the_bot_spin(lab, autojump_clock):
    lab.runner._script = Script(after_s=math.inf, ignores_sigterm=True)
    task = lab.daemon.add(commands=ENDLESS)
    await lab.start_bot()
    await lab.daemon.until(lambda: task in lab.daemon.accepted)
    calls = len(lab.daemon.calls)
    lab.daemon.order("stop", task, grace_s=30.0)
    await trio.sleep(30)
    assert len(lab.daemon.calls) - calls < 50


async def test_a_stop_order_for_a_queued_attempt_ends_it_unstarted(lab, autojump_clock):
    running, queued = lab.daemon.add(commands=LONG), lab.daemon.add(commands=LONG)
    await lab.start_bot(slots=1)
    await trio.sleep(0.1)
    lab.daemon.order("stop", queued)
    await lab.daemon.until(lambda: queued in lab.daemon.finished)
    assert lab.daemon.finished[queued].canceled
    assert len(lab.runner.starts) == 1 and running not in lab.daemon.finished


async def test_drain_gives_back_what_is_queued_and_ends_when_it_is_taken_back(lab, autojump_clock):
    running, queued = lab.daemon.add(commands=LONG), lab.daemon.add(commands=LONG)
    await lab.start_bot(slots=1)
    await trio.sleep(0.1)
    lab.daemon.order("drain")
    await lab.daemon.until(lambda: queued in lab.daemon.declined, within_s=0.1)
    assert lab.daemon.calls[-1].request.free == 0
    later = lab.daemon.add(commands=TRUE)
    await trio.sleep(100)
    assert running in lab.daemon.finished and later not in lab.daemon.finished
    lab.daemon.orders.clear()
    await lab.daemon.until(lambda: later in lab.daemon.finished)


@pytest.mark.parametrize(("kind", "restarts"), [("restart", True), ("update", True), ("terminate", False)])
async def test_an_order_to_the_bot_is_carried_out_when_it_is_idle(lab, autojump_clock, kind, restarts):
    running, queued = lab.daemon.add(commands=LONG), lab.daemon.add(commands=LONG)
    await lab.start_bot(slots=1)
    await trio.sleep(1)
    lab.daemon.order(kind)
    await lab.ended.wait()
    assert 10 <= trio.current_time() < 11
    assert lab.daemon.finished[running].ok and lab.daemon.declined == [queued]
    assert (lab.ending.exit_code, lab.ending.restarts) == (0, restarts)
    assert lab.daemon.closed == ([] if restarts else ["s1"])


async def test_the_first_signal_lets_finish_what_runs(lab, autojump_clock):
    running, queued = lab.daemon.add(commands=LONG), lab.daemon.add(commands=LONG)
    bot = await lab.start_bot(slots=1)
    await trio.sleep(1)
    bot.leave()
    await lab.ended.wait()
    assert lab.daemon.finished[running].ok and lab.daemon.declined == [queued]
    assert lab.ending.exit_code == 0 and lab.daemon.closed == ["s1"]


async def test_the_second_signal_stops_what_runs_and_says_who_did_it(lab, autojump_clock):
    lab.runner._script = Script(after_s=math.inf, term_s=2.0)
    task = lab.daemon.add(commands=ENDLESS)
    bot = await lab.start_bot()
    await trio.sleep(1)
    bot.leave()
    bot.leave()
    await lab.ended.wait()
    report = lab.daemon.finished[task]
    assert (report.died, report.reason) == (True, "bot stopped by a person")
    assert 3 <= trio.current_time() < 3.1 and lab.ending.exit_code == 0 and lab.daemon.closed == ["s1"]


async def test_after_the_second_signal_reports_that_cannot_be_delivered_are_given_up(lab, autojump_clock):
    lab.daemon.add(commands=ENDLESS)
    bot = await lab.start_bot()
    await trio.sleep(1)
    lab.daemon.is_away = True
    lab.daemon.wake()
    bot.leave()
    bot.leave()
    await lab.ended.wait()
    assert lab.ending.exit_code == 1 and trio.current_time() < 30


async def test_the_third_signal_ends_the_bot_at_once(lab, autojump_clock):
    lab.runner._script = Script(after_s=math.inf, ignores_sigterm=True)
    lab.daemon.add(commands=ENDLESS)
    bot = await lab.start_bot()
    await trio.sleep(1)
    for _ in range(3):
        bot.leave()
    await lab.ended.wait()
    assert lab.ending.exit_code == 1 and trio.current_time() < 1.1 and not lab.runner.running


@pytest.mark.parametrize("is_away", [True, False])
async def test_an_idle_bot_leaves_at_once(lab, autojump_clock, is_away):
    bot = await lab.start_bot()
    await trio.sleep(1)
    lab.daemon.is_away = is_away
    lab.daemon.wake()
    await trio.sleep(1)
    bot.leave()
    await lab.ended.wait()
    assert trio.current_time() < 3 and lab.ending.exit_code == 0


async def test_a_bot_that_never_had_a_session_can_leave(lab, autojump_clock):
    lab.daemon.is_away = True
    bot = await lab.start_bot()
    await trio.sleep(100)
    bot.leave()
    await lab.ended.wait()
    assert trio.current_time() < 101 and lab.ending.exit_code == 0


async def test_a_thousand_noops_need_no_process_and_few_requests(lab, autojump_clock):
    tasks = [lab.daemon.add(noop=True) for _ in range(1000)]
    await lab.start_bot(slots=64)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 1000)
    assert set(lab.daemon.finished) == set(tasks)
    assert all(report.ok for report in lab.daemon.finished.values())
    assert not lab.runner.starts and not list((lab.path / "attempts").iterdir())
    assert len(lab.daemon.calls) <= 1000 / 128 + 4


async def test_noops_come_in_large_batches_to_a_bot_with_one_slot(lab, autojump_clock):
    for _ in range(1000):
        lab.daemon.add(noop=True)
    await lab.start_bot(slots=1)
    await lab.daemon.until(lambda: len(lab.daemon.finished) == 1000)
    assert len(lab.daemon.calls) < 40


async def test_a_task_that_this_bot_does_not_understand_is_refused(lab, autojump_clock):
    task = lab.daemon.add(commands=TRUE)
    lab.daemon.pending[0].work = type(lab.daemon.pending[0].work)(b'{"teleport": true}')
    await lab.start_bot()
    await lab.daemon.until(lambda: task in lab.daemon.finished)
    assert lab.daemon.finished[task].client_error and "teleport" in lab.daemon.finished[task].reason


async def test_a_request_that_is_refused_for_good_leads_to_a_new_session(lab, autojump_clock):
    task = lab.daemon.add(commands=LONG)
    await lab.start_bot()
    await trio.sleep(9.9)
    lab.daemon.fail_before = [WireError(409, "bad_seq", "expected another seq") for _ in range(5)]
    await lab.daemon.until(lambda: task in lab.daemon.finished)
    assert len(lab.daemon.opened) == 2 and lab.daemon.opened[1].keeps == [task]


async def test_a_new_bot_in_the_folder_does_not_keep_what_the_crashed_one_ran(tmp_path, autojump_clock):
    async with open_lab(tmp_path / "bot", FakeRunner(SCRIPTS)) as lab:
        (tmp_path / "bot" / "attempts" / "0000000000001" / "work").mkdir(parents=True)
        await lab.start_bot()
        await lab.daemon.until(lambda: bool(lab.daemon.opened))
        assert lab.daemon.opened[0].keeps == []
        assert not list((tmp_path / "bot" / "attempts").iterdir())


def told(caplog):
    return [r for r in caplog.records if r.getMessage() == "bot.waits_to_report"]


async def test_a_bot_that_leaves_says_that_it_waits_for_a_daemon_that_is_away(lab, autojump_clock, caplog):
    tasks = [lab.daemon.add(commands=LONG) for _ in range(3)]
    bot = await lab.start_bot(slots=3)
    await trio.sleep(5)
    lab.daemon.is_away = True
    lab.daemon.wake()
    await trio.sleep(60)
    assert not told(caplog), "nobody wants it to end"
    bot.leave()
    await trio.testing.wait_all_tasks_blocked()
    [first] = told(caplog)
    assert (first.levelname, first.unreported, first.server) == ("WARNING", 3, "http://127.0.0.1:8710")
    assert first.hint == "a further SIGTERM stops running work, a third one gives up"
    await trio.sleep(24 * 60 * 60 + 1)
    assert len(told(caplog)) == 1 + 24 * 60 and not lab.ended.is_set()
    lab.daemon.is_away = False
    await lab.ended.wait()
    assert sorted(lab.daemon.finished) == tasks and lab.ending.exit_code == 0


async def test_a_daemon_that_goes_away_from_a_bot_that_leaves_is_told_soon(lab, autojump_clock, caplog):
    lab.daemon.add(commands=LONG)
    bot = await lab.start_bot()
    await trio.sleep(1)
    bot.leave()
    await trio.sleep(8)
    assert not told(caplog), "its task runs, and nothing is unreported"
    lab.daemon.is_away = True
    lab.daemon.wake()
    await trio.sleep(3)
    assert [record.unreported for record in told(caplog)] == [1]


async def test_a_bot_that_can_report_says_nothing_when_it_leaves(lab, autojump_clock, caplog):
    lab.daemon.add(commands=LONG)
    bot = await lab.start_bot()
    await trio.sleep(1)
    bot.leave()
    await lab.ended.wait()
    assert len(lab.daemon.finished) == 1 and not told(caplog)


async def test_after_the_second_wish_the_last_reports_get_some_seconds(lab, autojump_clock, caplog):
    lab.daemon.add(commands=LONG)
    bot = await lab.start_bot()
    await trio.sleep(5)
    lab.daemon.is_away = True
    lab.daemon.wake()
    await trio.sleep(10)
    bot.leave()
    await trio.sleep(59)
    bot.leave()
    began_at = trio.current_time()
    await lab.ended.wait()
    assert trio.current_time() - began_at == pytest.approx(15.0, abs=0.1) and lab.ending.exit_code == 1
    assert told(caplog)[-1].hint == "a further SIGTERM gives up"


# ------------------------------------------------------------------ the goodbye of a bot that was ordered to end


async def test_an_ordered_goodbye_waits_for_a_daemon_that_is_away(lab, autojump_clock):
    await lab.start_bot()
    await trio.sleep(1)
    lab.daemon.order("terminate")
    lab.daemon.fail_close = [lost()] * 4
    await lab.ended.wait()
    assert lab.daemon.closed == ["s1"] and lab.ending.exit_code == 0
    assert trio.current_time() < 30


async def test_an_ordered_goodbye_is_given_up_when_the_session_has_ended_by_itself(lab, autojump_clock):
    await lab.start_bot()
    await trio.sleep(1)
    lab.daemon.order("terminate")
    lab.daemon.fail_close = [lost()] * 1_000
    await lab.ended.wait()
    assert lab.daemon.closed == [] and lab.ending.exit_code == 0
    assert 60 <= trio.current_time() - 1 < 62


async def test_a_person_need_not_wait_for_a_goodbye(lab, autojump_clock):
    bot = await lab.start_bot()
    await trio.sleep(1)
    lab.daemon.order("terminate")
    lab.daemon.fail_close = [lost()] * 1_000
    await trio.sleep(10)
    bot.leave()
    await lab.ended.wait()
    assert trio.current_time() - 11 < 1 and lab.ending.exit_code == 0


async def test_other_goodbyes_are_tried_once(lab, autojump_clock):
    bot = await lab.start_bot()
    await trio.sleep(1)
    lab.daemon.fail_close = [lost()] * 1_000
    bot.leave()
    await lab.ended.wait()
    assert trio.current_time() - 1 < 1 and len(lab.daemon.fail_close) == 999
