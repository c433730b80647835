"""The first path through everything: submit, offer, run, finish, read."""

from __future__ import annotations

from swarmd.api.native import messages as m
from swarmd.client import task
from swarmd.testing.harness import running


async def test_a_task_runs_and_is_read_back(autojump_clock, tmp_path):
    async with running(tmp_path / "swarmd.db") as world:
        c = world.client
        [id] = await c.submit([task(argv=["echo", "hello"])])
        opened = await c.call(
            "POST",
            "/api/v1/bots/b1/sessions",
            m.SessionRequest(session_key="k" * 8, bot_key="b" * 16, dimensions={"os": ["Linux"]}),
            m.SessionAnswer,
        )
        sync = f"/api/v1/sessions/{opened.session}/sync"
        first = await c.call("POST", sync, m.SyncRequest(seq=1, free=1), m.SyncAnswer)
        [offer] = first.offers
        assert offer.task == id
        second = await c.call(
            "POST",
            sync,
            m.SyncRequest(
                seq=2,
                output=[m.OutputPiece(attempt=offer.attempt, stream="stdout", offset=0, data=b"hello\n")],
                finished=[m.FinishedAttempt(attempt=offer.attempt, ok=True, exit_code=0)],
            ),
            m.SyncAnswer,
        )
        assert second.offers == []
        found = await c.get(id)
        assert (found.state, found.ok, found.exit_code) == ("COMPLETED", True, 0)
        world.daemon.engine.check()
