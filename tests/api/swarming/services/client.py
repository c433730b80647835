"""A client of the services, in JSON: requests and answers as dictionaries."""

from __future__ import annotations

import json
from typing import Any

from swarmd.api.swarming.prpc.negotiation import Encoding
from swarmd.core.ids import to_text
from swarmd.testing import Lab
from tests.api.swarming.prpc.calls import JSON, JSON_PREFIX, call, fault

Answer = dict[str, Any]
STATUS = {3: 400, 5: 404, 7: 403, 8: 429, 9: 400, 12: 501, 14: 503, 16: 401}


async def rpc(lab: Lab, method: str, **fields: Any) -> Answer:
    """`method` is `Tasks/NewTask`."""
    answer = await call(lab.url, f"swarming.v2.{method}", json.dumps(fields).encode(), *JSON)
    assert (answer.status, answer.headers["x-prpc-grpc-code"]) == (200, "0"), answer
    assert answer.headers["content-type"] == Encoding.JSON.value
    return json.loads(answer.body.removeprefix(JSON_PREFIX))


async def refused(lab: Lab, code: int, method: str, **fields: Any) -> str:
    """Makes a call that must be refused with `code`; gives the text."""
    answer = await call(lab.url, f"swarming.v2.{method}", json.dumps(fields).encode(), *JSON)
    return fault(answer, code, STATUS[code])


def properties(*command: str, pool: str = "default", **fields: Any) -> Answer:
    return {
        "command": list(command or ("work",)), "dimensions": [{"key": "pool", "value": pool}],
        "executionTimeoutSecs": 3600, "gracePeriodSecs": 30, **fields,
    }  # fmt: skip


def slice(
    *command: str, expiration: int = 3600, wait: bool = True, pool: str = "default", **fields: Any
) -> Answer:
    return {
        "properties": properties(*command, pool=pool, **fields), "expirationSecs": expiration,
        "waitForCapacity": wait,
    }  # fmt: skip


def request(*slices: Answer, **fields: Any) -> Answer:
    return {
        "name": "a task",
        "priority": 200,
        "user": "alice",
        "taskSlices": list(slices or (slice(),)),
        **fields,
    }


async def new(lab: Lab, *slices: Answer, **fields: Any) -> str:
    """The id of a new task."""
    return (await rpc(lab, "Tasks/NewTask", **request(*slices, **fields)))["taskId"]


async def result(lab: Lab, id: str, **fields: Any) -> Answer:
    return await rpc(lab, "Tasks/GetResult", taskId=id, **fields)


def native(id: str) -> str:
    """The id of the operation behind a task id, as the native API writes it."""
    from swarmd.api.swarming.ids import parse

    parsed = parse(id)
    assert parsed is not None, id
    return to_text(parsed[0])
