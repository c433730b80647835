"""LUCI Swarming: its clients, which call methods in binary protobuf, as the `swarming` command does."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

from swarmd.api.swarming.ids import parse
from swarmd.api.swarming.proto import common_pb2, tasks_pb2
from swarmd.core.ids import to_text
from swarmd.testing import Lab
from tests.api.swarming.prpc.calls import TASKS, call, message
from tests.conformance.adapters import ClientAdapter, ClientCan, Wish

WORDS = {"BLOCKED": "PENDING", "SKIPPED": "CANCELED"}  # what this wire has no word for


class SwarmingClientAdapter(ClientAdapter):
    protocol = "swarming"
    cannot: ClassVar[Mapping[ClientCan, str]] = {
        ClientCan.SET_BOT_RETRIES: "a request says nothing of retries: a task whose bot died has ended",
    }

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._numbers = itertools.count(1)

    async def _call(self, method: str, request: Any, answer: Any) -> Any:
        return message(await call(self.lab.url, f"{TASKS}/{method}", request), answer)

    async def submit(self, wish: Wish) -> str:
        properties = tasks_pb2.TaskProperties(
            command=wish.argv, dimensions=[common_pb2.StringPair(key="pool", value="default")],
            execution_timeout_secs=int(wish.hard_limit_s), grace_period_secs=int(wish.grace_s),
        )  # fmt: skip
        request = tasks_pb2.NewTaskRequest(
            name="told in a story", priority=200, request_uuid=f"story {next(self._numbers)}",
            task_slices=[
                tasks_pb2.TaskSlice(properties=properties, expiration_secs=86_400, wait_for_capacity=True)
            ],
        )  # fmt: skip
        made = await self._call("NewTask", request, tasks_pb2.TaskRequestMetadataResponse)
        again = await self._call("NewTask", request, tasks_pb2.TaskRequestMetadataResponse)
        assert again.task_id == made.task_id, "the same request again is the same task"
        return made.task_id

    async def operation(self, id: str) -> str:
        parsed = parse(id)
        assert parsed is not None, id
        return to_text(parsed[0])

    async def _result(self, id: str) -> tasks_pb2.TaskResultResponse:
        request = tasks_pb2.BatchGetResultRequest(task_ids=[id])
        [one] = (await self._call("BatchGetResult", request, tasks_pb2.BatchGetResultResponse)).results
        assert one.task_id == one.result.task_id == id
        return one.result

    async def state(self, id: str) -> str:
        result = await self._result(id)
        word = common_pb2.TaskState.Name(result.state)
        return f"{word}, failure" if result.failure and word == "COMPLETED" else word

    def word_for(self, state: str, ok: bool | None) -> str:
        word = WORDS.get(state, state)
        return f"{word}, failure" if word == "COMPLETED" and not ok else word

    async def cancel(self, id: str, *, kill: bool) -> None:
        request = tasks_pb2.TaskCancelRequest(task_id=id, kill_running=kill)
        await self._call("CancelTask", request, tasks_pb2.CancelResponse)

    async def output(self, id: str) -> bytes:
        request = tasks_pb2.TaskIdWithOffsetRequest(task_id=id)
        return (await self._call("GetStdout", request, tasks_pb2.TaskOutputResponse)).output

    async def exit_code(self, id: str) -> int | None:
        return (await self._result(id)).exit_code
