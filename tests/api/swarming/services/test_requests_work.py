"""What a request becomes in the core, how that reaches a bot, and how tasks of others are told."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from swarmd.api.swarming.context import FEATURES, PROPERTIES
from swarmd.api.swarming.ids import task_id
from swarmd.api.swarming.manifest import Properties, properties_of
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.services.requests_told import request_of
from swarmd.core.features import NATIVE, features_of
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import Command, OpId, Payload, TaskId, TaskState, Work
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.store import queries
from swarmd.store.queries import OpRow, TaskText
from swarmd.testing import Lab
from tests.api.swarming.services.rules_rows import (
    Change,
    both,
    caches,
    env,
    packages,
    prefixes,
    put,
    put_work,
    requiring,
    slices,
)
from tests.api.swarming.services.test_requests import PARENT, checking
from tests.api.swarming.worlds import greeted, taking

MOMENT = 1_790_000_000.25
ID = OpId(1_790_000_000_000 << 20)


def work_of(*changes: Change) -> Work:
    (work,) = checking(*changes).spec.work
    return work


def said(work: Work) -> Properties:
    """What a Swarming bot would be told."""
    assert work.payload is not None and work.payload.type == PROPERTIES
    return properties_of(msgspec.json.decode(msgspec.json.encode(work), type=Work))


# --------------------------------------------------------------------- to the core


def test_a_plain_task_is_for_any_bot():
    found = checking(put_work(relative_cwd="sub"), env(("A", "1"), ("GONE", ""))).spec
    assert found == TaskSpec(
        work=(
            Work(
                commands=(Command(("/bin/sh", "-c", "echo hi"), {}, "sub"),), env={"A": "1", "GONE": None},
                hard_limit_s=3600, io_limit_s=1200, grace_s=30,
            ),
        ),
        slices=(SliceSpec({"os": ["Linux"]}, 21600, False),),
        pool="lab", name="alice/os=Linux_pool=lab", priority=0, retries=0, bot_retries=0, carry_time=False,
        tags=found.tags, owner="anonymous:anonymous",
    )  # fmt: skip
    needed = set(features_of(found.work[0]))
    assert needed <= set(NATIVE) and needed <= set(FEATURES)


def test_dimensions_in_the_cores_form():
    asked = requiring("os=Mac", "gpu=x|y", "os=Mac-14", "id=b1")
    (part,) = checking(asked).spec.slices
    assert part.dimensions == {"gpu": ["x|y"], "id": ["b1"], "os": ["Mac", "Mac-14"]}


def test_limits_and_other_facts():
    asked = both(
        put_work(execution_timeout_secs=30, io_timeout_secs=0, grace_period_secs=0),
        put(bot_ping_tolerance_secs=77, parent_task_id="7b24c0ea00abcd11"),
        lambda request: setattr(request.task_slices[0], "wait_for_capacity", True),
    )
    found = checking(asked, caller="user:x", parent=PARENT).spec
    (work,) = found.work
    assert (work.hard_limit_s, work.io_limit_s, work.grace_s, work.ping_tolerance_s) == (30, 0, 0, 77)
    assert (found.parent, found.owner, found.slices[0].wait_for_capacity) == (PARENT.op, "user:x", True)


ONLY_SWARMING: dict[str, tuple[Change, dict[str, Any]]] = {
    "caches": (caches(("b", "q"), ("a", "p")), {"caches": [("b", "q", "-1"), ("a", "p", "-1")]}),
    "env_prefixes": (prefixes(("PATH", ["z", "a"])), {"env_prefixes": {"PATH": ["z", "a"]}}),
    "secret_bytes": (put_work(secret_bytes=b"\xff\0s"), {"secret_bytes": b"\xff\0s"}),
    "AUTO": (
        put_work(containment={"containment_type": 2}),
        {"containment": {"containment_type": "AUTO", "lower_priority": False, "limit_processes": 0,
                         "limit_total_committed_memory": 0}},
    ),
    "lower_priority alone": (
        put_work(containment={"lower_priority": True}),
        {"containment": {"containment_type": "NOT_SPECIFIED", "lower_priority": True, "limit_processes": 0,
                         "limit_total_committed_memory": 0}},
    ),
    "lower_priority and limits": (
        put_work(containment={"lower_priority": True, "limit_processes": 5, "limit_total_committed_memory": 1 << 40}),
        {"containment": {"containment_type": "NOT_SPECIFIED", "lower_priority": True, "limit_processes": 5,
                         "limit_total_committed_memory": 1 << 40}},
    ),
    "limit_processes": (put_work(containment={"containment_type": 1, "limit_processes": 5}), {}),
    "memory": (put_work(containment={"limit_total_committed_memory": 5}), {}),
    "no containment": (both(put_work(containment={}), caches(("a", "p"))), {"containment": None}),
    "the bot's account": (put(service_account="bot"), {"service_account": "bot"}),
    "an account": (put(service_account="ci"), {"service_account": "ci"}),
    "packages": (
        packages("cipd:x@1"),
        {"cipd_input": {
            "server": "https://chrome-infra-packages.appspot.com",
            "client_package": {"package_name": "infra/tools/cipd/${platform}", "version": "latest"},
            "packages": [{"package_name": "x", "version": "1", "path": "cipd"}],
        }},
    ),
    "a suffix": (put_work(command=["x${EXECUTABLE_SUFFIX}"]), {"command": ["x${EXECUTABLE_SUFFIX}"]}),
    "the bot's file": (env(("A", "x/${SWARMING_BOT_FILE}")), {"env": {"A": "x/${SWARMING_BOT_FILE}"}}),
    "the id": (put_work(command=["x", "${SWARMING_TASK_ID}"]), {}),
    "the build's file": (put_work(command=["x", "${BUILDBUCKET_AGENT_CONTEXT_FILE}"]), {}),
}  # fmt: skip


@pytest.mark.parametrize("change, tells", ONLY_SWARMING.values(), ids=list(ONLY_SWARMING))
def test_what_only_swarming_bots_know_is_for_them_alone(change: Change, tells: dict[str, Any]):
    work = work_of(env(("FOO", "bar"), ("GONE", "")), change)
    assert work.commands == () and work.outputs == () and work.env == {}
    assert (work.hard_limit_s, work.io_limit_s, work.grace_s) == (3600, 1200, 30)
    needed = set(features_of(work))
    assert needed == {"io_limit", "payload.swarming.properties"} and needed <= set(FEATURES)
    told = said(work)
    assert (told.realm, told.relative_cwd) == ("lab:default", "")
    if "command" not in tells:
        assert told.command[0] in ("/bin/sh", "x")
    if "A" not in told.env:
        assert told.env == {"FOO": "bar", "GONE": ""}
    found = msgspec.to_builtins(told, builtin_types=(bytes,))
    found["caches"] = [tuple(cache.values()) for cache in found.get("caches", [])]
    assert {name: found.get(name) for name in tells} == tells


@pytest.mark.parametrize(
    "change", [put_work(containment={"containment_type": 1}), put_work(containment={}), put(service_account="none"),
               put_work(command=["echo", "$SWARMING_TASK_ID", "${HOME}"]), packages(server="https://x")],
)  # fmt: skip
def test_what_means_nothing_is_for_any_bot(change: Change):
    assert work_of(change).payload is None


def test_another_realm_is_for_any_bot_and_told_to_those_that_can_be():
    assert work_of(put(realm="lab:default")).payload is None
    work = work_of(put(realm="lab:ci"), env(("A", "1"), ("GONE", "")), put_work(relative_cwd="x"))
    assert "payload.swarming.properties" not in features_of(work)
    assert (work.commands[0].argv, work.commands[0].cwd) == (("/bin/sh", "-c", "echo hi"), "x")
    assert work.env == {"A": "1", "GONE": None}
    told = said(work)
    assert (told.realm, told.command, told.relative_cwd) == ("lab:ci", ["/bin/sh", "-c", "echo hi"], "x")
    assert told.env == {"A": "1", "GONE": ""}


def test_outputs_are_for_bots_that_keep_files():
    work = work_of(put_work(outputs=["b/c", "a", "."]))
    assert work.outputs == ("b/c", "a", "**")
    assert set(features_of(work)) == {"command", "io_limit", "outputs"} and "outputs" in NATIVE
    assert "outputs" not in FEATURES


def test_slices_that_run_the_same_are_told_once():
    alike = checking(slices(requiring("n=1"), requiring("n=2"))).spec
    assert len(alike.work) == 1 and len(alike.slices) == 2
    differ = checking(slices(requiring("n=1"), caches(("a", "p")), requiring("n=2"))).spec
    assert [work.payload is None for work in differ.work] == [True, False, True]
    assert len(checking(slices(requiring("n=1"), put_work(command=["y"]))).spec.work) == 2


# --------------------------------------------------------------------- and back


def row_of(spec: TaskSpec, **fields: Any) -> OpRow:
    """As the file has it of a new task."""
    row = OpRow(
        id=ID, task=TaskId(ID), name=spec.name, state=TaskState.PENDING, ok=None, exit_code=None, reason="",
        pool=spec.pool, priority=spec.priority, created_wall=MOMENT, started_wall=None, ended_wall=None, bot=None,
        attempt=None, number=0, tags=spec.tags, index=spec.index, line=spec.line, graph=None, key=spec.key,
        parent=spec.parent, retry_of=None, stop_reason=None, owner=spec.owner,
    )  # fmt: skip
    return msgspec.structs.replace(row, **fields)


def text_of(spec: TaskSpec) -> TaskText:
    work = msgspec.json.decode(msgspec.json.encode(spec.work), type=tuple[Work, ...])
    return TaskText(work, spec.slices, spec.retries, spec.bot_retries, 0.0, False, None, ())


def told(spec: TaskSpec, **fields: Any) -> tasks_pb2.TaskRequestResponse:
    return request_of(row_of(spec, **fields), text_of(spec), pools_realm="lab:default")


PARTS = {
    "nothing": put(),
    **{name: change for name, (change, _) in ONLY_SWARMING.items() if name != "memory"},
    "another realm": put(realm="lab:ci"),
    "nobody": put(tags=[]),
    "urgent": put(priority=1),
    "alternatives": requiring("os=b|a", "gpu=x", "os=c"),
    "outputs": put_work(outputs=["b", "a/b"]),
    "cwd": put_work(relative_cwd="x/y"),
    "variables": env(("B", "2"), ("A", ""), ("C", "$x")),
    "tolerance": put(bot_ping_tolerance_secs=60),
    "limits": put_work(io_timeout_secs=0, grace_period_secs=0, execution_timeout_secs=601_140),
    "two slices": slices(requiring("n=1"), requiring("n=2")),
    "two works": slices(put_work(command=["x"]), caches(("a", "p"))),
}


def kept_by_the_core(record: tasks_pb2.TaskRequestResponse) -> tasks_pb2.TaskRequestResponse:
    """A record as that of a task in the file: with an id, without containment NONE, which all tasks have."""
    record.task_id = task_id(ID)
    record.created_ts.FromMilliseconds(int(MOMENT * 1000))
    for properties in (record.properties, *(one.properties for one in record.task_slices)):
        if properties.containment == tasks_pb2.Containment(containment_type="NONE"):
            properties.ClearField("containment")
    return record


@pytest.mark.parametrize("change", PARTS.values(), ids=list(PARTS))
def test_what_goes_into_the_core_comes_back(change: Change):
    found = checking(change)
    as_dicts = [json_format.MessageToDict(kept_by_the_core(one)) for one in (told(found.spec), found.record)]
    assert as_dicts[0] == as_dicts[1]


@given(st.sets(st.sampled_from(sorted({*PARTS} - {"outputs", "two slices", "two works"})), max_size=4))
def test_several_of_them_come_back_too(names: set[str]):
    found = checking(*(PARTS[name] for name in sorted(names)))
    assert kept_by_the_core(told(found.spec)) == kept_by_the_core(found.record)


NATIVE_SPEC = TaskSpec(
    work=(
        Work(
            commands=(
                Command(write_to="x.txt", text="hello"), Command(("make", "-j"), {"B": "2", "N": None}, "sub"),
                Command(("ls",)),
            ),
            env={"A": "1", "B": "1", "E": ""}, outputs=("out/*",), hard_limit_s=99.5, io_limit_s=0.25,
            grace_s=7, ping_tolerance_s=12.5,
        ),
    ),
    slices=(
        SliceSpec({"os": ["Linux"], "gpu": ["b", "a|c"]}, 0.5, True), SliceSpec({"pool": ["lab"]}, 86_400.0, False),
    ),
    pool="lab", name="build", priority=5, tags=("purpose:smoke", "plain"), index=3, line="a b", owner="task:7",
    parent=OpId(ID + 1),
)  # fmt: skip


def test_a_task_of_another_client():
    """Several commands and files have no words here: the first program is shown."""
    found = json_format.MessageToDict(told(NATIVE_SPEC))
    properties = {
        "command": ["make", "-j"], "relativeCwd": "sub", "outputs": ["out/*"],
        "dimensions": [
            {"key": "gpu", "value": "a|c"}, {"key": "gpu", "value": "b"}, {"key": "os", "value": "Linux"},
            {"key": "pool", "value": "lab"},
        ],
        "env": [
            {"key": "A", "value": "1"}, {"key": "B", "value": "2"}, {"key": "E"}, {"key": "N"},
            {"key": "SWARMD_INDEX", "value": "3"}, {"key": "SWARMD_LINE", "value": "a b"},
        ],
        "executionTimeoutSecs": 100, "ioTimeoutSecs": 1, "gracePeriodSecs": 7,
    }  # fmt: skip
    assert found == {
        "taskId": task_id(ID), "createdTs": "2026-09-21T14:13:20.250Z", "name": "build", "priority": 205,
        "parentTaskId": task_id(OpId(ID + 1)), "user": "task:7", "authenticated": "task:7",
        "tags": ["plain", "pool:lab", "priority:205", "purpose:smoke", "user:task:7"],
        "serviceAccount": "none", "realm": "lab:default", "resultdb": {}, "botPingToleranceSecs": 13,
        "expirationSecs": 86401, "properties": properties,
        "taskSlices": [
            {"expirationSecs": 1, "waitForCapacity": True, "properties": properties},
            {"expirationSecs": 86400, "properties": {**properties, "dimensions": [{"key": "pool", "value": "lab"}]}},
        ],
    }  # fmt: skip


def test_tags_of_another_client_are_its_own():
    spec = msgspec.structs.replace(
        NATIVE_SPEC, tags=("pool:x", "priority:high", "user:eve", "authenticated:user:root")
    )
    found = told(spec, owner="")
    assert list(found.tags) == ["authenticated:user:root", "pool:x", "priority:high", "user:eve"]
    assert (found.user, found.authenticated) == ("eve", "anonymous:anonymous")


@pytest.mark.parametrize("priority, shown", [(-1_000_000, 0), (0, 200), (1_000_000, 255)])
def test_priorities_of_another_client(priority: int, shown: int):
    found = told(msgspec.structs.replace(NATIVE_SPEC, priority=priority))
    assert found.priority == shown and f"priority:{shown}" in found.tags


def test_a_variable_of_the_task_itself_wins():
    """As it does on a bot."""
    spec = TaskSpec(
        (Work(commands=(Command(("x",)),), env={"SWARMD_LINE": "own"}),), (SliceSpec({}),), index=3, line="no"
    )
    found = [(pair.key, pair.value) for pair in told(spec).properties.env]
    assert found == [("SWARMD_INDEX", "3"), ("SWARMD_LINE", "own")]


def test_spans_that_have_no_number_there():
    found = told(TaskSpec((Work(hard_limit_s=1e12),), (SliceSpec({}, 1e12),), pool="lab"))
    assert found.expiration_secs == found.properties.execution_timeout_secs == (1 << 31) - 1
    assert found.task_slices[0].expiration_secs == (1 << 31) - 1


@pytest.mark.parametrize(
    "work", [Work(noop=True), Work(marker=True), Work(terminate=True), Work(payload=Payload("other", b"x"))]
)
def test_what_runs_no_command(work: Work):
    spec = TaskSpec((work,), (SliceSpec({"id": ["b1"]}),), pool="", owner="")
    found = told(spec)
    assert list(found.properties.command) == []
    assert [(pair.key, pair.value) for pair in found.properties.dimensions] == [("id", "b1")]
    assert list(found.tags) == ["priority:200", "user:none"] and found.user == ""


def payload(**properties: Any) -> Work:
    return Work(payload=Payload(PROPERTIES, msgspec.json.encode(properties)))


def test_a_payload_of_another_client():
    secret = base64.b64encode(b"do not show this").decode()
    work = payload(
        command=["x"], env={"A": ""}, env_prefixes={"P": ["b", "a"]}, relative_cwd="c", outputs=["o"],
        caches=[{"name": "n", "path": "p", "hint": "7"}], secret_bytes=secret, realm="p:r", service_account="bot",
        containment={"containment_type": "AUTO", "newer": 1}, cipd_input={"server": "s", "packages": [{"path": "p"}]},
    )  # fmt: skip
    found = told(TaskSpec((work,), (SliceSpec({}),), pool="lab"))
    properties = found.properties
    assert (list(properties.command), list(properties.outputs)) == (["x"], ["o"])
    assert (properties.secret_bytes, found.realm, found.service_account) == (b"<REDACTED>", "p:r", "bot")
    assert properties.containment.containment_type == 2
    assert (properties.cipd_input.server, properties.cipd_input.packages[0].path) == ("s", "p")
    assert [(c.name, c.path) for c in properties.caches] == [("n", "p")]
    everything = found.SerializeToString() + json_format.MessageToJson(found).encode()
    assert b"do not show this" not in everything and secret.encode() not in everything


@pytest.mark.parametrize(
    "work",
    [
        payload(containment={"containment_type": "NEWER"}), payload(containment={"limit_processes": "many"}),
        payload(cipd_input={"packages": 7}), payload(command="x"), Work(payload=Payload(PROPERTIES, b"\xff")),
        Work(payload=Payload(PROPERTIES, b"[" * 100_000)), payload(containment={"a": [[[]]]}),
    ],
)  # fmt: skip
def test_a_payload_that_cannot_be_read_shows_nothing(work: Work):
    found = told(TaskSpec((work,), (SliceSpec({}),), pool="lab")).properties
    assert not found.command and not found.HasField("containment") and not found.HasField("cipd_input")


# --------------------------------------------------------------------- on bots


async def submitted(lab: Lab, *changes: Change) -> str:
    """A request for the pool of the lab's bots, as the methods will submit it."""
    found = checking(*changes, requiring(pool="pool=default"))
    with lab.daemon.step() as (engine, now):
        (one,) = engine.submit(now, [found.spec])
    await lab.daemon.settled()
    return to_text(one.id)


async def test_a_plain_task_runs_on_a_bundled_bot(swarmd: Lab):
    bot = swarmd.bot()
    await bot.open()
    id = await submitted(swarmd, env(("GONE", "")), put(realm="p:r"))
    offer = await bot.run_one()
    work = msgspec.json.decode(offer.work, type=Work)
    assert work.commands[0].argv == ("/bin/sh", "-c", "echo hi") and work.env == {"GONE": None}
    bot.finish(offer.attempt)
    await bot.sync()
    await swarmd.check_state(id, "COMPLETED")


async def test_what_a_swarming_bot_is_told(swarmd: Lab):
    bot = await greeted(swarmd)
    await submitted(swarmd, put(realm="p:r"), put_work(relative_cwd="x"))
    plain = await taking(bot)
    await plain.end(0)
    assert (plain.manifest["realm"], plain.manifest["relative_cwd"]) == ({"name": "p:r"}, "x")
    await submitted(swarmd)
    named_none = await taking(bot)
    await named_none.end(0)
    assert named_none.manifest["realm"] == {"name": "default:default"}
    await submitted(swarmd, caches(("a", "p")), put_work(secret_bytes=b"s"), put(service_account="bot"))
    full = await taking(bot)
    assert full.manifest["caches"] == [{"name": "a", "path": "p", "hint": "-1"}]
    assert (full.manifest["secret_bytes"], full.manifest["realm"]) == ("cw==", {"name": "default:default"})
    assert full.manifest["service_accounts"]["task"] == {"service_account": "bot"}
    assert full.manifest["command"] == ["/bin/sh", "-c", "echo hi"]
    assert (full.manifest["hard_timeout"], full.manifest["io_timeout"], full.manifest["grace_period"]) == (
        3600,
        1200,
        30,
    )


async def test_outputs_wait_for_a_bot_that_keeps_them(swarmd: Lab):
    swarming = await greeted(swarmd)
    native = swarmd.bot()
    await native.open()
    id = await submitted(swarmd, put_work(outputs=["out"]))
    assert await swarming.take() is None
    await swarmd.check_state(id, "PENDING")
    offer = await native.run_one()
    assert msgspec.json.decode(offer.work, type=Work).outputs == ("out",)


async def test_outputs_without_a_bot_that_keeps_them(swarmd: Lab):
    await greeted(swarmd)
    id = await submitted(swarmd, put_work(outputs=["out"]))
    await swarmd.until(id, "NO_RESOURCE", within_s=100)  # soon after a start no bot is given up


async def test_a_task_is_not_tried_again_when_its_bot_dies(swarmd: Lab):
    bot = swarmd.bot()
    await bot.open()
    id = await submitted(swarmd)
    await bot.run_one()
    await bot.restart(keeps=False)
    await swarmd.check_state(id, "BOT_DIED")


async def test_the_request_of_a_task_in_the_file(swarmd: Lab):
    swarmd.bot()
    id = await submitted(swarmd, caches(("a", "p")), put_work(secret_bytes=b"do not show this"))
    op = OpId(from_text(id) or 0)
    row = (await swarmd.daemon.read(lambda conn: queries.ops_by_id(conn, [op])))[op]
    text = await swarmd.daemon.read(lambda conn: queries.task_text(conn, row.task, op))
    assert text is not None
    found = request_of(row, text)
    assert (found.task_id, found.name, found.priority) == (task_id(op), "alice/os=Linux_pool=lab", 200)
    assert (found.realm, found.authenticated) == ("default:default", "anonymous:anonymous")
    assert "authenticated:anonymous:anonymous" in found.tags and "pool:default" in found.tags
    assert found.properties.secret_bytes == b"<REDACTED>"
