"""The `swarming` command lists, counts, ends and deletes bots. Real processes, so real time."""

from __future__ import annotations

import json

from swarmd.core.ids import to_text
from swarmd.core.model import BotId
from swarmd.core.sessions import Newcomer
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running

QUICKLY_S = 20.0


async def test_bots_are_listed_and_counted(swarming):
    """More than a page of them; the command asks until a page has no cursor."""
    async with running(tcp=True) as daemon:
        with daemon.daemon.step() as (engine, now):
            for number in range(1_000):
                newcomer = Newcomer(f"b{number:04}", "native", f"key {number}", "h", {"pool": ["lab"]}, (), 1)
                engine.close_session(now, engine.open_session(now, newcomer).session, "bye")
        bot = NativeBot(daemon.client, "bench-01", dimensions={"pool": ["lab"], "os": ["Linux", "Ubuntu"]})
        await bot.open()
        command = swarming(daemon.url)
        done = await command("bots", "-bare")
        assert (done.code, done.out.split()) == (0, [*(f"b{n:04}" for n in range(1_000)), "bench-01"]), (
            done.err
        )
        done = await command("bots", "-dimension", "pool=lab", "-dimension", "os=Mac|Linux")
        [told] = json.loads(done.out)
        session = daemon.daemon.engine.bots[BotId("bench-01")].session
        assert told.pop("first_seen_ts") and told.pop("last_seen_ts") and session is not None
        assert told == {
            "bot_id": "bench-01", "authenticated_as": "bot:bench-01", "state": "{}", "session_id": to_text(session.id),
            "dimensions": [
                {"key": "id", "value": ["bench-01"]},
                {"key": "os", "value": ["Linux", "Ubuntu"]},
                {"key": "pool", "value": ["lab"]},
            ],
        }  # fmt: skip
        done = await command("bots", "-count")
        counts = json.loads(done.out)
        assert counts.pop("now") and counts == {"count": 1_001, "dead": 1_000}, done
        done = await command("bots", "-count", "-dimension", "os=Linux")
        assert json.loads(done.out)["count"] == 1
        done = await command("bots", "-dimension", "os= Linux")
        assert done.code == 1 and "cannot be a value of dimension os" in done.err and done.took_s < QUICKLY_S


async def test_bots_are_deleted_until_one_cannot_be(swarming):
    async with running(tcp=True) as daemon:
        for id in ("b1", "b2", "b3", "b4"):
            bot = NativeBot(daemon.client, id)
            await bot.open()
            if id != "b3":
                await bot.close()
        command = swarming(daemon.url)
        done = await command("delete-bots", "-force", "b1", "b2")
        assert done.code == 0, done
        assert (await command("bots", "-bare")).out.split() == ["b3", "b4"]
        done = await command("delete-bots", "-force", "b3", "b4")
        assert done.code == 1 and "bot b3 is connected; terminate it first" in done.err, done
        assert done.took_s < QUICKLY_S and (await command("bots", "-bare")).out.split() == ["b3", "b4"]
        done = await command("delete-bots", "-force", "nobody")
        assert done.code == 1 and "no such bot: nobody" in done.err and done.took_s < QUICKLY_S, done
