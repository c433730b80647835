"""How bots are counted. Source: protocol reference, metrics and introspection."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import msgspec
import pytest
import trio

from swarmd.api.native import messages as m
from swarmd.cli import OK, USAGE, main
from swarmd.offthread import in_thread
from swarmd.testing import Lab

from .worlds import CONFIG, LINUX, came, one, reconfigure

pytestmark = pytest.mark.swarmd(config=CONFIG)
STATUSES = ("BOT_STATUS_UNSPECIFIED", "OK", "UNHEALTHY", "HOST_REBOOTING", "BOT_TERMINATING")


async def instance(lab: Lab, name: str = "lab") -> m.InstanceInfo:
    return next(i for i in await lab.client.remote_instances() if i.name == name)


def some(counts: dict[str, int]) -> dict[str, int]:
    return {key: count for key, count in counts.items() if count}


async def test_an_instance_without_bots_has_each_status_all_the_same(swarmd: Lab):
    found = await swarmd.client.remote_instances()
    assert [(i.name, i.pools, i.connected) for i in found] == [
        ("", ["nameless"], 0), ("lab", ["default"], 0), ("lab/east", ["default", "east"], 0),
    ]  # fmt: skip
    for one_of in found:
        assert one_of.bots == one_of.capacity == dict.fromkeys(STATUSES, 0)
        assert one_of.bots_by_label == one_of.capacity_by_label == {s: {"unknown": 0} for s in STATUSES}


async def test_bots_are_counted_by_status_and_by_each_of_their_labels(swarmd: Lab):
    await came(swarmd, "w1", properties=[*LINUX, ("OSFamily", "posix")], capacity=3)
    await came(swarmd, "w2", properties=LINUX)
    await came(swarmd, "w3", status=2, capacity=5)
    await came(swarmd, "w4", status=42)
    found = await instance(swarmd)
    assert some(found.bots) == {"OK": 2, "UNHEALTHY": 1, "42": 1}
    assert some(found.capacity) == {"OK": 4, "UNHEALTHY": 5, "42": 1}
    assert found.bots_by_label["OK"] == {"unknown": 0, "linux": 2, "posix": 1}
    assert found.capacity_by_label["OK"] == {"unknown": 0, "linux": 4, "posix": 3}
    assert found.bots_by_label["UNHEALTHY"] == {"unknown": 1}
    await reconfigure(swarmd, label_key="ISA")
    assert (await instance(swarmd)).bots_by_label["OK"] == {"unknown": 0, "x86-64": 2}


async def test_a_lease_takes_capacity(swarmd: Lab):
    bot, _, lease = await one(swarmd)
    assert some((await instance(swarmd)).capacity) == {}
    bot.complete(lease)
    await bot.update()
    assert some((await instance(swarmd)).capacity) == {"OK": 1}


async def test_bots_that_take_its_work_are_counted_with_an_instance_and_connected_are_its_own(swarmd: Lab):
    await came(swarmd, "w1", instance="lab/east")
    bot = await came(swarmd, "w2", instance="lab")
    await came(swarmd, "w3", instance="")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bot.update, 15)
        await swarmd.sleep(1)
        found = {i.name: (i.connected, some(i.bots)) for i in await swarmd.client.remote_instances()}
        assert found == {"": (0, {"OK": 1}), "lab": (1, {"OK": 2}), "lab/east": (0, {"OK": 2})}
        await swarmd.submit("make")
    assert (await instance(swarmd)).connected == 0, "a bot that is between two calls is not counted"


async def test_a_bot_of_another_protocol_is_not_counted(swarmd: Lab):
    await swarmd.bot("b1").open()
    assert some((await instance(swarmd)).bots) == {}


async def test_prometheus_has_the_same(swarmd: Lab):
    assert "swarmd_remoteworkers" not in await swarmd.client.metrics()
    await came(swarmd, "w1", properties=LINUX, capacity=3)
    await came(swarmd, "w2", instance="", status=2)
    text = await swarmd.client.metrics()
    for line in (
        'swarmd_remoteworkers_connected{instance="lab"} 0.0',
        'swarmd_remoteworkers_bots{instance="lab",label="linux",status="OK"} 1.0',
        'swarmd_remoteworkers_bots{instance="lab/east",label="linux",status="OK"} 1.0',
        'swarmd_remoteworkers_bots{instance="unnamed",label="unknown",status="UNHEALTHY"} 1.0',
        'swarmd_remoteworkers_bots{instance="lab",label="unknown",status="UNHEALTHY"} 0.0',
        'swarmd_remoteworkers_free_leases{instance="lab",label="linux",status="OK"} 3.0',
    ):
        assert line in text.splitlines(), line


async def test_the_command_line_shows_it(swarmd: Lab):
    await came(swarmd, "w1", properties=LINUX, capacity=3)
    await came(swarmd, "w2", status=2)

    def run(*arguments: str) -> list[str]:
        with redirect_stdout(StringIO()) as shown:
            assert main(["bots", "--server", swarmd.url, *arguments]) == OK
        return shown.getvalue().splitlines()

    shown = await in_thread(run, "--instances")
    assert shown[0].split() == ["INSTANCE", "POOLS", "CALLING", "BOTS", "FREE"]
    assert [line.split() for line in shown[1:]] == [
        ['""', "nameless", "0", "none", "0"],
        ["lab", "default", "0", "OK:1", "UNHEALTHY:1", "3"],
        ["lab/east", "default,east", "0", "OK:1", "UNHEALTHY:1", "3"],
    ]
    [one] = [line.split() for line in await in_thread(run, "w1") if line.startswith("session ")]
    assert one[1].startswith("lab/")
    as_json = await in_thread(run, "--instances", "--json")
    assert [msgspec.json.decode(line)["name"] for line in as_json] == ["", "lab", "lab/east"]


def test_the_command_line_shows_one_bot_or_the_instances(capsys):
    assert main(["bots", "w1", "--instances"]) == USAGE
    assert "leave ID out" in capsys.readouterr().err
