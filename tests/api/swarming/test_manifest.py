"""What a Swarming bot is told to run, and what it cannot be told. Protocol reference, sections 8 and 16.10."""

from __future__ import annotations

import base64
import re
import sys
from typing import Any

import msgspec
import pytest

from swarmd.client import array
from swarmd.core.ids import to_text
from swarmd.core.model import Work
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.testing import Lab
from tests.api.swarming.worlds import greeted, polling, taking

RUN_ID = re.compile(r"[0-9a-f]{2,16}[1-9a-f]")
LIMIT = 1 << 20  # of a stream, where a test says so

small_output = pytest.mark.swarmd(config={"output_limit_mib": 1})


def payload(**properties: Any) -> dict[str, str]:
    raw = msgspec.json.encode(properties)
    return {"type": "swarming.properties", "data": base64.b64encode(raw).decode()}


# ------------------------------------------------------------------ manifest


async def test_the_manifest_of_a_command(swarmd: Lab):
    bot = swarmd.swarming_bot("s1", dimensions={"os": ["Linux", "Debian"]})
    await bot.handshake()
    await bot.poll()
    id = await swarmd.submit(
        "make", "test", dimensions={"os": ["Linux|Mac", "Debian"]}, cwd="sub/dir", env={"A": "1", "GONE": None},
        hard_limit_s=99.5, io_limit_s=20, grace_s=7,
    )  # fmt: skip
    task = await taking(bot)
    told = task.manifest
    assert RUN_ID.fullmatch(told.pop("task_id"))
    environment = told.pop("env")
    attempt = (await swarmd.check_attempts(id, "OFFERED"))[0].id
    assert environment == {
        "A": "1", "GONE": "", "SWARMD_TASK_ID": id, "SWARMD_ATTEMPT": attempt, "SWARMD_BOT_ID": "s1",
        "SWARMD_URL": "http://localhost",
    }  # fmt: skip
    assert told == {
        "bot_id": "s1",
        "bot_dimensions": {
            "id": ["s1"], "os": ["Linux", "Debian"], "pool": ["default"], "bot_config": ["swarmd_hooks.py"],
        },
        "bot_authenticated_as": "bot:s1",
        "command": ["make", "test"], "relative_cwd": "sub/dir", "env_prefixes": {}, "caches": [], "outputs": [],
        "dimensions": {"os": ["Debian", "Linux"], "pool": ["default"]},
        "hard_timeout": 100, "io_timeout": 20, "grace_period": 7,
        "cipd_input": None, "cas_input_root": None, "containment": None, "secret_bytes": None,
        "service_accounts": {"system": {"service_account": "none"}, "task": {"service_account": "none"}},
        "host": "http://localhost", "realm": {"name": "default:default"},
    }  # fmt: skip


async def test_arrays_and_lines_tell_which_one_it_is(swarmd: Lab):
    bot = await greeted(swarmd)
    await swarmd.submit("x", array=array(first=5, last=6))
    await swarmd.submit("x", lines=["one", "a b"])
    told = []
    for _ in range(4):
        task = await taking(bot)
        told.append((task.manifest["env"].get("SWARMD_INDEX"), task.manifest["env"].get("SWARMD_LINE")))
        await task.end(0)
    assert told == [("5", None), ("6", None), ("0", "one"), ("1", "a b")]


async def test_a_payload_becomes_a_full_manifest(swarmd: Lab):
    bot = await greeted(swarmd)
    await swarmd.submit(
        payload=payload(
            command=["python3", "-u", "x.py"], env={"A": "1", "GONE": "", "SWARMD_BOT_ID": "mine"},
            env_prefixes={"PATH": ["bin", "tools/bin"]}, relative_cwd="sub", outputs=["out/*.txt"],
            caches=[{"name": "tree", "path": "cache/tree"}, {"name": "sized", "path": "c", "hint": "77"}],
            secret_bytes=base64.b64encode(b"a secret").decode(), realm="lab:ci", service_account="bot",
            containment={"containment_type": "NONE"}, cipd_input={"server": "http://cipd", "packages": []},
        ),
        hard_limit_s=60, io_limit_s=30,
    )  # fmt: skip
    told = (await taking(bot)).manifest
    assert told["command"] == ["python3", "-u", "x.py"]
    assert (told["env"]["A"], told["env"]["GONE"], told["env"]["SWARMD_BOT_ID"]) == ("1", "", "mine")
    assert told["env_prefixes"] == {"PATH": ["bin", "tools/bin"]}
    assert (told["relative_cwd"], told["outputs"], told["realm"]) == (
        "sub",
        ["out/*.txt"],
        {"name": "lab:ci"},
    )
    assert told["caches"] == [
        {"name": "tree", "path": "cache/tree", "hint": "-1"}, {"name": "sized", "path": "c", "hint": "77"},
    ]  # fmt: skip
    assert base64.b64decode(told["secret_bytes"]) == b"a secret"
    assert told["service_accounts"]["task"] == {"service_account": "bot"}
    assert told["containment"] == {"containment_type": "NONE"}
    assert told["cipd_input"] == {"server": "http://cipd", "packages": []}
    assert (told["hard_timeout"], told["io_timeout"]) == (60, 30)


DEEP = b'{"containment": {"a": %s}}'
UNREADABLE = {
    "nothing": b"", "no json": b"no json", "no object": b"[]", "command": b'{"command": "x"}',
    "cache": b'{"caches": [{"name": "x"}]}', "secret": b'{"secret_bytes": "*"}', "utf-8": b'{"realm": "\xff"}',
    "null": b'{"env": {"A": null}}', "deep": b"[" * 100_000,
    "endless number": b'{"containment": {"n": ' + b"9" * 5_000 + b"}}",
}  # fmt: skip


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=list(UNREADABLE))
async def test_a_payload_that_no_bot_could_read_ends_its_task_and_not_the_bot(swarmd: Lab, data: bytes):
    bot = await greeted(swarmd)
    given = {"type": "swarming.properties", "data": base64.b64encode(data).decode()}
    id, good = await swarmd.submit(payload=given), await swarmd.submit("make")
    task = await taking(bot)
    assert task.command == ["make"], "in the same poll"
    details = await swarmd.check_state(id, "CLIENT_ERROR")
    assert "swarming.properties" in details.reason and len(details.reason) <= 1_000
    assert (await swarmd.check_attempts(id, "ENDED"))[0].bot == "s1"
    await task.end(0)
    await swarmd.check_state(good, "COMPLETED")


async def test_a_payload_of_any_depth_is_told_or_ends_its_task(swarmd: Lab):
    """What could just be read may be impossible to write."""
    bot = await greeted(swarmd)
    for depth in (10, 500, *range(900, sys.getrecursionlimit() + 10, 3)):
        data = DEEP % (b"[" * depth + b"]" * depth)
        given = {"type": "swarming.properties", "data": base64.b64encode(data).decode()}
        id = await swarmd.submit(payload=given)
        task = await bot.take()
        if task is not None:
            await task.end(0)
        await swarmd.check_state(id, "COMPLETED" if task is not None else "CLIENT_ERROR")
        assert task is not None or depth > 500


async def test_a_task_of_a_person_may_end_a_bot(swarmd: Lab):
    bot = await greeted(swarmd)
    await bot.poll()
    spec = TaskSpec((Work(terminate=True),), (SliceSpec({"id": ["s1"]}),), pool="")
    with swarmd.daemon.step() as (engine, now):
        [submitted] = engine.submit(now, [spec])
    await swarmd.submit("make")
    answer = await bot.poll()
    assert answer["cmd"] == "terminate"
    assert (await bot.repeat())["task_id"] == answer["task_id"]
    assert (await bot.confirm_end(answer["task_id"]))["ok"]
    await bot.event("bot_shutdown", "Signal was received")
    details = await swarmd.check_state(to_text(submitted.id), "COMPLETED")
    assert details.ok and (await swarmd.client.bot("s1")).status == "dead"


# ------------------------------------------------------------------ what this protocol cannot express


@pytest.mark.parametrize(
    ("fields", "feature"),
    [
        ({"argv": ["x"], "inputs": [{"path": "in", "blob": ""}]}, "inputs"),
        ({"argv": ["x"], "outputs": ["out"]}, "outputs"),
        ({"commands": [{"argv": ["x"]}, {"argv": ["y"]}]}, "commands"),
        ({"commands": [{"write_to": "f", "text": "t"}]}, "files"),
        ({"argv": ["x"], "env": {"EMPTY": ""}}, "empty"),
        ({"noop": True}, "noop"),
        ({"payload": {"type": "another.type", "data": "e30="}}, "payload.another.type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_task_that_cannot_be_told_is_not_offered_and_explained(
    swarmd: Lab, fields: dict[str, Any], feature: str
):
    bot = await polling(swarmd)
    if "inputs" in fields:
        fields["inputs"][0]["blob"] = (await swarmd.client.upload_bytes(b"x")).sha256
    id = await swarmd.submit(**fields)
    assert (await bot.poll())["cmd"] == "sleep"
    told = await swarmd.client.explain(id)
    assert told.reason == "no_bot_matches"
    assert f"the feature {feature} (its protocol, swarming, cannot express it)" in told.sentence
    native = swarmd.bot("b1")
    await native.open()
    if not feature.startswith("payload"):
        assert len(await native.take()) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"GONE": None}},
        {"io_limit_s": 60},
        {"payload": {"type": "swarming.properties", "data": "e30="}},
    ],
    ids=["unset", "io limit", "payload"],
)
async def test_a_task_that_can_be_told_is_offered(swarmd: Lab, fields: dict[str, Any]):
    bot = await polling(swarmd)
    await swarmd.submit(*([] if "payload" in fields else ["x"]), **fields)
    assert (await bot.poll())["cmd"] == "run"
