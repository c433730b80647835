"""What a lease carries there and back.

Source: docs/remoteworkers.md, "What a lease carries" and "What each end becomes".
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import trio
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from google.rpc import status_pb2

from swarmd.api.remoteworkers.offering import MAX_PAYLOAD_BYTES
from swarmd.api.remoteworkers.payloads import ACTION_RESULT, COMMAND_OUTPUTS, COMMAND_RESULT, report_of
from swarmd.api.remoteworkers.proto import command_pb2
from swarmd.api.remoteworkers.proto.bots_pb2 import Lease
from swarmd.api.remoteworkers.proto.worker_pb2 import Worker
from swarmd.api.remoteworkers.worker import MOST_READ, capacity_text, dimensions
from swarmd.client import task
from swarmd.core.model import Payload
from swarmd.testing import Lab
from swarmd.testing.remote_bots import command_of

from .worlds import CONFIG, Timed, came, one, with_rules

pytestmark = pytest.mark.swarmd(config=CONFIG)
ACTION = "type.googleapis.com/build.bazel.remote.execution.v2.Action"
MOST = 4 << 20  # bytes of a message that clients of gRPC take
ACTIONS = with_rules(payloads=[ACTION, "command"])


def any_of(type: str, value: bytes) -> any_pb2.Any:
    return any_pb2.Any(type_url=type, value=value)


def command_result(code: int = 0, **fields: Any) -> any_pb2.Any:
    return any_of(COMMAND_RESULT, command_pb2.CommandResult(exit_code=code, **fields).SerializeToString())


# ------------------------------------------------------------------ there


async def test_each_task_of_an_array_knows_which_one_it_is(swarmd: Lab):
    for fields in ({"array": {"first": 4, "last": 4}}, {"lines": ["a line"]}):
        [id] = await swarmd.client.submit([task(argv=["x"], **fields)])
        bot = await came(swarmd)
        env = {v.name: v.value for v in command_of(bot.leases[0]).inputs.environment_variables}
        known = {"SWARMD_INDEX": "4"} if "array" in fields else {"SWARMD_INDEX": "0", "SWARMD_LINE": "a line"}
        assert {k: v for k, v in env.items() if k in ("SWARMD_INDEX", "SWARMD_LINE")} == known
        bot.complete(bot.leases[0].id)
        await bot.update()
        await swarmd.check_state(id, "COMPLETED")


async def test_limits_are_in_the_command(swarmd: Lab):
    bot, _, _ = await one(swarmd, hard_limit_s=604_800, io_limit_s=0.25, grace_s=0, started=False)
    limits = command_of(bot.leases[0]).timeouts
    assert limits.execution.seconds == 604_800
    assert limits.idle == duration_pb2.Duration(nanos=250_000_000)
    assert limits.HasField("shutdown") and limits.shutdown.ToMilliseconds() == 0


def action(size: int) -> Payload:
    return Payload(ACTION, b"x" * size)


@pytest.mark.swarmd(config=ACTIONS)
async def test_an_answer_is_never_longer_than_what_clients_take(swarmd: Lab):
    """Such a one would be refused by the bot's own gRPC, the next time too, until its session had ended."""
    ids = [await swarmd.submit(payload=action(1 << 20)) for _ in range(4)]
    largest = await swarmd.submit(payload=action(MAX_PAYLOAD_BYTES))
    bot = await came(swarmd, capacity=64)
    for id in (*ids, largest):
        [lease] = bot.leases
        assert bot.session.ByteSize() < MOST
        await swarmd.check_attempts(id, "OFFERED")
        bot.complete(lease.id)
        await bot.update()
    assert not bot.leases
    for id in (*ids, largest):
        await swarmd.check_state(id, "COMPLETED")


@pytest.mark.swarmd(config=ACTIONS)
async def test_what_has_no_room_in_an_answer_goes_back_and_to_another_bot(swarmd: Lab):
    sizes = (100, 100, MAX_PAYLOAD_BYTES, 1 << 20, 100)  # the first two are no sign of what comes
    ids = await swarmd.client.submit([task(payload=action(size), priority=n) for n, size in enumerate(sizes)])
    first = await came(swarmd, "w1", capacity=64)
    assert [len(lease.payload.value) for lease in first.leases] == [100, 100, MAX_PAYLOAD_BYTES]
    assert first.session.ByteSize() < MOST
    await first.update()
    assert len(first.leases) == 3 and first.session.version == "3"
    await swarmd.check_attempts(ids[3], "DROPPED")
    second = await came(swarmd, "w2")
    await swarmd.check_attempts(ids[3], "DROPPED", "OFFERED")
    for lease in first.leases:
        first.complete(lease.id)
    await first.update()
    assert [len(lease.payload.value) for lease in first.leases] == [100]
    assert len(second.leases) == 1


@pytest.mark.swarmd(config=ACTIONS)
async def test_a_wake_for_what_has_no_room_is_passed_on(swarmd: Lab):
    await swarmd.submit_many(2, payload=action(10))
    busy = await came(swarmd, "w2", capacity=3)
    idle = await came(swarmd, "w1", capacity=3)
    assert (len(busy.leases), len(idle.leases)) == (2, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy.update, 15)
        nursery.start_soon(idle.update, 15)
        await swarmd.sleep(1)
        await swarmd.submit_many(2, payload=action(1 << 20))  # both wake the one that has less to do
        await swarmd.sleep(0.1)
        assert (len(busy.leases), len(idle.leases)) == (3, 1)


@pytest.mark.swarmd(config=ACTIONS)
async def test_who_is_full_of_what_its_leases_carry_waits_for_their_end(swarmd: Lab):
    ids = await swarmd.submit_many(2, payload=action(1 << 20))
    bot = await came(swarmd, capacity=3)
    with Timed() as took:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.update, 15)
            await swarmd.sleep(2)
            await swarmd.check_state(ids[1], "PENDING")
            await swarmd.client.cancel([ids[0]], kill=True)
    assert took.s == pytest.approx(2, abs=0.01) and not bot.leases
    await bot.update()
    await swarmd.check_attempts(ids[1], "OFFERED")


@pytest.mark.swarmd(config=ACTIONS)
async def test_a_message_of_the_submitter_s_own_goes_there_and_comes_back_unchanged(swarmd: Lab):
    data = bytes(range(256)) * 3
    id = await swarmd.submit(payload=Payload(ACTION, data))
    bot = await came(swarmd)
    [lease] = bot.leases
    assert (lease.payload.type_url, lease.payload.value) == (ACTION, data)
    await bot.update()
    bot.complete(lease.id, result=any_of("type.googleapis.com/x.Result", b"\x00\xff"))
    await bot.update()
    details = await swarmd.check_state(id, "COMPLETED")
    assert details.ok and details.exit_code is None
    assert details.attempts[0].payload == Payload("type.googleapis.com/x.Result", b"\x00\xff")
    assert not bot.leases


@pytest.mark.swarmd(config=ACTIONS)
async def test_a_message_that_is_too_long_for_a_lease_ends_its_task_and_the_next_one_is_given(swarmd: Lab):
    long = await swarmd.submit(payload=Payload(ACTION, bytes((3 << 20) + 1)))
    other = await swarmd.submit("make")
    bot = await came(swarmd)
    details = await swarmd.check_state(long, "CLIENT_ERROR")
    assert "3145729 bytes" in details.reason
    if not bot.leases:
        await bot.update()
    [lease] = bot.leases
    assert list(command_of(lease).inputs.arguments) == ["make"]
    await swarmd.check_attempts(other, "OFFERED")


# ------------------------------------------------------------------ back


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        (1, "COMPLETED", "CANCELLED: why"),
        (2, "COMPLETED", "UNKNOWN: why"),
        (3, "CLIENT_ERROR", "INVALID_ARGUMENT: why"),
        (4, "TIMED_OUT", "DEADLINE_EXCEEDED: why"),
        (5, "CLIENT_ERROR", "NOT_FOUND: why"),
        (7, "CLIENT_ERROR", "PERMISSION_DENIED: why"),
        (8, "COMPLETED", "RESOURCE_EXHAUSTED: why"),
        (9, "CLIENT_ERROR", "FAILED_PRECONDITION: why"),
        (10, "COMPLETED", "ABORTED: why"),
        (12, "CLIENT_ERROR", "UNIMPLEMENTED: why"),
        (13, "BOT_DIED", "INTERNAL: why"),
        (14, "BOT_DIED", "UNAVAILABLE: why"),
        (16, "CLIENT_ERROR", "UNAUTHENTICATED: why"),
        (99, "COMPLETED", "99: why"),
        (-1, "COMPLETED", "-1: why"),
    ],
)
async def test_the_status_of_a_lease_says_how_its_task_ended(swarmd: Lab, code: int, state: Any, reason: str):
    bot, id, lease = await one(swarmd, bot_retries=0)
    bot.complete(lease, code=code, message="why", result=command_result(0))
    await bot.update()
    details = await swarmd.check_state(id, state)
    assert (details.ok, details.reason) == (False, reason)
    assert details.attempts[0].payload == Payload(COMMAND_RESULT, b"")


@pytest.mark.parametrize("code", [13, 14])
async def test_the_bot_s_own_trouble_is_tried_again_as_often_as_the_task_says(swarmd: Lab, code: int):
    bot, id, _ = await one(swarmd, bot_retries=4)
    for number in range(1, 6):
        [lease] = bot.leases
        assert (await swarmd.client.get(id)).attempts[-1].number == number
        bot.complete(lease.id, code=code)
        await bot.update()
    details = await swarmd.check_state(id, "BOT_DIED")
    assert not bot.leases and len(details.attempts) == 5


@pytest.mark.parametrize(
    ("result", "ok", "exit_code", "reason"),
    [
        (None, True, 0, ""),
        (command_result(0), True, 0, ""),
        (command_result(3), False, 3, ""),
        (command_result(-9), False, -9, ""),
        (
            command_result(0, status=status_pb2.Status(code=8, message="memory")),
            False,
            0,
            "RESOURCE_EXHAUSTED: memory",
        ),
        (any_of(COMMAND_OUTPUTS, command_pb2.CommandOutputs(exit_code=4).SerializeToString()), False, 4, ""),
        (any_of(COMMAND_RESULT, b"\xff\xff"), False, None, f"its result is not one of type {COMMAND_RESULT}"),
        (any_of("x.Y", b"\xff\xff"), True, None, ""),
        (any_of(ACTION_RESULT, b""), True, 0, ""),
        (any_of(ACTION_RESULT, b"\x20\x02"), False, 2, ""),
        (any_of(ACTION_RESULT, b"\x20" + b"\xf7" + b"\xff" * 8 + b"\x01"), False, -9, ""),
        (
            any_of(ACTION_RESULT, b"\x22\x01x"),
            True,
            0,
            "",
        ),  # a field of another kind is none, as for any reader
        (any_of(ACTION_RESULT, b"\xff"), False, None, f"its result is not one of type {ACTION_RESULT}"),
    ],
)
async def test_the_result_says_how_the_command_ended(
    swarmd: Lab, result: any_pb2.Any | None, ok: bool, exit_code: int | None, reason: str
):
    bot, id, lease = await one(swarmd)
    bot.complete(lease, None, result=result)
    await bot.update()
    details = await swarmd.check_state(id, "COMPLETED")
    assert (details.ok, details.exit_code, details.reason) == (ok, exit_code, reason)
    kept = details.attempts[0].payload
    assert kept == (None if result is None else Payload(result.type_url, result.value))


async def test_a_command_that_ran_out_of_time_timed_out(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    took = duration_pb2.Duration(seconds=12, nanos=500_000_000)
    result = command_result(-9, status=status_pb2.Status(code=4), duration=took)
    bot.complete(lease, result=result)
    await bot.update()
    details = await swarmd.check_state(id, "TIMED_OUT")
    assert (details.exit_code, details.attempts[0].duration_s) == (-9, 12.5)


async def test_what_an_action_printed_is_kept_as_output(swarmd: Lab):
    printed = wrappers_pb2.BytesValue(value=b"hello\n").SerializeToString()  # field 1: tag 0x0a
    bot, id, lease = await one(swarmd)
    result = any_of(ACTION_RESULT, b"\x2a" + printed[1:] + b"\x3a\x02no" + b"\x20\x01")
    bot.complete(lease, result=result)
    await bot.update()
    assert (await swarmd.check_state(id, "COMPLETED")).exit_code == 1
    await swarmd.check_output(id, b"hello\n")
    await swarmd.check_output(id, b"no", "stderr")


async def test_a_result_that_is_too_long_is_not_kept_but_counts(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    bot.complete(lease, result=any_of("x.Y", bytes((4 << 20) + 1)))
    await bot.update()
    details = await swarmd.check_state(id, "COMPLETED")
    assert details.ok and details.attempts[0].payload is None
    assert details.reason == "its result has 4194305 bytes and was not kept"


def test_an_action_result_costs_no_python_for_what_is_not_read(monkeypatch):
    """Two bytes make a field: those of a long message took seconds one by one."""
    lease = Lease(result=any_of(ACTION_RESULT, b"\x08\x01" * (1 << 20) + b"\x20\x03"))
    counted = Counter()

    def count(frame, event, arg):
        counted[event] += 1

    report_of(lease)
    sys.setprofile(count)
    try:
        report = report_of(lease)
    finally:
        sys.setprofile(None)
    assert report.outcome.exit_code == 3 and counted.total() < 1_000


def test_of_many_properties_only_the_first_are_read():
    worker = Worker()
    device = worker.devices.add()
    for n in range(MOST_READ + 1):
        device.properties.add(key="", value=str(n))
        worker.configs.add(key="other")
    worker.configs.add(key="capacity", value="7")
    assert len(dimensions(worker, False)[1]) == MOST_READ
    assert capacity_text(worker) == "1"
