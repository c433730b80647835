"""How bots come and go, and what a person may ask of one."""

from __future__ import annotations

import pytest

from swarmd.core.errors import Conflict, Refused, Unknown
from swarmd.core.features import NATIVE
from swarmd.core.model import AttemptState, BotId, Command, TaskState, Work
from swarmd.core.sessions import MAX_MESSAGE

from .builders import FakeBot, World


def test_the_same_session_key_is_the_same_session() -> None:
    world = World()
    bot = world.bot()
    world.submit()
    attempt = bot.take()
    session = bot.session
    opened = bot.open(keeps=[attempt])
    assert (opened.session, opened.is_new, opened.lost) == (session, False, [])
    assert bot.attempts == [attempt.id]


def test_a_restarted_bot_keeps_what_it_names() -> None:
    world = World()
    kept_op, lost_op, offered_op = world.submit(), world.submit(), world.submit()
    old = world.bot(slots=3)
    kept, _lost = old.take(), old.take()
    (offered,) = old.poll()
    new = FakeBot(world, "b", key="start-2")
    opened = new.open(keeps=[kept])
    assert opened.is_new and opened.lost == []
    assert new.attempts == [kept.id] and kept.session == new.session
    assert world.states(kept_op, lost_op, offered_op) == ["RUNNING", "PENDING", "PENDING"]
    assert world.task(lost_op).bot_faults == 1
    assert offered.state is AttemptState.DROPPED and world.task(offered_op).bot_faults == 0
    assert not old.finish(kept) and new.finish(kept)


def test_it_is_told_what_is_not_its_own_any_more() -> None:
    world = World()
    world.submit()
    bot = world.bot()
    attempt = bot.take()
    bot.close()
    assert bot.open(keeps=[attempt]).lost == [attempt.id]


@pytest.mark.parametrize(
    ("bot_key", "always_wins", "protocol", "wins"),
    [
        ("secret", False, "native", True),
        ("other", False, "native", False),
        ("other", True, "native", True),
        ("secret", True, "swarming", False),
    ],
)
def test_who_may_replace_an_open_session(bot_key: str, always_wins: bool, protocol: str, wins: bool) -> None:
    world = World()
    world.submit()
    first = world.bot()
    attempt = first.take()
    second = FakeBot(world, "b", key="start-2", bot_key=bot_key, always_wins=always_wins, protocol=protocol)
    if wins:
        assert second.open().is_new
        assert first.session not in world.engine.sessions and attempt.state is AttemptState.LOST
    else:
        with pytest.raises(Conflict) as conflict:
            second.open()
        assert conflict.value.code == "bot_in_use"
        assert first.attempts == [attempt.id]


def test_when_the_old_session_has_ended_anybody_may_have_the_name() -> None:
    world = World()
    world.bot().close()
    second = FakeBot(world, "b", key="start-2", bot_key="other")
    assert second.open().is_new


def test_silence_ends_a_session() -> None:
    world = World()
    op = world.submit()
    bot = world.bot()
    bot.take()
    world.pass_time(59.0)
    bot.seen()
    world.pass_time(59.9)
    assert bot.it.status == "busy"
    world.pass_time(0.1)
    assert bot.it.status == "dead" and world.state(op) is TaskState.PENDING


def test_a_task_says_how_long_its_bot_may_be_silent() -> None:
    """Shorter or longer than the deadline of the session, also after a restart; without a task the deadline is back."""
    world = World(session_deadline_s=100)
    for tolerance_s in (20.0, 400.0):
        op = world.submit(work=Work(noop=True, ping_tolerance_s=tolerance_s), bot_retries=0)
        bot = world.bot(f"b{tolerance_s:g}")
        attempt = bot.take()
        bot.seen()
        world.pass_time(tolerance_s - 1)
        assert world.state(op) is TaskState.RUNNING
        world.restart()
        world.pass_time(tolerance_s - 1)
        bot.seen()
        bot.finish(world.engine.attempts[attempt.id])
        bot.seen()
        world.pass_time(99)
        assert bot.open_session
        other = world.submit(work=Work(noop=True, ping_tolerance_s=tolerance_s), bot_retries=0)
        bot.take()
        bot.seen()
        world.pass_time(tolerance_s)
        assert world.reason(other) == f"its bot {bot.name} is gone: silent for {tolerance_s:g} s"


def test_a_session_does_not_end_while_a_call_of_it_is_held() -> None:
    world = World()
    bot = world.bot()
    bot.open_session.held = 1
    world.pass_time(1_000.0)
    assert bot.it.session is not None
    bot.open_session.held = 0
    world.pass_time(0.0)
    assert bot.it.session is None


def test_after_a_restart_a_session_has_its_full_deadline() -> None:
    world = World()
    bot = world.bot()
    world.pass_time(59.0)
    world.restart(down_s=200.0)
    world.pass_time(59.9)
    assert bot.it.session is not None
    world.pass_time(0.1)
    assert bot.it.session is None


# ------------------------------------------------------------------ what it says of itself later


def described(world: World) -> tuple[FakeBot, int]:
    """A bot with a held call, and the version of the engine."""
    bot = world.bot(os="linux")
    bot.describe(version="1", state=b'{"a":1}')
    return bot, world.engine.version


def test_a_bot_that_says_what_it_said_before_changes_nothing_but_its_state() -> None:
    world = World()
    bot, version = described(world)
    world.write()
    bot.describe(version="1", state=b'{"a":2}')
    assert world.engine.version == version and not world.engine.changes
    assert bot.it.state == b'{"a":2}', "for show, and in memory only"


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"}, {"dimensions": {"os": ["mac"]}}, {"dimensions": {"os": ["linux"], "gpu": ["a10"]}},
        {"dimensions": {}}, {"assigned": {"pool": ("lab",)}}, {"features": ()},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_bot_says_anew_is_in_the_file(change: dict[str, object]) -> None:
    world = World()
    bot, version = described(world)
    bot.describe(**{"version": "1", **change})
    assert world.engine.version > version
    after = (bot.it.version, bot.it.dimensions, bot.it.assigned, bot.it.values)
    world.restart()
    assert (bot.it.version, bot.it.dimensions, bot.it.assigned, bot.it.values) == after
    version = world.engine.version
    bot.describe(**{"version": "1", **change})
    assert world.engine.version == version, "also after a restart it is what it said before"


def test_what_a_newer_version_knows_that_bots_can_do_is_so_at_once_and_for_all_of_a_protocol() -> None:
    world = World()
    older, other = world.bot("a", features=("noop",)), world.bot("b", protocol="swarming", features=("noop",))
    gone = world.bot("c", features=("noop",))
    gone.close()
    op = world.submit(work=Work(commands=(Command(("x",)),), outputs=("y",)))
    assert older.poll() == []
    world.engine.bots_can("native", NATIVE)
    assert other.it.assigned == {"feature": ("noop",)} and gone.it.assigned == {"feature": NATIVE}
    assert [attempt.task for attempt in older.poll()] == [op]
    world.engine.check()
    world.restart()
    version = world.engine.version
    world.engine.bots_can("native", NATIVE)
    assert world.engine.version == version, "it is in the file"


@pytest.mark.parametrize(
    "wrong",
    [
        {"os": []},
        {"os": ["a", "a"]},
        {"o s": ["x"]},
        {"os": ["a|b"]},
        {"id": ["other"]},
        {"feature": ["noop"]},
    ],
    ids=str,
)
def test_dimensions_that_cannot_be_change_nothing(wrong: dict[str, list[str]]) -> None:
    world = World()
    bot, version = described(world)
    with pytest.raises(Refused):
        bot.describe(version="2", dimensions=wrong, state=b'{"a":3}')
    assert world.engine.version == version
    assert (bot.it.version, bot.it.dimensions["os"], bot.it.state) == ("1", ("linux",), b'{"a":1}')


def test_a_bot_that_nobody_knows_cannot_say_what_it_is() -> None:
    world = World()
    with pytest.raises(Unknown):
        FakeBot(world, "stranger").describe()


def test_a_bot_gets_what_it_matches_now_and_no_more_what_it_matched_before() -> None:
    world = World()
    linux, gpu = world.submit(os="linux"), world.submit(os="linux", gpu="h200")
    bot = world.bot(os="mac")
    assert bot.poll() == []
    bot.describe(dimensions={"os": ["linux"], "gpu": ["h200"]})
    assert [a.task for a in bot.poll(2)] == [linux, gpu]
    bot.holds(judged=True)
    bot.describe(dimensions={"os": ["mac"]})
    assert bot.poll() == [] and world.explain(gpu)[0] == "no_bot_matches"


def test_a_held_call_is_woken_by_what_its_bot_matches_now() -> None:
    world = World()
    world.submit(gpu="h200")
    bot = world.bot(os="linux")
    assert not bot.wait()
    bot.describe(dimensions={"os": ["linux"], "gpu": ["h200"]})
    assert bot.woken()


def test_a_wake_for_a_bot_that_does_not_match_any_more_goes_to_the_next() -> None:
    world = World()
    first, second = world.bot("first", os="linux"), world.bot("second", os="linux")
    first.wait()
    second.wait()
    world.submit(os="linux")
    assert world.engine.take_woken() == [first.session]
    first.describe(dimensions={"os": ["mac"]})
    assert second.woken()


def test_a_task_that_does_not_wait_ends_when_the_last_bot_for_it_is_another_one_now() -> None:
    world = World(bot_back_s=0.0)
    bot = world.bot(os="linux")
    world.submit()
    attempt = bot.take()
    op = world.submit(os="linux", wait_for_capacity=False)
    world.pass_time(1.0)
    assert world.state(op) is TaskState.PENDING, "a busy bot is capacity"
    bot.describe(dimensions={"os": ["mac"]})
    world.pass_time(0.0)
    assert world.state(op) is TaskState.NO_RESOURCE
    assert bot.finish(attempt), "what it runs, it runs"


def test_what_a_bot_tells_stands_in_its_history_and_is_cut_to_a_limit() -> None:
    world = World()
    bot = world.bot()
    version = world.engine.version
    world.engine.bot_tells(world.now, bot.name, "bot.error", "x" * (MAX_MESSAGE + 1))
    assert world.engine.version > version
    told = world.engine.changes.events[-1]
    assert (told.kind, told.bot, told.detail) == ("bot.error", bot.name, {"message": "x" * MAX_MESSAGE})
    with pytest.raises(Unknown):
        world.engine.bot_tells(world.now, BotId("stranger"), "bot.error", "hello")


# ------------------------------------------------------------------ what a person asks


@pytest.mark.parametrize(
    ("change", "back", "status"),
    [
        ({"drain": True}, {"drain": False}, "draining"),
        ({"quarantine": "bad disk"}, {"quarantine": None}, "quarantined"),
        ({"maintenance": "new fan"}, {"maintenance": None}, "maintenance"),
        ({"order": "restart"}, {"order": None}, "idle"),
    ],
)
def test_a_bot_is_taken_out_of_work_and_back(
    change: dict[str, object], back: dict[str, object], status: str
) -> None:
    world = World()
    bot = world.bot()
    bot.wait()
    bot.change(**change)
    assert bot.woken(), "its held call has something to say"
    world.engine.unwait(bot.session)
    assert bot.it.status == status
    world.submit()
    assert bot.poll() == []
    version = world.engine.version
    bot.change(**change)
    assert world.engine.version == version, "twice is one effect"
    world.restart()
    assert bot.it.status == status and bot.poll() == []
    bot.change(**back)
    assert len(bot.poll()) == 1


def test_a_waiting_bot_that_takes_work_again_is_woken() -> None:
    world = World()
    bot = world.bot()
    bot.wait()
    bot.change(drain=True)
    world.submit()
    world.engine.take_woken()
    bot.change(drain=False)
    assert bot.woken()


@pytest.mark.parametrize("order", ["restart", "update", "terminate"])
def test_an_order_is_repeated_until_its_effect_is_seen(order: str) -> None:
    world = World()
    bot = world.bot()
    bot.change(order=order)
    assert [o.kind for o in bot.orders()] == [o.kind for o in bot.orders()] == [order]
    if order == "terminate":
        bot.close()
        assert bot.it.order is None
    else:
        bot.close()
        assert bot.it.order == order
        again = FakeBot(world, "b", key="start-2")
        again.open()
        assert again.orders() == []


def test_a_dead_bot_can_be_told_nothing() -> None:
    world = World()
    bot = world.bot()
    bot.close()
    with pytest.raises(Conflict) as conflict:
        bot.change(order="restart")
    assert conflict.value.code == "bot_dead"


def test_what_a_person_ordered_a_bot_cannot_undo() -> None:
    world = World()
    bot = world.bot()
    world.engine.bot_says(world.now, bot.name, "too hot", None)
    assert bot.it.status == "quarantined"
    world.engine.bot_says(world.now, bot.name, None, None)
    assert bot.it.status == "idle"
    bot.change(quarantine="do not touch")
    world.engine.bot_says(world.now, bot.name, None, None)
    assert bot.it.quarantined == "do not touch"


def test_a_drained_bot_ends_what_it_runs() -> None:
    world = World()
    op = world.submit()
    bot = world.bot()
    attempt = bot.take()
    bot.change(drain=True)
    assert [o.kind for o in bot.orders()] == ["drain"]
    assert bot.finish(attempt) and world.state(op) is TaskState.COMPLETED


# ------------------------------------------------------------------ deleting


def test_only_a_bot_without_a_session_is_deleted() -> None:
    world = World()
    bot = world.bot()
    with pytest.raises(Conflict) as conflict:
        world.engine.delete_bot(world.now, bot.name)
    assert conflict.value.code == "bot_connected"
    bot.close()
    world.engine.delete_bot(world.now, bot.name)
    with pytest.raises(Unknown):
        bot.change(drain=True)
    world.restart()
    assert bot.name not in world.engine.bots


def test_a_deleted_bot_that_is_back_before_the_commit_is_in_the_file() -> None:
    world = World()
    bot = world.bot()
    bot.close()
    world.write()
    world.engine.delete_bot(world.now, bot.name)
    bot.open()
    world.restart()
    assert bot.it.session is not None


def test_the_number_of_bots_is_bounded() -> None:
    world = World(max_bots=2)
    world.bot("a"), world.bot("b")
    with pytest.raises(Refused) as refused:
        world.bot("c")
    assert refused.value.code == "too_many_bots"
    world.bot("a", key="start-2")


def test_what_a_bot_lost_by_a_restart_of_the_daemon_counts_against_no_limit() -> None:
    """A bot that ends when a call of it fails comes back with a new session, and without its tasks."""
    world = World(max_drops=0)
    ran, offered = world.submit(bot_retries=0), world.submit()
    bot = world.bot(slots=2)
    bot.take()
    bot.poll()
    world.restart()
    again = FakeBot(world, "b", key="start-2", slots=2)
    again.open()
    assert world.states(ran, offered) == ["PENDING", "PENDING"]
    assert (world.task(ran).bot_faults, world.task(offered).drops) == (0, 0)
    again.take()
    world.restart()
    again.seen()
    FakeBot(world, "b", key="start-3").open()
    assert world.states(ran) == ["BOT_DIED"], "it had found the daemon again"
