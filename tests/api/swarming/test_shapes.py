"""Shapes of recorded exchanges with the real bot: what it sent is taken, what it was sent we send.

`shapes.json` was reduced from exchanges recorded between the real bot and a stub of its server: for each route the
distinct shapes of requests, the status of their answers, and the shapes of the answers that the bot could use, by
what they ask of it. A shape has names of fields and types of JSON and nothing else: `"int|null"`, `"name?"` for a field
that was not always there, `["str"]` for a list, `{"*": …}` for an object with any keys, `{"or": […]}` for either.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmd.client import BotOrderRequest
from swarmd.testing import Lab
from tests.api.swarming.worlds import CONFIG, OWN, reconfigure, small_world

pytestmark = pytest.mark.swarmd(config=CONFIG)

SHAPES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("shapes.json").read_text())
SAMPLES = {"str": "x", "int": 1, "float": 0.5, "bool": False, "null": None, "nothing": "x"}
TYPES = {str: "str", int: "int", float: "float", bool: "bool", type(None): "null"}
NOT_TOLD = {"resultdb", "access_token", "id_token", "expiry"}  # what this daemon has none of
MAY_DIFFER = {"service_account"}  # of an answer about tokens


def samples(shape: Any) -> list[Any]:
    """Values of a shape: with all that may be there and with none of it, and of each type."""
    if isinstance(shape, str):
        return [SAMPLES[kind] for kind in shape.split("|")]
    if isinstance(shape, list):
        return [[value] for value in samples(shape[0])]
    if "or" in shape:
        return [value for inner in shape["or"] for value in samples(inner)]
    if "*" in shape:
        return [{"x": value} for value in samples(shape["*"])]
    fields = {name.rstrip("?"): samples(inner) for name, inner in shape.items()}
    needed = {name.rstrip("?") for name in shape if not name.endswith("?")}
    most = max(map(len, fields.values()), default=1)
    full = [{name: values[n % len(values)] for name, values in fields.items()} for n in range(most)]
    return [*full, {name: values[0] for name, values in fields.items() if name in needed}]


def faults(shape: Any, value: Any, at: str = "") -> Iterator[str]:
    """What `value` lacks of a shape; it may have more."""
    if isinstance(shape, str):
        kind = TYPES.get(type(value), type(value).__name__)
        if shape != "nothing" and kind not in shape.split("|") and not (kind == "int" and "float" in shape):
            yield f"{at} is {kind}, was {shape}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at} is {value!r}, was a list"
        else:
            for inner in value:
                yield from faults(shape[0], inner, f"{at}[]")
    elif not isinstance(value, dict):
        yield f"{at} is {value!r}, was an object"
    elif "*" in shape:
        for name, inner in value.items():
            yield from faults(shape["*"], inner, f"{at}.{name}")
    else:
        for marked, inner in shape.items():
            name = marked.rstrip("?")
            if name not in value:
                if name not in NOT_TOLD:
                    yield f"{at}.{name} is not there"
            elif name not in MAY_DIFFER:
                yield from faults(inner, value[name], f"{at}.{name}")


def test_the_file_holds_shapes_and_nothing_else():
    def check(shape: Any) -> None:
        if isinstance(shape, str):
            assert set(shape.split("|")) <= set(SAMPLES), shape
        elif isinstance(shape, list):
            assert len(shape) == 1
            check(shape[0])
        else:
            inner = shape["or"] if set(shape) == {"or"} else shape.values()
            for one in inner:
                check(one)

    assert {path for path in OWN if path not in ("task_update", "task_error")} == set(SHAPES)
    for exchange in SHAPES.values():
        assert set(exchange) == {"status", "requests", "replies"}
        for shape in (*exchange["requests"], *exchange["replies"].values()):
            check(shape)


# ------------------------------------------------------------------ what the bot sent


@pytest.mark.parametrize("path", sorted(SHAPES))
async def test_what_the_bot_sent_is_taken(swarmd: Lab, path: str):
    for shape in SHAPES[path]["requests"]:
        for sample in samples(shape):
            world = await small_world(swarmd)
            told = {**sample, **{key: value for key, value in world.good_body(path).items() if key in sample}}
            told = {**told, **{key: sample[key] for key in ("state", "client_error") if key in sample}}
            if "dimensions" in sample:
                told["dimensions"] = {**sample["dimensions"], **world.bad.dimensions}
            if "output" in sample:
                told["output"] = base64.b64encode(b"x").decode()
            if "lease" in sample:
                [state] = {"ACTIVE", "COMPLETED"} - (
                    {"ACTIVE"} if "result" in sample["lease"] else {"COMPLETED"}
                )
                told["lease"] = {**sample["lease"], "state": state}
            assert set(told) == set(sample)
            answer = await world.post(path, told)
            assert answer.status == SHAPES[path]["status"], (shape, answer)
            await world.check_the_good_bot()
            for bot in (world.bad, world.good):
                await bot.event("bot_shutdown")


# ------------------------------------------------------------------ what the bot was sent


def check(path: str, kind: str, answer: dict[str, Any]) -> None:
    assert list(faults(SHAPES[path]["replies"][kind], answer)) == []


FULL = {
    "command": ["x"], "env": {"A": "1"}, "env_prefixes": {"PATH": ["bin"]}, "relative_cwd": "sub", "outputs": ["o"],
    "caches": [{"name": "c", "path": "c"}], "secret_bytes": base64.b64encode(b"s").decode(), "realm": "a:b",
    "cipd_input": {
        "server": "http://x", "client_package": {"package_name": "p", "version": "v"}, "packages": [],
    },
}  # fmt: skip


async def test_handshakes_and_polls_are_answered_as_they_were(swarmd: Lab, tmp_path: Path):
    bot = swarmd.swarming_bot("s1")
    check("handshake", "", await bot.handshake())
    check("poll", "rbe", await bot.poll())
    await swarmd.submit(payload={"type": "swarming.properties", "data": encoded(FULL)})
    check("poll", "run", await bot.poll(force=True))
    await swarmd.client.order_bot("s1", BotOrderRequest(order="restart"))
    check("poll", "bot_restart", await bot.poll())
    await bot.restart()
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    check("poll", "terminate", await bot.poll())
    await bot.restart()
    check("poll", "sleep", await bot.poll(state={"quarantined": "x"}))
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "__main__.py").write_text("")
    await reconfigure(swarmd, bot_code=str(tmp_path / "bot"))
    check("poll", "update", await bot.poll())
    assert set(SHAPES["poll"]["replies"]) == {"rbe", "run", "bot_restart", "terminate", "sleep", "update"}


@pytest.mark.swarmd(config={"swarming": {"poll_s": 3, "poll_max_s": 3}})
async def test_a_pause_is_told_as_it_was(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    check("poll", "sleep", await bot.poll())


async def test_reports_are_answered_as_they_were(swarmd: Lab):
    world = await small_world(swarmd)
    check("task_update/{task}", "", await world.task.update())
    await swarmd.client.cancel([world.id], kill=True)
    check("task_update/{task}", "must_stop", await world.task.update())
    assert await world.task.fail("no") == SHAPES["task_error/{task}"]["replies"][""] == {}
    assert await world.bad.event("bot_log") == SHAPES["event"]["replies"][""] == {}
    assert set(SHAPES["task_update/{task}"]["replies"]) == {"", "must_stop"}


@pytest.mark.swarmd(config={"swarming": {"pools": {"default": {"mode": "rbe"}}}})
async def test_leases_are_answered_as_they_were(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    check("handshake", "", await bot.handshake())
    check("rbe/session/create", "", await bot.open_rbe())
    check("rbe/session/update", "", await bot.update_rbe())
    id = await swarmd.submit("make")
    leased = await bot.update_rbe()
    check("rbe/session/update", "PENDING", leased)
    check("claim", "run", await bot.claim(leased["lease"]))
    active = {"id": leased["lease"]["id"], "state": "ACTIVE"}
    check("rbe/session/update", "ACTIVE", await bot.update_rbe(lease=active))
    await swarmd.client.cancel([id], kill=True)
    check("rbe/session/update", "CANCELLED", await bot.update_rbe(lease=active))
    await bot.close_lease(active["id"])
    check("claim", "skip", await bot.claim(leased["lease"]))
    await swarmd.client.order_bot("s1", BotOrderRequest(order="restart"))
    check("rbe/session/update", "PENDING noop", await bot.update_rbe())
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    leased = await bot.update_rbe()
    check("rbe/session/update", "PENDING", leased)
    check("claim", "terminate", await bot.claim(leased["lease"]))
    assert set(SHAPES["rbe/session/update"]["replies"]) == {
        "",
        "PENDING",
        "PENDING noop",
        "ACTIVE",
        "CANCELLED",
    }


@pytest.mark.parametrize("path", ["oauth_token", "id_token"])
async def test_tokens_are_answered_as_they_were(swarmd: Lab, path: str):
    world = await small_world(swarmd)
    answer = await world.post(path, world.good_body(path))
    assert list(faults(SHAPES[path]["replies"][""], answer.json())) in ([], [".session is not there"])


def encoded(properties: dict[str, Any]) -> str:
    return base64.b64encode(msgspec.json.encode(properties)).decode()


def test_a_shape_finds_what_is_missing_or_of_another_type():
    shape = {"a": "int", "b?": ["str"], "c": {"*": "float"}, "d": {"e": "null|str"}}
    good = {"a": 1, "b": ["x"], "c": {"x": 1, "y": 0.5}, "d": {"e": None}, "more": 1}
    assert list(faults(shape, good)) == []
    assert list(faults(shape, {"a": "1", "b": [7], "c": {"x": "y"}, "d": {}})) == [
        ".a is str, was int", ".b[] is int, was str", ".c.x is str, was float", ".d.e is not there",
    ]  # fmt: skip
