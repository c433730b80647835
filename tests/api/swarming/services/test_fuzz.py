"""Requests of all methods, mutated: none may be answered so that clients repeat it for minutes, nor be noticed."""

from __future__ import annotations

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import trio
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message

from swarmd.api.swarming.methods import BOTS, DISCOVERY, METHODS, SWARMING, TASKS
from swarmd.api.swarming.prpc.codec import JSON_PREFIX
from swarmd.testing import Lab
from tests.api.swarming.prpc.calls import BINARY, JSON, call
from tests.api.swarming.services.client import Answer, native, new, request, result, rpc, slice

SEED = int(os.environ.get("SWARMD_FUZZ_SEED") or random.randrange(2**32))
CALLS = int(os.environ.get("SWARMD_FUZZ_CALLS") or 600)
REPEATED = {"2", "4", "13", "14"}  # the codes that make clients try for minutes
MAX_ITEMS = 1_200

TEXTS = (
    "", " ", "\0", "a\0b", "\ud7ff\U0010ffff", "ü", "x" * 5_000, "a:b", ":", ":b", "a|b", "a:b|b", "10", "a:",
    "a:" + "|".join(map(str, range(64))), "a:" + "|" * 3_000, "-" * 60 + "!", "a" * 60 + "\n", "../x", "/", "a//b",
    "00", "f" * 17, "f" * 16, "٣٤", "none", "bot", "id:b1", "swarming.terminate:1", "projects/a/topics/b",
    "https://[::1", "http://127.0.0.1:99999", "${ISOLATED_OUTDIR}/x", "%", "_", "a:%", "'; --", "\ufeff{}",
    "pool:default|", "a:b:c:default", "\u202e",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 30, 100, 255, 1_000, 1_001, 86_400, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63))
SECONDS = (
    0,
    -1,
    1_262_304_000,
    1_796_000_000,
    253_402_300_799,
    253_402_300_800,
    -62_135_596_801,
    2**63 - 1,
    -(2**63),
)


def seeds(id: str, finished: str, bot: str) -> dict[str, list[Answer]]:
    """Requests that are in order, for each method."""
    since = {"start": "2010-01-01T00:00:00Z"}
    lists = [
        {"state": "QUERY_ALL", "limit": 1},
        {"tags": ["pool:default"], "state": "QUERY_ALL", **since},
        {},
    ]
    wide = [{"key": "pool", "value": "default"}, {"key": "k", "value": "1|2"}]
    whole = slice(
        "a", "b", env=[{"key": "A", "value": "b"}], outputs=["x/y"], idempotent=True, ioTimeoutSecs=60, relativeCwd="d",
        containment={"containmentType": "NONE"},
    )  # fmt: skip
    special = slice(
        "a", envPrefixes=[{"key": "P", "value": ["x"]}], caches=[{"name": "c", "path": "p"}], secretBytes="aGkK",
        casInputRoot=None, wait=False,
    )  # fmt: skip
    return {
        f"{TASKS}/NewTask": [
            request(), request(whole, tags=["a:b"], evaluateOnly=True), request(special, requestUuid="u"),
            request(slice("x"), slice("y", dimensions=wide), parentTaskId=id, resultdb={},
                    botPingToleranceSecs=60, realm="a:b", serviceAccount="none"),
        ],
        f"{TASKS}/GetRequest": [{"taskId": id}],
        f"{TASKS}/GetResult": [{"taskId": finished, "includePerformanceStats": True}],
        f"{TASKS}/BatchGetResult": [{"taskIds": [id, finished], "includePerformanceStats": True}],
        f"{TASKS}/ListTaskStates": [{"taskId": [id, finished]}],
        f"{TASKS}/GetStdout": [{"taskId": finished, "offset": "1", "length": "2"}],
        f"{TASKS}/CancelTask": [{"taskId": finished, "killRunning": True}],
        f"{TASKS}/ListTasks": lists,
        f"{TASKS}/ListTaskRequests": lists,
        f"{TASKS}/CountTasks": [{"state": "QUERY_ALL", **since, "end": "2030-01-01T00:00:00Z"}],
        f"{TASKS}/CancelTasks": [{"tags": ["nobody:has"], "limit": 7, **since}],
        f"{BOTS}/GetBot": [{"botId": bot}],
        f"{BOTS}/ListBots": [{"limit": 1, "isDead": "FALSE"}, {"dimensions": [{"key": "pool", "value": "default|x"}]}],
        f"{BOTS}/CountBots": [{}],
        f"{BOTS}/GetBotDimensions": [{"pool": "default"}],
        f"{BOTS}/DeleteBot": [],
        f"{BOTS}/ListBotEvents": [{"botId": bot, "limit": 1}],
        f"{BOTS}/ListBotTasks": [
            {"botId": bot, "state": "QUERY_ALL", "limit": 1},
            {"botId": bot, "state": "QUERY_ALL", "sort": "QUERY_STARTED_TS", "limit": 1},
        ],
        f"{BOTS}/TerminateBot": [{"botId": bot, "reason": "swap disk"}],
        f"{SWARMING}/GetDetails": [{}],
        f"{SWARMING}/GetPermissions": [{"taskId": id, "tags": ["pool:default"]}],
        f"{SWARMING}/GetToken": [],
        f"{DISCOVERY}/Describe": [{}],
    }  # fmt: skip


def request_type(key: str) -> type[Message]:
    service, _, method = key.partition("/")
    found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
    return message_factory.GetMessageClass(found.input_type)


class Mutator:
    """Changes messages. What it learned, such as ids and cursors, it puts where it does not belong."""

    def __init__(self, dice: random.Random, texts: list[str]) -> None:
        self.dice = dice
        self.texts = texts

    def change(self, message: Any) -> None:
        dice = self.dice
        field = dice.choice(message.DESCRIPTOR.fields)
        if field.full_name.startswith("google.protobuf.Timestamp"):
            message.seconds, message.nanos = (
                dice.choice(SECONDS),
                dice.choice((0, -1, 1, 10**9 - 1, 10**9, -(2**31))),
            )
            return
        if dice.random() < 0.1:
            message.ClearField(field.name)
        elif field.is_repeated:
            self._change_list(getattr(message, field.name), field)
        elif field.type == F.TYPE_MESSAGE:
            inner = getattr(message, field.name)
            inner.SetInParent()
            if inner.DESCRIPTOR.fields:
                self.change(inner)
        else:
            setattr(message, field.name, self._value(field))

    def _change_list(self, items: Any, field: Any) -> None:
        dice = self.dice
        count = dice.choice((1, 1, 1, 2, 70, MAX_ITEMS))
        if field.type == F.TYPE_MESSAGE:
            if items and dice.random() < 0.7:
                self.change(dice.choice(items))
            elif items:
                items.extend([dice.choice(items)] * count)
            else:
                self.change(items.add())
        elif count == MAX_ITEMS:  # all of them nearly alike
            items.extend(f"7b24c0ea00{number:06x}" for number in range(dice.choice((999, 1_000, 1_001))))
        else:
            items.extend(self._value(field) for _ in range(count))

    def _value(self, field: Any) -> Any:
        dice = self.dice
        if field.type == F.TYPE_STRING:
            return dice.choice(self.texts if dice.random() < 0.4 else TEXTS)
        if field.type == F.TYPE_BYTES:
            return dice.randbytes(dice.choice((0, 1, 20_481)))
        if field.type == F.TYPE_BOOL:
            return dice.random() < 0.5
        bits = 64 if field.type == F.TYPE_INT64 else 32
        return dice.choice([number for number in NUMBERS if -(1 << bits - 1) <= number < 1 << bits - 1])


def texts_of(answer: Any) -> Iterator[str]:
    """Ids and cursors of an answer."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if isinstance(value, str) and name in ("cursor", "taskId", "runId", "botId", "sessionId"):
                yield value
            yield from texts_of(value)
    elif isinstance(answer, list):
        for one in answer:
            yield from texts_of(one)


async def test_whatever_is_asked_is_answered_for_good(swarmd: Lab, caplog):
    print(f"SWARMD_FUZZ_SEED={SEED}")
    dice = random.Random(SEED)
    bot = swarmd.bot("b1")
    await bot.open()
    finished, own = await new(swarmd, name="ends"), await new(swarmd, name="of the well-behaved")
    await bot.run_one()
    known = seeds(own, finished, "b1")
    assert set(known) == {method.key for method in METHODS}
    mutator = Mutator(dice, [native(own), "b1"])
    for key, requests in known.items():
        for fields in requests:
            answer = await call(
                swarmd.url, key, json_format.MessageToJson(filled(key, fields)).encode(), *JSON
            )
            assert answer.headers["x-prpc-grpc-code"] == "0", (key, fields, answer)
            told = json.loads(answer.body.removeprefix(JSON_PREFIX))
            mutator.texts += list(texts_of(told))[:20]
    seen: Counter[str] = Counter()
    noticed = 0

    async def behave() -> None:
        nonlocal noticed
        while True:
            again = await rpc(
                swarmd, "Tasks/NewTask", **request(name="again", requestUuid="well", priority=255)
            )
            assert (await result(swarmd, again["taskId"]))["name"] == "again"
            assert (await rpc(swarmd, "Bots/CountBots"))["count"] >= 1
            noticed += 1
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(behave)
        for _ in range(CALLS):
            key = dice.choice(list(known))
            message = filled(key, dice.choice(known[key] or [{}]))
            for _ in range(dice.choice((1, 1, 2, 5)) if message.DESCRIPTOR.fields else 0):
                mutator.change(message)
            body, headers = message.SerializeToString(), (BINARY,)
            try:
                if dice.random() < 0.4:
                    body, headers = json_format.MessageToJson(message).encode(), JSON
            except json_format.SerializeToJsonError:  # JSON has no word for such a moment
                pass
            answer = await call(swarmd.url, key, body, *headers)
            code = answer.headers["x-prpc-grpc-code"]
            assert code not in REPEATED and code.isdigit(), (key, str(message)[:2_000], answer)
            assert code == "0" or 0 < len(answer.body) < 2_000, (
                key,
                str(message)[:2_000],
                answer.body[:3_000],
            )
            seen[code] += 1
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert seen["0"] > CALLS / 10 and seen["3"] > CALLS / 10, seen
    assert noticed > CALLS / 20
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def filled(key: str, fields: Answer) -> Message:
    return json_format.ParseDict(fields, request_type(key)())
