"""The sync protocol of the native API, from the bot's side: repeats, held calls, what is declined, lost, strange."""

from __future__ import annotations

import msgspec
import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, BotOrderRequest, task
from swarmd.testing.bots import STRANGER, Fault, NativeBot
from swarmd.testing.harness import running


async def state_of(world, id: str) -> str:
    return (await world.client.get(id)).state


async def test_the_same_seq_again_gets_the_same_answer(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=2)
        await bot.open()
        await world.client.submit([task(argv=[str(n)]) for n in range(3)])
        request = bot.request(2)
        first = await world.client.sync(bot.session, request)
        assert len(first.offers) == 2
        assert await world.client.sync(bot.session, request) == first
        assert (await world.client.counts()).tasks == {"BLOCKED": 0, "PENDING": 3, "RUNNING": 0}


async def test_the_same_seq_again_gets_the_same_answer_whatever_has_happened_since(autojump_clock, tmp_path):
    """It is kept, not made anew: what has come since belongs to the next answer, and a repeat is not held."""
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=2)
        await bot.open()
        request = bot.request(2, wait_s=50.0)
        first = await world.client.sync(bot.session, request)
        assert first.offers == []
        [id] = await world.client.submit([task(argv=["x"])])
        before = trio.current_time()
        assert await world.client.sync(bot.session, request) == first
        await world.client.order_bot("b1", BotOrderRequest(drain=True))
        assert await world.client.sync(bot.session, request) == first
        assert trio.current_time() == before
        await world.client.order_bot("b1", BotOrderRequest(drain=False))
        bot.took(request, first)
        assert [offer.task for offer in await bot.take(2)] == [id]


async def test_an_offer_is_the_same_when_its_answer_was_lost_in_a_restart(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    async with running(path) as world:
        bot = NativeBot(world.client)
        await bot.open()
        await world.client.submit([task(argv=["x"]), task(argv=["y"])])
        request = bot.request(1)
        first = await world.client.sync(bot.session, request)
    async with running(path) as world:
        again = await world.client.sync(bot.session, request)
        assert again.offers == first.offers
        bot.client = world.client
        bot.took(request, again)
        bot.start(first.offers[0].attempt)
        await bot.sync()
        assert await state_of(world, first.offers[0].task) == "RUNNING"


async def test_what_is_queued_in_the_bot_is_pending_and_what_runs_is_running(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=2)
        await bot.open()
        [a, b] = await world.client.submit([task(argv=["a"]), task(argv=["b"])])
        [first, second] = await bot.take(2)
        bot.start(first.attempt)
        await bot.sync()
        assert [await state_of(world, id) for id in (a, b)] == ["RUNNING", "PENDING"]
        for _ in range(5):  # received: `accept_s` does not run for it
            await trio.sleep(20)
            await bot.sync()
        assert [(a.id, a.state) for a in (await world.client.get(b)).attempts] == [
            (second.attempt, "OFFERED")
        ]


@pytest.mark.parametrize("how", ["expired", "canceled"])
async def test_a_held_call_says_that_what_is_queued_in_the_bot_is_wanted_no_more(
    how, autojump_clock, tmp_path
):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"], expiration_s=20 if how == "expired" else 900)])
        [offer] = await bot.take(1)
        began_at = trio.current_time()

        async def cancel() -> None:
            await trio.sleep(20)
            await world.client.cancel([id])

        if how == "canceled":
            nursery.start_soon(cancel)
        answer = await bot.sync(0, 50)
        assert trio.current_time() - began_at == pytest.approx(20, abs=0.1)
        assert [(o.kind, o.attempt, o.reason) for o in answer.orders] == [
            ("stop", offer.attempt, "not_yours")
        ]
        assert await state_of(world, id) == how.upper()
        assert bot.queued == {} and (await bot.sync()).orders == []


async def test_what_a_bot_starts_at_the_moment_it_expires_it_is_told_to_stop(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"], expiration_s=20)])
        [offer] = await bot.take(1)
        await bot.sync()
        await trio.sleep(20.01)
        bot.start(offer.attempt)
        answer = await bot.sync(0, 50)
        assert [(o.kind, o.attempt, o.reason) for o in answer.orders] == [
            ("stop", offer.attempt, "not_yours")
        ]
        assert await state_of(world, id) == "EXPIRED"


async def test_a_call_that_was_called_back_says_nothing_of_what_the_next_one_reported(
    autojump_clock, tmp_path
):
    """It named as running what has ended since."""
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        answers = []

        async def hold() -> None:
            request = m.SyncRequest(seq=3, running=[offer.attempt], wait_s=50)
            answers.append(await world.client.sync(bot.session, request))

        nursery.start_soon(hold)
        await trio.sleep(10)
        finished = [m.FinishedAttempt(attempt=offer.attempt, ok=True, exit_code=0)]
        await world.client.sync(bot.session, m.SyncRequest(seq=4, seen=2, finished=finished))
        await trio.sleep(0.1)
        assert [answer.orders for answer in answers] == [[]]
        assert await state_of(world, id) == "COMPLETED"


async def test_an_offer_named_nowhere_was_declined(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        [offer] = await bot.take(1)
        bot.decline(offer.attempt)
        await bot.sync()
        found = await world.client.get(id)
        assert (found.state, found.attempts[0].state) == ("PENDING", "DROPPED")
        [again] = await bot.take(1)
        assert (again.task, again.number) == (id, 2)


async def test_a_running_attempt_named_nowhere_is_lost_and_runs_again(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        del bot.running[offer.attempt]
        answer = await bot.sync(1)
        assert [o.task for o in answer.offers] == [id]
        assert [a.state for a in (await world.client.get(id)).attempts] == ["LOST", "OFFERED"]


async def test_what_a_bot_holds_in_error_is_ordered_to_stop(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        answer = await bot.sync(running=[STRANGER], wait_s=30)
        assert [(o.kind, o.attempt, o.reason) for o in answer.orders] == [("stop", STRANGER, "not_yours")]
        assert trio.current_time() < 1  # told at once, not held


async def test_a_held_call_is_answered_by_the_next_one(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        held = []

        async def hold() -> None:
            held.append(
                (
                    await world.client.sync(bot.session, m.SyncRequest(seq=1, free=1, wait_s=50)),
                    trio.current_time(),
                )
            )

        nursery.start_soon(hold)
        await trio.sleep(10)
        [id] = await world.client.submit([task(argv=["x"], dimensions={"never": ["x"]})])
        second = await world.client.sync(bot.session, m.SyncRequest(seq=2, seen=0, free=1, wait_s=0))
        await trio.sleep(0.01)
        [(first, at)] = held
        assert (first.seq, first.offers, second.seq, second.offers) == (1, [], 2, [])
        assert at == pytest.approx(10, abs=0.1)
        assert await state_of(world, id) == "PENDING"


async def test_offers_on_their_way_are_not_declined_by_a_call_that_had_not_seen_them(
    autojump_clock, tmp_path
):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=2)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        first = await world.client.sync(bot.session, m.SyncRequest(seq=1, free=1, wait_s=0))
        [offer] = first.offers
        # Made before the answer to seq 1 was read: it names nothing, and says so.
        await world.client.sync(bot.session, m.SyncRequest(seq=2, seen=0, wait_s=0))
        assert (await world.client.get(id)).attempts[0].state == "OFFERED"
        await world.client.sync(bot.session, m.SyncRequest(seq=3, seen=1, running=[offer.attempt], wait_s=0))
        assert await state_of(world, id) == "RUNNING"


async def test_a_held_call_ends_with_work_with_an_order_and_with_its_time(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        times: list[tuple[str, float]] = []

        async def held(name: str, free: int = 1) -> None:
            began = trio.current_time()
            await bot.sync(free, 40)
            times.append((name, trio.current_time() - began))

        nursery.start_soon(held, "nothing")
        await trio.sleep(41)
        nursery.start_soon(held, "work")
        await trio.sleep(7)
        await world.client.submit([task(argv=["x"])])
        await trio.sleep(1)
        [offer] = list(bot.queued)
        bot.start(offer)
        nursery.start_soon(held, "order", 0)
        await trio.sleep(3)
        await world.client.order_bot("b1", BotOrderRequest(drain=True))
        await trio.sleep(1)
        assert [(name, round(seconds)) for name, seconds in times] == [
            ("nothing", 40),
            ("work", 7),
            ("order", 3),
        ]
        assert [o.kind for o in bot.orders] == ["drain"]


async def test_a_new_task_goes_to_one_of_the_waiting_bots(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bots = [NativeBot(world.client, f"b{n}") for n in range(4)]
        for bot in bots:
            await bot.open()
            nursery.start_soon(bot.sync, 1, 45)
        await trio.sleep(1)
        await world.client.submit([task(argv=["x"])])
        await trio.sleep(1)
        assert sorted(len(bot.queued) for bot in bots) == [0, 0, 0, 1]
        assert len(world.daemon.held) == 3
        nursery.cancel_scope.cancel()


async def test_a_task_is_not_lost_with_the_caller_that_was_woken_for_it(autojump_clock, tmp_path):
    """The bot's connection breaks in the moment in which work comes: the next bot gets it at once."""
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        gone, other = NativeBot(world.client, "gone"), NativeBot(world.client, "other")
        await gone.open()
        await other.open()
        scope = trio.CancelScope()

        async def leave() -> None:
            with scope:
                await gone.sync(1, 45)

        nursery.start_soon(leave)
        await trio.sleep(1)
        nursery.start_soon(other.sync, 1, 45)
        await trio.sleep(1)
        scope.cancel()
        await trio.sleep(0.1)
        [id] = await world.client.submit([task(argv=["x"])])
        await trio.sleep(1)
        assert [o.task for o in other.queued.values()] == [id]
        nursery.cancel_scope.cancel()


async def test_a_drained_bot_gets_nothing_more_and_ends_what_it_has(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=2)
        await bot.open()
        [a, b] = await world.client.submit([task(argv=["a"]), task(argv=["b"])])
        offer = await bot.run_one()
        await world.client.order_bot("b1", BotOrderRequest(drain=True))
        answer = await bot.sync(2)
        assert (answer.offers, [o.kind for o in answer.orders]) == ([], ["drain"])
        bot.finish(offer.attempt)
        await bot.sync()
        assert await state_of(world, a) == "COMPLETED" and await state_of(world, b) == "PENDING"
        await world.client.order_bot("b1", BotOrderRequest(drain=False))
        assert [o.task for o in await bot.take(2)] == [b]


async def test_a_report_is_refused_whole_or_taken_whole(autojump_clock, tmp_path):
    """A state that is too large is refused before the finished work in the same call is taken in."""
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        bot.finish(offer.attempt)
        with pytest.raises(ApiError) as caught:
            await bot.sync(state={"log": "x" * 70_000})
        assert caught.value.code == "too_large"
        assert await state_of(world, id) == "RUNNING"
        await bot.sync()
        assert await state_of(world, id) == "COMPLETED"


async def test_bytes_without_a_place_begin_the_stream(autojump_clock, tmp_path):
    """A body of output without `offset` once ended the daemon."""
    from tests.api.wire import send

    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        bytes_ = (("Content-Type", "application/octet-stream"),)
        answer = await send(
            world.url, "POST", f"/api/v1/attempts/{offer.attempt}/output/stdout", b"abc", bytes_
        )
        assert answer.json()["end"] == 3
        assert (await world.client.read_output(id, "stdout")).data == b"abc"


@pytest.mark.parametrize("exit_code", [-(2**70), -(2**63) - 1, 2**63, 2**70])
async def test_an_absurd_exit_code_does_not_end_the_daemon(exit_code, autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        bot.finish(offer.attempt, exit_code)
        with pytest.raises(ApiError):
            await bot.sync()
        bot._finished = [
            msgspec.structs.replace(bot._finished[0], exit_code=0xC0000005)
        ]  # a crash on Windows
        await bot.sync()
        assert (await world.client.get(id)).exit_code == 0xC0000005


# --------------------------------------------------------------------- sessions


async def test_the_same_session_key_is_the_same_session(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        first, again = await bot.open(), await bot.open()
        assert first.session == again.session
        assert (await world.client.counts()).sessions == 1


async def test_a_bot_that_comes_back_keeps_what_it_runs(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=3)
        await bot.open()
        [a, b] = await world.client.submit([task(argv=["a"]), task(argv=["b"])])
        await bot.take(2)
        for attempt in list(bot.queued):
            bot.start(attempt)
        await bot.sync()
        kept, forgotten = list(bot.running)
        del bot.running[forgotten]
        old = bot.session
        opened = await bot.restart()
        assert opened.session != old and opened.lost == []
        assert await state_of(world, a) == "RUNNING" and await state_of(world, b) == "PENDING"  # one retry
        with pytest.raises(ApiError, match="session"):
            await world.client.sync(old, m.SyncRequest(seq=99))
        bot.finish(kept)
        await bot.sync()
        assert await state_of(world, a) == "COMPLETED"


async def test_what_it_keeps_in_error_it_is_told(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        opened = await bot.open(keeps=[STRANGER])
        assert opened.lost == [STRANGER]


async def test_another_bot_cannot_take_the_name_until_the_session_has_ended(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        thief = NativeBot(world.client, bot_key="another key altogether", session_key="thief " * 3)
        await bot.open()
        with pytest.raises(ApiError) as caught:
            await thief.open()
        assert (caught.value.status, caught.value.code) == (409, "bot_in_use")
        await trio.sleep(61)
        await thief.open()
        kinds = [e.kind async for e in world.client.bot_events("b1")]
        assert kinds[:3] == ["bot.connected", "bot.disconnected", "bot.connected"]


async def test_a_session_never_expires_while_a_call_of_it_is_held(autojump_clock, tmp_path):
    from swarmd.config import Config

    async with running(tmp_path / "swarmd.db", config=Config(session_deadline_s=5)) as world:
        bot = NativeBot(world.client)
        await bot.open()
        await bot.sync(1, 50)
        await trio.sleep(4.9)
        assert (await world.client.counts()).sessions == 1
        await trio.sleep(0.2)
        assert (await world.client.counts()).sessions == 0


async def test_closing_twice_is_one_effect(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        await bot.take(1)
        await bot.close()
        await bot.close()
        found = await world.client.get(id)
        assert (found.state, found.attempts[0].state) == ("PENDING", "DROPPED")


async def test_what_a_bot_says_of_its_health_is_obeyed(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client)
        await bot.open()
        await world.client.submit([task(argv=["x"])])
        answer = await bot.sync(1, state={"quarantined": "disk full"})
        assert answer.offers == []
        info = await world.client.bot("b1")
        assert (info.status, info.quarantined, info.state) == (
            "quarantined",
            "disk full",
            {"quarantined": "disk full"},
        )
        assert len((await bot.sync(1, state={})).offers) == 1


@pytest.mark.parametrize("fault", list(Fault))
async def test_every_task_ends_whatever_the_bots_do(fault, autojump_clock, tmp_path):
    """One good bot and three of a kind: forty tasks end in bounded time, each once."""
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        await NativeBot(world.client, "good").open()
        good = NativeBot(world.client, "good", slots=4)
        nursery.start_soon(lambda: good.live(runs_s=2))
        for number in range(3):
            bad = NativeBot(world.client, f"bad{number}", slots=2)
            nursery.start_soon(lambda bad=bad: bad.live(fault, runs_s=3))
        ids = await world.client.submit(
            [task(argv=[str(n)], hard_limit_s=60, grace_s=5, bot_retries=20) for n in range(40)]
        )
        items = await world.client.wait(ids, 3_600)
        assert len(items) == 40
        allowed = {"COMPLETED", "TIMED_OUT"} if fault is Fault.LATE else {"COMPLETED", "BOT_DIED"}
        assert {i.state for i in items} <= allowed
        if fault in (Fault.NONE, Fault.DUPLICATE, Fault.LYING):
            assert {(i.state, i.number) for i in items} == {("COMPLETED", 1)}
        world.daemon.engine.check()
        nursery.cancel_scope.cancel()


async def test_a_bot_that_an_older_daemon_knew_has_the_features_that_this_one_knows(autojump_clock, tmp_path):
    """It goes on with its session after the upgrade, and never says again what it is."""
    path = tmp_path / "swarmd.db"
    async with running(path) as world:
        bot = NativeBot(world.client)
        await bot.open()
        older = '{"feature": ["commands"], "rack": ["r1"]}'
        await world.daemon.writer.submit(
            lambda conn: conn.execute("UPDATE bots SET assigned = ?", (older,))
        ).wait()
    async with running(path) as world:
        [id] = await world.client.submit([task(argv=["x"], outputs=["a"], dimensions={"rack": ["r1"]})])
        bot.client = world.client
        assert [offer.task for offer in await bot.take(1)] == [id]
        await world.daemon.settled()
        world.daemon.engine.check()
