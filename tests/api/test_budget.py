"""Large requests of many connections at once, and the memory that they may take together."""

from __future__ import annotations

import pytest
import trio

from swarmd.api.budget import COUNTED_ABOVE, Budget
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.core.errors import Busy
from swarmd.testing.harness import running
from tests.api.swarming.prpc.calls import BINARY
from tests.api.wire import JSON, connect, head, read_answer, send

SIZE = 200 << 10
TASKS = "/api/v1/tasks"
PRPC = "/prpc/swarming.v2.Tasks/GetResult"


def test_small_requests_count_for_nothing_and_large_ones_until_they_end():
    budget = Budget(3 * SIZE)
    with budget.share() as small, budget.share() as one, budget.share() as two:
        small.hold(COUNTED_ABOVE)
        assert budget.used == 0
        one.hold(SIZE)
        one.hold(SIZE // 2)
        one.hold(2 * SIZE)
        assert budget.used == 2 * SIZE
        with pytest.raises(Busy, match="large requests"):
            two.hold(SIZE + 1)
        two.hold(SIZE)
        small.hold(COUNTED_ABOVE)
        assert budget.used == 3 * SIZE
    assert budget.used == 0


@pytest.mark.parametrize("path", [TASKS, PRPC])
async def test_what_comes_beyond_it_is_told_to_come_again(path, autojump_clock):
    header = JSON if path == TASKS else BINARY
    body = b'{"tasks": [], "x": "' + b"x" * SIZE
    if path == PRPC:
        body = tasks_pb2.TaskIdRequest(task_id="1" * SIZE).SerializeToString()
    async with running() as daemon:
        daemon.app.budget = Budget(SIZE + SIZE // 2)
        async with await connect(daemon.url) as stream:
            await stream.send_all(
                head("POST", path, [header, ("Content-Length", str(len(body)))]) + body[:-1]
            )
            while daemon.app.budget.used < SIZE - COUNTED_ABOVE:
                await trio.sleep(0.01)
            refused = await send(daemon.url, "POST", path, body, (header,))
            assert refused.status == 503 and refused.error.code == "too_many_large_requests"
            small = await send(daemon.url, "POST", TASKS, b'{"tasks": []}', (JSON,))
            assert small.status != 503, "small ones go on"
            await stream.send_all(body[-1:])
            assert (await read_answer(stream, "POST")).status == 400
        assert daemon.app.budget.used == 0
        assert (await send(daemon.url, "POST", path, body, (header,))).status == 400
