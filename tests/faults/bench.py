"""A daemon that can be killed at a named point, and one call of each kind that changes something."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
import trio.testing

from swarmd.api.native import messages as m
from swarmd.client import ApiError, Client, task
from swarmd.core.ids import from_text
from swarmd.testing.bots import NativeBot
from swarmd.testing.clock import install_hold
from tests.simulate.disk import Disk
from tests.simulate.lab import Lab
from tests.simulate.network import Network, sim_client

NOTHING, EVERYTHING = "nothing", "everything"


class Bench:
    """`client` waits for a daemon that is away; `hasty` tells at once that no answer came."""

    def __init__(self, lab: Lab, net: Network) -> None:
        self.lab = lab
        self.net = net
        self.client = sim_client(net, 60.0)
        self.hasty = sim_client(net, 0.0)
        self.bot = NativeBot(self.client, "b1", dimensions={"os": ["linux"]}, slots=4)
        self.known: dict[str, Any] = {}

    async def settled(self) -> None:
        """Everything is in the file, and no call is under way."""
        await (await self.lab.up()).writer.drain()

    async def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        daemon = await self.lab.up()
        return await daemon.backend.read(lambda conn: conn.execute(sql, values).fetchall())

    async def killed(self) -> None:
        """Returns when the kill that was ordered has happened, and another daemon is up."""
        starts = self.lab.starts
        while self.lab.starts == starts or self.lab.daemon is None:
            await trio.sleep(0.1)


@asynccontextmanager
async def bench(path: Path | None) -> AsyncIterator[Bench]:
    """A running daemon on `path`; leaves with a fault when a check of the file found one."""
    install_hold(trio.lowlevel.current_clock())  # type: ignore[arg-type]
    injected: Counter[str] = Counter()
    async with trio.open_nursery() as nursery:
        net = Network(random.Random(1), nursery, injected)
        lab = Lab(Disk(path, random.Random(1), injected), net, random.Random(1), injected)
        nursery.start_soon(lab.run)
        await lab.up()
        yield Bench(lab, net)
        lab.stop()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert not lab.faults


@dataclass(frozen=True)
class Kind:
    """A call that changes something. `act` may be repeated and then gives the same answer; `effect` tells how much of
    it is there: NOTHING, EVERYTHING, or what else it found."""

    prepare: Callable[[Bench], Awaitable[None]]
    act: Callable[[Bench, Client], Awaitable[object]]
    effect: Callable[[Bench], Awaitable[str]]


async def _nothing(b: Bench) -> None:
    await trio.lowlevel.checkpoint()


def _whole(found: int, all: int) -> str:
    return NOTHING if found == 0 else EVERYTHING if found == all else f"{found} of {all}"


# ------------------------------------------------------------- submitting


async def _submit(b: Bench, client: Client) -> object:
    return await client.submit([task(argv=["a"], name="s", tags=["t"]) for _ in range(3)], request_id="one")


async def _submit_effect(b: Bench) -> str:
    [(ops, tasks, tags, requests)] = await b.rows(
        "SELECT (SELECT COUNT(*) FROM ops WHERE name = 's'), (SELECT COUNT(*) FROM tasks), "
        "(SELECT COUNT(*) FROM tags), (SELECT COUNT(*) FROM requests)"
    )
    return _whole(ops + tasks + tags + requests, 10)


async def _graph(b: Bench, client: Client) -> object:
    request = m.GraphRequest(
        tasks=[task(argv=["a"], key="a"), task(argv=["b"], key="b", after=["a"])], name="g", request_id="two"
    )
    answer = await client.submit_graph(request)
    return answer.id, answer.ids


async def _graph_effect(b: Bench) -> str:
    [counts] = await b.rows(
        "SELECT (SELECT COUNT(*) FROM graphs), (SELECT COUNT(*) FROM ops), (SELECT COUNT(*) FROM edges)"
    )
    return _whole(sum(counts), 4)


async def _open_graph(b: Bench) -> None:
    answer = await b.client.submit_graph(m.GraphRequest(tasks=[task(argv=["a"], key="a")], open=True))
    b.known["graph"] = answer.id


async def _add(b: Bench, client: Client) -> object:
    request = m.SubmitRequest(tasks=[task(argv=["b"], after=["a"]) for _ in range(2)], request_id="three")
    return (await client.submit_request(request, b.known["graph"])).ids


async def _add_effect(b: Bench) -> str:
    [counts] = await b.rows(
        "SELECT (SELECT COUNT(*) FROM ops) - 1, (SELECT COUNT(*) FROM edges), (SELECT alive - 1 FROM graphs)"
    )
    return _whole(sum(counts), 6)


async def _close(b: Bench, client: Client) -> object:
    return (await client.close_graph(b.known["graph"])).open


async def _close_effect(b: Bench) -> str:
    return EVERYTHING if await b.rows("SELECT 1 FROM graphs WHERE is_open = 0") else NOTHING


# ------------------------------------------------------------- changing


async def _three_tasks(b: Bench) -> None:
    b.known["ids"] = await b.client.submit([task(argv=["a"], dimensions={"os": ["amiga"]}) for _ in range(3)])


async def _cancel(b: Bench, client: Client) -> object:
    return (await client.cancel(b.known["ids"])).matched


async def _cancel_effect(b: Bench) -> str:
    return _whole((await b.rows("SELECT COUNT(*) FROM tasks WHERE state = 13"))[0][0], 3)


async def _canceled_tasks(b: Bench) -> None:
    await _three_tasks(b)
    await b.client.cancel(b.known["ids"])


async def _retry(b: Bench, client: Client) -> object:
    return (await client.retry(b.known["ids"], request_id="four")).ids


async def _retry_effect(b: Bench) -> str:
    return _whole((await b.rows("SELECT COUNT(*) FROM ops WHERE retry_of IS NOT NULL"))[0][0], 3)


async def _set_after(b: Bench, client: Client) -> object:
    first, second, third = b.known["ids"]
    return len((await client.set_after(third, [first, second])).after)


async def _set_after_effect(b: Bench) -> str:
    [(edges, blocked)] = await b.rows(
        "SELECT (SELECT COUNT(*) FROM edges), (SELECT COUNT(*) FROM tasks WHERE state = 1)"
    )
    return _whole(edges + blocked, 3)


# ------------------------------------------------------------- bots


async def _open_bot(b: Bench) -> None:
    await b.bot.open()


async def _order(b: Bench, client: Client) -> object:
    return (await client.order_bot("b1", m.BotOrderRequest(drain=True, quarantine="smoke"))).status


async def _order_effect(b: Bench) -> str:
    [(draining, why)] = await b.rows("SELECT draining, quarantined FROM bots")
    return _whole(draining + (why == "smoke"), 2)


async def _gone_bot(b: Bench) -> None:
    await b.bot.open()
    await b.bot.close()


async def _delete(b: Bench, client: Client) -> object:
    try:
        await client.delete_bot("b1")
    except ApiError as error:  # the second time
        assert error.code == "unknown_bot"
    return "gone"


async def _delete_effect(b: Bench) -> str:
    return NOTHING if await b.rows("SELECT 1 FROM bots") else EVERYTHING


async def _open(b: Bench, client: Client) -> object:
    request = m.SessionRequest(session_key="k" * 8, bot_key="b" * 16, dimensions={"os": ["linux"]})
    return (await client.open_session("b1", request)).session


async def _open_effect(b: Bench) -> str:
    [counts] = await b.rows(
        "SELECT (SELECT COUNT(*) FROM bots), (SELECT COUNT(*) FROM sessions WHERE ended_wall IS NULL)"
    )
    return _whole(sum(counts), 2)


async def _running(b: Bench) -> None:
    """Two tasks run on the bot."""
    await b.bot.open()
    await b.client.submit([task(argv=["a"], bot_retries=0) for _ in range(2)])
    for offer in await b.bot.take(2):
        b.bot.start(offer.attempt)
    await b.bot.sync()
    b.known["attempts"] = list(b.bot.running)


async def _close_session(b: Bench, client: Client) -> object:
    await client.close_session(b.bot.session)
    return "closed"


async def _close_session_effect(b: Bench) -> str:
    [counts] = await b.rows(
        "SELECT (SELECT COUNT(*) FROM sessions WHERE ended_wall IS NOT NULL), "
        "(SELECT COUNT(*) FROM attempts WHERE state = 11), (SELECT COUNT(*) FROM tasks WHERE state = 16)"
    )
    return _whole(sum(counts), 5)


async def _finish(b: Bench, client: Client) -> object:
    bot = NativeBot(client, "b1")
    request = m.SyncRequest(
        seq=b.bot.seq + 1, wait_s=0.0,
        finished=[m.FinishedAttempt(attempt=a, ok=True, exit_code=0) for a in b.known["attempts"]],
        output=[m.OutputPiece(attempt=a, stream="stdout", offset=0, data=b"hello") for a in b.known["attempts"]],
    )  # fmt: skip
    answer = await bot.client.sync(b.bot.session, request)
    return answer.seq, answer.offers, answer.orders


async def _finish_effect(b: Bench) -> str:
    [counts] = await b.rows(
        "SELECT (SELECT COUNT(*) FROM tasks WHERE state = 10 AND ok = 1), "
        "(SELECT COUNT(*) FROM attempts WHERE state = 10), (SELECT COUNT(*) FROM output)"
    )
    return _whole(sum(counts), 6)


async def _append(b: Bench, client: Client) -> object:
    return (await client.append_output(b.known["attempts"][0], "stderr", 0, b"x" * 5_000)).end


async def _append_effect(b: Bench) -> str:
    attempt = from_text(b.known["attempts"][0])
    [(size,)] = await b.rows("SELECT COALESCE(SUM(size), 0) FROM output WHERE attempt = ?", attempt)
    [(streams,)] = await b.rows("SELECT streams FROM attempts WHERE id = ?", attempt)
    return _whole(size + 5_000 * ("5000" in streams), 10_000)


async def _put(b: Bench, client: Client) -> object:
    return (await client.upload_bytes(b"blob" * 1_000)).sha256


async def _put_effect(b: Bench) -> str:
    # What a cut-off or doubled upload left behind is being removed, or is removed at the next start.
    rows = await b.rows("SELECT complete, size FROM blobs WHERE complete = 1")
    return EVERYTHING if rows == [(1, 4_000)] else NOTHING if not rows else str(rows)


KINDS = {
    "submit": Kind(_nothing, _submit, _submit_effect),
    "graph": Kind(_nothing, _graph, _graph_effect),
    "add": Kind(_open_graph, _add, _add_effect),
    "close": Kind(_open_graph, _close, _close_effect),
    "cancel": Kind(_three_tasks, _cancel, _cancel_effect),
    "retry": Kind(_canceled_tasks, _retry, _retry_effect),
    "set_after": Kind(_three_tasks, _set_after, _set_after_effect),
    "order": Kind(_open_bot, _order, _order_effect),
    "delete": Kind(_gone_bot, _delete, _delete_effect),
    "open_session": Kind(_nothing, _open, _open_effect),
    "close_session": Kind(_running, _close_session, _close_session_effect),
    "sync with finish": Kind(_running, _finish, _finish_effect),
    "output append": Kind(_running, _append, _append_effect),
    "blob put": Kind(_nothing, _put, _put_effect),
}
