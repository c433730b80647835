"""A conversation as it was recorded with another server: the same requests, byte for byte, and the same answers.

Ids are mapped to those of the record, moments are shifted by the time between both. What the daemon deliberately tells
otherwise is named at its place.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from swarmd import __version__
from swarmd.api.swarming.prpc.codec import JSON_PREFIX
from swarmd.core.ids import to_text
from swarmd.testing import Lab
from tests.api.swarming.prpc.calls import BINARY, JSON, call, fault
from tests.api.swarming.prpc.golden import BOT, COMPLETED, GOLDEN, NEW_TASK, PENDING, REQUEST
from tests.api.swarming.services.client import Answer

TASKS, BOTS, SWARMING = "swarming.v2.Tasks", "swarming.v2.Bots", "swarming.v2.Swarming"
ID, RUN, UNKNOWN, TERMINATION = "7b24c0ea00abcd10", "7b24c0ea00abcd11", "7b24c0ea00ffff10", "7b24c0ff00123410"
RECORD = {golden.name: golden for golden in GOLDEN}
CREATED = datetime(2026, 10, 5, 12, tzinfo=UTC)


class Record:
    """Makes the requests of the record, and tells the answers in its words."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.words: dict[str, str] = {}  # of the daemon, by those of the record
        self.shift = timedelta()

    async def json(self, service: str, method: str, request: Answer) -> Any:
        body = json.dumps(request)
        for recorded, own in self.words.items():
            body = body.replace(recorded, own)
        answer = await call(self.lab.url, f"{service}/{method}", body.encode(), *JSON)
        assert answer.headers["x-prpc-grpc-code"] == "0" and answer.body.startswith(JSON_PREFIX), answer
        return self.told(json.loads(answer.body.removeprefix(JSON_PREFIX)))

    async def binary(self, method: str, request: bytes) -> bytes:
        for recorded, own in self.words.items():
            request = request.replace(recorded.encode(), own.encode())
        answer = await call(self.lab.url, f"{TASKS}/{method}", request, BINARY)
        assert answer.headers["x-prpc-grpc-code"] == "0", answer
        return answer.body

    def told(self, answer: Any, name: str = "") -> Any:
        if isinstance(answer, dict):
            # The bot of the record cost nothing.
            return {key: self.told(value, key) for key, value in answer.items() if key != "costsUsd"}
        if isinstance(answer, list):
            return [self.told(value, name) for value in answer]
        if name.endswith("Ts") or name == "now":
            moment = datetime.fromisoformat(answer) + self.shift
            return moment.isoformat(timespec="milliseconds").replace(".000", "").replace("+00:00", "Z")
        own = {own: recorded for recorded, own in self.words.items()}
        return (
            own.get(answer, "1" if answer == __version__ else answer) if isinstance(answer, str) else answer
        )

    def request_of(self, name: str) -> Answer:
        return RECORD[f"{name} request"].json

    def bytes_of(self, name: str) -> bytes:
        binary = RECORD[name].binary
        assert binary is not None
        return bytes.fromhex(binary)


@pytest.mark.swarmd(config={"swarming": {"groups": [{"bots": ["bench-*"], "dimensions": {"pool": ["lab"]}}]}})
async def test_the_daemon_answers_as_it_was_recorded(swarmd: Lab):
    record = Record(swarmd)
    # A bot, so that the task has somebody to wait for. The command never asks to wait for capacity.
    bot = swarmd.swarming_bot("bench-01", dimensions={"os": ["Ubuntu", "Linux"]})
    bot.version = "abc123"
    await bot.handshake()
    bot.dimensions.pop("bot_config", None)

    made = json.loads((await new_task(swarmd, record.bytes_of("NewTask request"))).removeprefix(JSON_PREFIX))
    record.words[ID], record.words[RUN] = made["taskId"], made["taskId"][:-1] + "1"
    record.shift = CREATED - datetime.fromisoformat(made["request"]["createdTs"])
    assert record.told(made) == RECORD["NewTask"].json
    # The same UUID: the same task, also in the other encoding.
    assert await record.json(TASKS, "NewTask", NEW_TASK) == RECORD["NewTask"].json
    assert await record.json(TASKS, "GetRequest", record.request_of("GetRequest")) == REQUEST
    assert await record.json(TASKS, "GetResult", {"taskId": ID}) == PENDING

    await swarmd.sleep(1.5)
    task = await bot.take()
    assert task is not None
    await task.start()
    await swarmd.sleep(1.5)
    await task.end(1, b"hi\n", duration=1.25)
    await swarmd.sleep(2)

    assert await record.json(TASKS, "GetResult", {"taskId": RUN}) == COMPLETED
    batch = await record.json(TASKS, "BatchGetResult", record.request_of("BatchGetResult"))
    assert batch == RECORD["BatchGetResult"].json
    assert await record.json(TASKS, "GetStdout", record.request_of("GetStdout")) == RECORD["GetStdout"].json
    output = await record.binary("GetStdout", record.bytes_of("GetStdout request"))
    assert output == record.bytes_of("GetStdout")
    late = await record.binary("CancelTask", record.bytes_of("CancelTask request"))
    assert late == record.bytes_of("CancelTask, too late")
    listed = await record.json(TASKS, "ListTasks", record.request_of("ListTasks"))
    assert listed == {"items": [COMPLETED], "now": RECORD["ListTasks"].json["now"]}
    counted = await record.json(TASKS, "CountTasks", {"start": "2010-01-01T00:00:00Z", "state": "QUERY_ALL"})
    assert counted == {**RECORD["CountTasks"].json, "count": 1}

    answer = await call(swarmd.url, f"{TASKS}/GetResult", json.dumps({"taskId": UNKNOWN}).encode(), *JSON)
    assert fault(answer, 5, 404) == "no such task" and answer.body == b"no such task\n"

    permissions = await record.json(SWARMING, "GetPermissions", record.request_of("GetPermissions"))
    assert permissions == RECORD["GetPermissions"].json

    [told] = (await record.json(BOTS, "ListBots", record.request_of("ListBots")))["items"]
    session = to_text(
        swarmd.daemon.engine.bots["bench-01"].session.id
    )  # the daemon's own, and addresses are not kept
    same = set(BOT) - {"externalIp", "sessionId", "state", "firstSeenTs", "lastSeenTs"}
    assert told["sessionId"] == session and set(told) == set(BOT) - {"externalIp"}
    assert {key: told[key] for key in same} == {key: BOT[key] for key in same}

    ending = await record.json(BOTS, "TerminateBot", record.request_of("TerminateBot"))
    assert set(ending) == {"taskId"}
    record.words[TERMINATION] = ending["taskId"]
    again = await record.json(BOTS, "TerminateBot", record.request_of("TerminateBot"))
    assert again == RECORD["TerminateBot"].json
    result = await record.json(TASKS, "GetResult", {"taskId": TERMINATION})
    assert (result["name"], result["state"]) == ("Terminate bench-01: swap disk", "PENDING")


async def new_task(lab: Lab, request: bytes) -> bytes:
    """Asked in binary, answered in JSON."""
    answer = await call(lab.url, f"{TASKS}/NewTask", request, BINARY, JSON[1])
    assert answer.headers["x-prpc-grpc-code"] == "0", answer
    return answer.body


async def test_tasks_are_canceled_as_it_was_recorded(swarmd: Lab):
    record = Record(swarmd)
    bot = swarmd.bot("b1", dimensions={"pool": ["lab"], "os": ["Linux"]})
    await bot.open()
    for name, runs in (("CancelTask, pending", False), ("CancelTask, running", True)):
        made = await record.json(TASKS, "NewTask", {**NEW_TASK, "requestUuid": name})
        record.words[ID] = made["taskId"]
        if runs:
            [offer] = await bot.take()
            bot.start(offer.attempt)
            await bot.sync()
        canceled = await record.binary("CancelTask", record.bytes_of("CancelTask request"))
        assert canceled == record.bytes_of(name)
    made = [await record.json(TASKS, "NewTask", {**NEW_TASK, "requestUuid": f"{n}"}) for n in range(2)]
    record.shift = CREATED - datetime.fromisoformat(made[0]["request"]["createdTs"])
    await swarmd.sleep(5)
    canceled = await record.json(TASKS, "CancelTasks", record.request_of("CancelTasks"))
    assert canceled == RECORD["CancelTasks"].json
