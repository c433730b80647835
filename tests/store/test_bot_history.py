"""The history of a bot is whole and in order, page by page, however its tasks overlap."""

import random

import msgspec
import pytest

from swarmd.core.ids import MAX_ID
from swarmd.core.model import AttemptState, Share, StopReason, TaskState, Work
from swarmd.core.sessions import Newcomer
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.daemon.terminating import termination
from swarmd.store.bot_history import (
    SET_BACK_S,
    EndEntry,
    OfferEntry,
    OwnEntry,
    Run,
    bot_history,
    op_names,
    standing,
    termination_tasks,
    terminations,
)
from swarmd.store.selecting import MAX_IDS_PER_QUERY
from tests.store.builders import NOW, WALL, Lab, busy_lab, new_database, spec
from tests.store.test_loading import plans_of


@pytest.fixture
def conn():
    return new_database()


@pytest.fixture
def lab(conn):
    lab = Lab(conn)
    lab.bot(slots=1_000)
    return lab


def whole(conn, bot="bot1", **span):
    return bot_history(conn, bot, limit=1_000_000, **span)


def story(conn, bot="bot1"):
    """The history in words, oldest first."""
    return [words(entry) for entry in whole(conn, bot)][::-1]


def words(entry):
    if isinstance(entry, OwnEntry):
        return entry.kind
    return (
        f"offered {entry.number}" if isinstance(entry, OfferEntry) else f"{entry.state.name} {entry.number}"
    )


# ------------------------------------------------------------- what is in it


def test_a_task_begins_and_ends_on_its_bot(conn, lab):
    lab.now += 5
    id = lab.submit(spec())
    attempt = lab.start()
    lab.now += 10
    lab.finish(attempt, ok=False, exit_code=3, reason="as told")
    lab.commit()
    end, offer, own = whole(conn)
    assert (own.kind, own.wall) == ("bot.connected", NOW + WALL)
    assert offer == OfferEntry(attempt.id, NOW + WALL + 5, id, 1) and offer.attempt == attempt.id
    assert (end.attempt, end.task, end.number, end.wall) == (attempt.id, id, 1, NOW + WALL + 15)
    assert (end.state, end.stop, end.outcome.exit_code, end.outcome.reason) == (
        AttemptState.ENDED, None, 3, "as told",
    )  # fmt: skip
    assert end.id > offer.id > own.id


def test_every_way_to_end(conn, lab):
    engine = lab.engine
    lab.submit(spec())
    (declined,) = lab.offer()
    engine.drop(lab.now, declined, "declined")
    running = lab.start()
    engine.withdraw(lab.now, running.task, "no longer wanted", kill=True)
    lab.finish(running, ok=False, canceled=True)
    lab.submit(spec())
    (taken_back,) = lab.offer()
    engine.withdraw(lab.now, taken_back.task, "no longer wanted", kill=False)
    lab.submit(spec(bot_retries=2))
    lab.start()
    engine.close_session(lab.now, lab.sessions["bot1"], "goodbye")
    lab.commit()
    assert story(conn) == [
        "bot.connected", "offered 1", "DROPPED 1", "offered 2", "ENDED 2", "offered 1", "DROPPED 1", "offered 1",
        "LOST 1", "bot.disconnected",
    ]  # fmt: skip
    ends = {e.attempt: e for e in whole(conn) if isinstance(e, EndEntry)}
    assert (ends[running.id].stop, ends[declined.id].outcome.reason) == (StopReason.CANCELED, "declined")
    assert ends[taken_back.id].outcome.canceled


def test_a_task_whose_own_operation_was_withdrawn(conn, lab):
    """Those that share it tell its end, once."""
    build = {"sameness": "key", "share": Share.JOIN}
    first, second, third = (lab.submit(spec(**build)) for _ in range(3))
    lab.look_up()
    attempt = lab.start()
    assert attempt.task == first
    lab.engine.withdraw(lab.now, first, "mine no longer", kill=True)
    lab.finish(attempt)
    lab.commit()
    assert story(conn) == ["bot.connected", "offered 1", "ENDED 1"]
    told = conn.execute(
        "SELECT MIN(id) FROM events WHERE op IN (?, ?) AND state = 10", (second, third)
    ).fetchone()
    assert whole(conn)[0].id == told[0]


def test_what_runs_has_not_ended_and_other_bots_are_others(conn, lab):
    lab.bot("bot2", key="k2")
    lab.submit(spec(), spec())
    lab.start("bot1")
    lab.finish(lab.start("bot2"))
    lab.commit()
    assert story(conn) == ["bot.connected", "offered 1"]
    assert story(conn, "bot2") == ["bot.connected", "offered 1", "ENDED 1"]
    assert story(conn, "nobody") == story(conn, "") == story(conn, "bot") == []


def test_an_offer_that_bots_of_other_names_got_before_is_not_its_own(conn, lab):
    """An attempt of the same task elsewhere ends with its own event."""
    lab.bot("bot2", key="k2")
    lab.submit(spec(retries=1, requires={}))
    lab.finish(lab.start("bot1"), ok=False, exit_code=1)
    lab.finish(lab.start("bot2"))
    lab.commit()
    assert story(conn) == ["bot.connected", "offered 1", "ENDED 1"]
    assert story(conn, "bot2") == ["bot.connected", "offered 2", "ENDED 2"]


# ------------------------------------------------------------- pages


def brute(conn, bot):
    """The ids of the history and their wall times, looked for in everything, newest first."""
    found = list(conn.execute("SELECT id, wall FROM events WHERE bot = ? AND op IS NULL", (bot,)))
    events = conn.execute("SELECT id, kind, op, attempt, state FROM events WHERE op IS NOT NULL").fetchall()
    for id, task, state, offered, ended in conn.execute(
        "SELECT id, task, state, offered_wall, ended_wall FROM attempts WHERE bot = ?", (bot,)
    ):
        found.append((id, offered))
        if state < AttemptState.ENDED:
            continue
        named = [
            e for e, kind, _, attempt, to in events
            if attempt == id and (kind == "offer.dropped" or (kind == "task" and to != TaskState.RUNNING))
        ]  # fmt: skip
        ops = {op for (op,) in conn.execute("SELECT id FROM ops WHERE task = ?", (task,))}
        canceled = [
            e
            for e, _, op, attempt, to in events
            if op in ops and e > id and not attempt and to == TaskState.CANCELED
        ]
        found.append((min(named) if named else max(canceled), ended))
    return sorted(found, reverse=True)


def random_lab(conn, seed, steps=300):
    lab = Lab(conn)
    chance = random.Random(seed)
    keys = iter(range(10_000))
    for name in ("bot1", "bot2"):
        lab.bot(name, slots=8, key=name)
    live = []
    for _ in range(steps):
        lab.now += chance.choice((0, 0.001, 1, 700))
        lab.submit(spec(retries=1, sameness=chance.choice((None, None, "a", "b")), share=Share.JOIN))
        lab.look_up()
        live = [a for a in live if a.state is not AttemptState.DROPPED and a.id in lab.engine.attempts]
        step = chance.random()
        if step < 0.1:
            name = chance.choice(("bot1", "bot2"))
            kept = [a.id for a in live if a.bot == name and chance.random() < 0.5]
            lab.bot(name, slots=8, key=f"{name} {next(keys)}", keeps=kept)
        elif step < 0.45 or not live:
            offered = lab.offer(chance.choice(("bot1", "bot2")), limit=2)
            for attempt in offered[: chance.randrange(3)]:
                lab.engine.accept(lab.now, attempt)
            live += offered
        else:
            attempt = chance.choice(live)
            if attempt.state is AttemptState.RUNNING and step < 0.85:
                lab.finish(attempt, ok=chance.random() < 0.5)
            elif attempt.state is AttemptState.OFFERED and step < 0.7:
                lab.engine.drop(lab.now, attempt, "declined")
            else:
                lab.engine.withdraw(lab.now, attempt.task, "no longer wanted", kill=True)
        lab.commit()
    return lab


@pytest.mark.parametrize("seed", range(6))
def test_all_pages_together_are_everything_that_happened(conn, seed):
    random_lab(conn, seed)
    for bot in ("bot1", "bot2"):
        everything = brute(conn, bot)
        assert len(everything) > 100
        assert [(e.id, e.wall) for e in whole(conn, bot)] == everything
        for limit in (1, 2, 7, 100, len(everything)):
            found, before = [], None
            while page := bot_history(conn, bot, before=before, limit=limit):
                assert len(page) == min(limit, len(everything) - len(found))
                found += page
                before = page[-1].id
            assert [e.id for e in found] == [id for id, _ in everything], (bot, limit)


@pytest.mark.parametrize("seed", (6, 7))
def test_a_span_holds_what_is_in_it(conn, seed):
    random_lab(conn, seed, steps=150)
    everything = brute(conn, "bot1")
    walls = sorted({wall for _, wall in everything})
    chance = random.Random(seed)
    for _ in range(40):
        first, second = sorted(chance.sample(walls, 2))
        wanted = [id for id, wall in everything if first <= wall < second]
        assert [e.id for e in whole(conn, since=first, until=second)] == wanted
        some = bot_history(conn, "bot1", since=first, until=second, limit=5)
        assert [e.id for e in some] == wanted[:5]
        if len(wanted) > 5:
            more = bot_history(conn, "bot1", since=first, until=second, before=wanted[4], limit=5)
            assert [e.id for e in more] == wanted[5:10]
    assert (
        whole(conn, since=walls[-1] + 1)
        == whole(conn, until=walls[0])
        == whole(conn, since=9.0, until=5.0)
        == []
    )
    assert whole(conn, before=0) == []


def test_the_end_of_a_long_task_stands_where_it_ended(conn, lab):
    """It began hundreds of entries before the page that its end is on."""
    lab.submit(spec())
    long = lab.start()
    for _ in range(300):
        lab.now += 60
        lab.run(spec())
    lab.finish(long)
    lab.commit()
    for _ in range(3):
        lab.now += 60
        lab.run(spec())
    page = bot_history(conn, "bot1", limit=10)
    assert [e.attempt == long.id for e in page] == [False] * 6 + [True] + [False] * 3
    assert bot_history(conn, "bot1", before=page[6].id, limit=1)[0].attempt != long.id


def test_a_wall_clock_set_back_hides_nothing(conn, lab):
    lab.submit(spec())
    long = lab.start()
    lab.commit()
    for _ in range(20):
        lab.run(spec())
    lab.finish(long)
    conn.execute("UPDATE attempts SET offered_wall = offered_wall + ? WHERE id <> ?", (SET_BACK_S, long.id))
    lab.commit()
    assert bot_history(conn, "bot1", limit=3)[0].attempt == long.id


# ------------------------------------------------------------- how the bot was


def test_how_a_bot_was_before_a_moment(conn, lab):
    engine = lab.engine

    def last():
        return whole(conn)[0].id

    def known(before=MAX_ID):
        found = standing(conn, "bot1", before)
        return tuple(e and e.kind for e in (found.session, found.connected, found.health))

    lab.commit()
    assert known() == ("bot.connected", "bot.connected", None)
    assert known(last()) == (None, None, None)
    engine.change_bot(lab.now, "bot1", quarantine="smells")
    engine.bot_tells(lab.now, "bot1", "bot.log", "hello")
    lab.commit()
    changed = last()
    assert known() == ("bot.connected", "bot.connected", "bot.changed")
    engine.close_session(lab.now, lab.sessions["bot1"], "goodbye")
    lab.commit()
    assert known() == ("bot.disconnected", "bot.connected", "bot.changed")
    engine.delete_bot(lab.now, "bot1")
    lab.commit()
    assert known() == ("bot.deleted", None, "bot.deleted")
    deleted = last()
    lab.bot(key="again")
    lab.commit()
    assert known() == ("bot.connected", "bot.connected", "bot.deleted")
    assert known(deleted) == ("bot.disconnected", "bot.connected", "bot.changed")
    assert known(changed) == ("bot.connected", "bot.connected", "bot.changed")


# ------------------------------------------------------------- lookups


def test_names_of_operations(conn, lab):
    ids = lab.submit(*(spec(name=f"n{n}") for n in range(MAX_IDS_PER_QUERY + 2)))
    lab.commit()
    assert op_names(conn, [*ids, ids[0], 7]) == {id: f"n{n}" for n, id in enumerate(ids)}
    assert op_names(conn, []) == {}


def ends(bot):
    return termination(bot, name="", tags=(), owner="me", priority=0)


def test_tasks_that_end_their_bot(conn, lab):
    text = '"terminate":true'
    env = {"terminate": "true", text: text, "a": f"{{{text}}}"}
    other = TaskSpec(work=(Work(noop=True, env=env),), slices=(SliceSpec(dimensions={}),), owner="me")
    ids = lab.submit(ends("bot1"), spec(), other)
    lab.commit()
    assert termination_tasks(conn, [*ids, 7]) == {ids[0]}


def test_bots_that_a_task_ended(conn, lab):
    engine = lab.engine
    names = ("ended", "back", "refused", "lost", "worked", "bare")
    runs = {}
    for name in names:
        newcomer = Newcomer(name, "native", name, "h", {}, ("noop", "terminate"), 1)
        session = engine.open_session(lab.now, newcomer).session
        if name != "bare":
            lab.submit(spec(requires={"id": [name]}) if name == "worked" else ends(name))
            [attempt] = engine.offer(lab.now, session, "k", 1)
            engine.accept(lab.now, attempt)
            runs[name] = attempt
        if name == "lost":
            lab.now += 1_000
            engine.deadline_passed(lab.now, session)
        elif name != "bare":
            lab.finish(attempt, ok=name != "refused", exit_code=0)
        if session in engine.sessions:
            engine.close_session(lab.now, session, "bye")
        if name == "back":
            again = engine.open_session(lab.now, msgspec.structs.replace(newcomer, session_key="again"))
            engine.close_session(lab.now, again.session, "bye")
    lab.commit()
    run = runs["ended"]
    assert terminations(conn, [*names, "nobody"]) == {"ended": Run(run.task, 1, run.id)}
    assert terminations(conn, []) == {}


# ------------------------------------------------------------- query plans


def test_every_statement_uses_its_indexes(conn):
    busy_lab(conn)
    actions = {
        (
            "events USING INDEX events_bot (bot=? AND rowid<?)",
            "attempts USING INDEX attempts_bot (bot=? AND rowid<?)",
            "e USING INDEX events_op (op=? AND rowid>?)", "o USING COVERING INDEX ops_shared (task=?)",
        ): lambda: bot_history(conn, "bot1", limit=10, since=1.0),
        ("events USING INDEX events_bot (bot=? AND rowid<?)",): lambda: standing(conn, "bot1", 10),
        ("ops USING INTEGER PRIMARY KEY",): lambda: op_names(conn, [5]),
        (
            "a USING INDEX attempts_bot (bot=? AND rowid=?)", "attempts USING COVERING INDEX attempts_bot (bot=?)",
            "events USING INDEX events_bot (bot=? AND rowid>?)", "t USING INTEGER PRIMARY KEY",
        ): lambda: terminations(conn, ["bot1"]),
        ("tasks USING INTEGER PRIMARY KEY",): lambda: termination_tasks(conn, [5]),
    }  # fmt: skip
    for parts, action in actions.items():
        steps = [text for plan in plans_of(conn, action).values() for text in plan]
        for part in parts:
            assert any(part in text for text in steps), (part, steps)
        assert not any(text.startswith("SCAN") or "TEMP B-TREE" in text for text in steps), steps
