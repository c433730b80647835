"""Lists, waits, bulk actions, sharing, explanations, blobs, bots, metrics, backup: what a client sees."""

from __future__ import annotations

import hashlib

import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, BotOrderRequest, GraphRequest, dependency, task
from swarmd.store.check import check_file
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running
from tests.api.worlds import small_world


async def test_a_list_is_stable_while_rows_arrive(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        ids = await world.client.submit([task(argv=[str(n)], tags=["mine"]) for n in range(25)])
        for query in ({}, {"tag": "mine"}, {"pool": "default"}, {"state": "PENDING,RUNNING"}):
            seen, cursor = [], ""
            while True:
                page = await world.client.call(
                    "GET", "/api/v1/tasks", None, m.TaskList, query={"limit": 7, "cursor": cursor, **query}
                )
                seen += [t.id for t in page.items]
                await world.client.submit([task(argv=["new"], tags=["mine"])])
                if page.next is None:
                    break
                cursor = page.next
            assert [id for id in seen if id in ids] == ids[::-1]
            assert len(seen) == len(set(seen))


async def test_filters(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        w = await small_world(daemon)

        async def found(**query) -> list[str]:
            return [t.id async for t in w.client.tasks(**query)]

        assert (
            await found(name="done") == [w.done] == await found(tag="old") == await found(state="completed")
        )
        assert set(await found(bot="b1")) == {w.done, w.running}
        assert await found(state="RUNNING") == [w.running]
        assert len(await found(graph=w.open_graph)) == 1
        assert await found(failed=True) == [] and await found(pool="nowhere") == []


async def test_wait_for_all_and_for_any(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        ids = await world.client.submit([task(argv=["a"]), task(argv=["b"])])
        began = trio.current_time()
        answer = await world.client.wait_once(ids, 20)
        assert (answer.items, answer.pending) == ([], 2) and trio.current_time() - began == pytest.approx(
            20, abs=0.01
        )
        nursery.start_soon(lambda: bot.live(runs_s=10))
        answer = await world.client.wait_once(ids, 50, any=True)
        assert (len(answer.items), answer.pending) == (1, 1)
        answer = await world.client.wait_once([*ids, *ids], 50)
        assert ([i.id for i in answer.items], answer.pending) == (ids, 0)
        nursery.cancel_scope.cancel()


async def test_output_is_held_until_there_is_some(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        await bot.open()
        [id] = await world.client.submit([task(argv=["x"])])
        offer = await bot.run_one()
        got = []

        async def read() -> None:
            got.append((await world.client.read_output(id, "stdout", wait_s=50), trio.current_time()))

        nursery.start_soon(read)
        await trio.sleep(12)
        await world.client.append_output(offer.attempt, "stdout", 0, b"large " * 1000)
        await trio.sleep(1)
        [(piece, at)] = got
        assert (piece.data, piece.final) == (b"large " * 1000, False) and at < 13
        bot.finish(offer.attempt)
        await bot.sync()
        rest = await world.client.read_output(id, "stdout", offset=6000, wait_s=50)
        assert (rest.data, rest.final, rest.end) == (b"", True, 6000)


async def test_cancel_and_retry_by_filter(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=2)
        await bot.open()
        ids = await world.client.submit([task(argv=["x"], tags=["night"], grace_s=5) for _ in range(4)])
        others = await world.client.submit([task(argv=["y"])])
        offer = await bot.run_one()
        answer = await world.client.cancel(tag="night", kill=False)
        assert (answer.matched, answer.changed) == (4, 3)  # not the one that runs
        assert set(answer.ids) == set(ids) - {offer.task}
        answer = await world.client.cancel(tag="night")
        assert (answer.matched, answer.changed) == (1, 1)
        answer = await bot.sync()
        assert [(o.kind, o.reason, o.grace_s) for o in answer.orders] == [("stop", "canceled", 5)]
        bot.finish(offer.attempt, -15)
        await bot.sync()
        states = {i.id: i.state for i in await world.client.wait(ids)}
        assert sorted(states.values()) == ["CANCELED"] * 3 + ["KILLED"] and states[offer.task] == "KILLED"
        assert (await world.client.get(others[0])).state == "PENDING"
        again = await world.client.retry(tag="night", failed=True)
        assert again.changed == 4
        assert {(await world.client.get(id)).retry_of for id in again.ids} == set(ids)
        assert {(await world.client.get(id)).state for id in ids} == {"CANCELED", "KILLED"}


async def test_sharing(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        bot = NativeBot(world.client, slots=4)
        await bot.open()

        async def submit(share: str) -> m.TaskDetails:
            [id] = await world.client.submit([task(argv=["make"], sameness="k", share=share)])
            return await world.client.get(id)

        first = await submit("join")
        joined, own = await submit("join"), await submit("finished")
        assert joined.task == first.task and joined.id != first.id and own.task == own.id
        offers = await bot.take(4)
        assert sorted(o.task for o in offers) == sorted([first.id, own.id])
        await world.client.cancel([first.id])  # the other operation still wants it
        assert (await world.client.get(joined.id)).state == "PENDING"
        for offer in offers:
            bot.finish(offer.attempt)
        await bot.sync()
        assert (await world.client.get(joined.id)).state == "COMPLETED"
        later = await submit("finished")
        assert (later.state, later.task != later.id) == ("COMPLETED", True)
        assert (await submit("none")).state == "PENDING"


async def test_a_graph_from_open_to_done(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world, trio.open_nursery() as nursery:
        bot = NativeBot(world.client)
        nursery.start_soon(lambda: bot.live(outcome=lambda offer: int(offer.name == "bad")))
        graph = await world.client.submit_graph(
            GraphRequest(
                tasks=[task(key="a", name="bad", argv=["x"]), task(key="b", argv=["x"], after=["a"])],
                open=True,
            )
        )
        more = await world.client.submit_request(
            m.SubmitRequest(
                tasks=[task(key="c", argv=["x"], after=[dependency(on="a", condition="failed")])]
            ),
            graph.id,
        )
        await world.client.wait([graph.ids[0], *more.ids])
        assert (
            await world.client.get(graph.ids[1])
        ).state == "BLOCKED"  # failure skips nothing while it is open
        assert (await world.client.explain(graph.ids[1])).reason == "doomed"
        closed = await world.client.close_graph(graph.id)
        assert (closed.open, closed.done, closed.ok) == (False, True, False)
        assert closed.counts == {"COMPLETED": 2, "SKIPPED": 1}
        assert (await world.client.close_graph(graph.id)) == closed
        assert [g.id async for g in world.client.graphs()] == [graph.id]
        nursery.cancel_scope.cancel()


async def test_explanations(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        w = await small_world(daemon)
        reasons = {
            n: await w.client.explain(getattr(w, n)) for n in ("done", "running", "waiting", "blocked")
        }
        assert reasons["done"].reason == "completed" and "b1" in reasons["done"].sentence
        assert reasons["waiting"].reason == "no_bot_matches" and "gpu" in reasons["waiting"].sentence
        assert reasons["blocked"].reason == "blocked" and w.waiting in reasons["blocked"].sentence
        assert "b1" in reasons["running"].sentence
        [id] = await w.client.submit([task(argv=["x"])])
        await w.client.order_bot("b1", BotOrderRequest(quarantine="smells of smoke"))
        told = await w.client.explain(id)
        assert (
            told.reason == "bots_refuse" and "smells of smoke" in told.sentence and "--undo" in told.sentence
        )


async def test_64_mib_in_small_pieces_are_never_whole_in_memory(autojump_clock, tmp_path):
    import tracemalloc

    size, piece = 64 << 20, b"0123456789abcdef" * 4096
    digest = hashlib.sha256(piece * (size // len(piece))).hexdigest()
    async with running(tmp_path / "swarmd.db") as world:

        async def pieces():
            for _ in range(size // len(piece)):
                yield piece

        answer = await world.client.upload(pieces(), size, digest)
        assert (answer.sha256, answer.size) == (digest, size)
        assert await world.client.missing_blobs([digest, "0" * 64]) == ["0" * 64]
        assert await world.client.blob_size(digest) == size
        tracemalloc.start()
        found = hashlib.sha256()
        assert await world.client.save_blob(digest, found.update) == size
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.hexdigest() == digest and peak < 24 << 20, peak
        again = await world.client.upload_bytes(b"small")
        assert await world.client.upload_bytes(b"small") == again


async def test_a_backup_is_a_file_that_opens(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        w = await small_world(daemon)
        copy = tmp_path / "copy.db"
        async with w.client.backup() as response:
            copy.write_bytes(await response.read(1 << 30))
        await trio.sleep(1)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".swarmd-backup")] == []
    assert check_file(copy) == []
    async with running(copy) as daemon:
        assert (await daemon.client.get(w.done)).state == "COMPLETED"
        assert (await daemon.client.read_output(w.done, "stdout")).data == b"all good\n"


async def test_a_backup_whose_reader_leaves_leaves_nothing_behind(autojump_clock, tmp_path):
    from tests.api.wire import connect, head

    async with running(tmp_path / "swarmd.db") as daemon:
        await daemon.client.upload_bytes(b"x" * (8 << 20))
        async with await connect(daemon.url) as stream:
            await stream.send_all(head("POST", "/api/v1/backup", [("Content-Length", "0")]))
            await stream.receive_some(1000)
        await trio.sleep(60)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".swarmd-backup")] == []


async def test_metrics_are_what_prometheus_reads(autojump_clock, tmp_path):
    from prometheus_client.parser import text_string_to_metric_families

    async with running(tmp_path / "swarmd.db") as daemon:
        w = await small_world(daemon)
        families = {f.name: f for f in text_string_to_metric_families(await w.client.metrics())}
        assert all(f.documentation and f.samples for f in families.values())
        states = {s.labels["state"]: s.value for s in families["swarmd_tasks"].samples}
        assert states == {"blocked": 3, "pending": 1, "running": 1}
        assert families["swarmd_sessions"].samples[0].value == 1
        assert families["swarmd_commits"].type == "counter"


async def test_bots_are_listed_looked_at_and_forgotten(autojump_clock, tmp_path):
    path = tmp_path / "swarmd.db"
    async with running(path) as daemon:
        w = await small_world(daemon)
        names = [f"c{n}" for n in range(5)]
        for name in names:
            await NativeBot(w.client, name).open()
        page = await w.client.call("GET", "/api/v1/bots", None, m.BotList, query={"limit": 4})
        rest = await w.client.call(
            "GET", "/api/v1/bots", None, m.BotList, query={"limit": 4, "cursor": page.next}
        )
        assert [b.id for b in page.items + rest.items] == ["b1", *names] and rest.next is None
        info = await w.client.bot("b1")
        assert (info.status, info.slots, info.running, info.dimensions["os"]) == (
            "busy",
            4,
            [w.attempt],
            ["Linux"],
        )
        assert {t.id async for t in w.client.bot_tasks("b1")} == {w.done, w.running}
        await w.client.order_bot("c0", BotOrderRequest(drain=True, maintenance="new fan"))
        with pytest.raises(ApiError, match="connected"):
            await w.client.delete_bot("c0")
        await trio.sleep(61)  # silent
        await w.client.delete_bot("c1")
        with pytest.raises(ApiError) as caught:
            await w.client.bot("c1")
        assert caught.value.status == 404
    async with running(path) as daemon:
        info = await daemon.client.bot("c0")
        assert (info.draining, info.maintenance) == (True, "new fan")
        assert "c1" not in [b.id async for b in daemon.client.bots()]
    assert check_file(path) == []


async def test_dependencies_can_change_until_a_bot_was_offered_the_task(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as daemon:
        w = await small_world(daemon)
        assert (await w.client.set_after(w.blocked, [w.done])).state == "PENDING"
        changed = await w.client.set_after(w.blocked, [dependency(on=w.running, condition="any"), w.waiting])
        assert changed.state == "BLOCKED" and {d.on for d in changed.after} == {w.running, w.waiting}
        daemon.daemon.engine.check()
