"""What a bot says that it is, and which tasks it gets for that. Source: protocol reference, capability matching."""

from __future__ import annotations

import pytest

from swarmd.testing import Lab, RemoteBot

from .worlds import CONFIG, LINUX, came, reconfigure, with_rules

pytestmark = pytest.mark.swarmd(config=CONFIG)


async def gets(lab: Lab, bot: RemoteBot, **fields: object) -> bool:
    """Whether the bot gets a task that asks for this; leaves nothing behind."""
    id = await lab.submit("make", **fields)
    await bot.update()
    got = bool(bot.leases)
    for lease in bot.leases:
        bot.complete(lease.id)
    await bot.update()
    await lab.client.cancel([id], kill=True)
    return got


async def dimensions_of(lab: Lab, id: str = "w1") -> dict[str, list[str]]:
    return {k: v for k, v in (await lab.client.bot(id)).dimensions.items() if k != "feature"}


async def test_properties_of_the_first_device_are_dimensions(swarmd: Lab):
    bot = swarmd.remote_bot("w1", instance="lab", properties=[*LINUX, ("ISA", "x86-32"), ("ISA", "x86-64")])
    bot.session.worker.devices.add(handle="second").properties.add(key="gpu", value="a10")
    bot.session.worker.properties.add(key="site", value="north")
    await bot.create()
    assert await dimensions_of(swarmd) == {
        "OSFamily": ["linux"], "ISA": ["x86-64", "x86-32"], "id": ["w1"], "pool": ["default"],
    }  # fmt: skip
    for wanted, got in (
        ({}, True),
        ({"OSFamily": "linux"}, True),
        ({"ISA": ["x86-32", "x86-64"]}, True),
        ({"ISA": "x86"}, False),
        ({"ISA": ["x86-64", "arm-a64"]}, False),
        ({"OSFamily": "Linux"}, False),
        ({"gpu": "a10"}, False),
        ({"site": "north"}, False),
    ):
        assert await gets(swarmd, bot, dimensions=wanted) is got, wanted


async def test_the_worker_s_own_properties_count_where_the_configuration_says_so(swarmd: Lab):
    await reconfigure(swarmd, worker_properties=True)
    bot = swarmd.remote_bot("w1", instance="lab", properties=LINUX)
    bot.session.worker.properties.add(key="OSFamily", value="posix")
    bot.session.worker.properties.add(key="site", value="north")
    await bot.create()
    found = await dimensions_of(swarmd)
    assert (found["OSFamily"], found["site"]) == (["linux", "posix"], ["north"])


async def test_what_cannot_be_a_dimension_is_left_out_and_said(swarmd: Lab):
    """reccworker sends its properties with the value as the key, and nothing as the value."""
    odd = [("linux", ""), ("", "x"), ("9key", "x"), ("a b", "x"), ("k", " x"), ("k", "x" * 300)]
    await came(swarmd, properties=[*odd, ("k", "good")])
    assert (await dimensions_of(swarmd))["k"] == ["good"]
    assert (await swarmd.client.bot("w1")).state["properties_left_out"] == [f"{k}={v[:40]}" for k, v in odd]


async def test_more_properties_than_a_bot_may_have_are_left_out(swarmd: Lab):
    many = [(f"k{n}", "x") for n in range(400)] + [("k0", f"v{n}") for n in range(1500)]
    await came(swarmd, properties=many)
    found = await dimensions_of(swarmd)
    assert len(found) == 256 + 1 and len(found["k0"]) == 1_000  # 256 of its own, and the pool


async def test_dimensions_that_the_daemon_sets_have_another_name(swarmd: Lab):
    await came(swarmd, properties=[("pool", "gold"), ("id", "boss"), ("feature", "inputs")])
    found = await dimensions_of(swarmd)
    assert found == {
        "pool": ["default"], "id": ["w1"], "property.pool": ["gold"], "property.id": ["boss"],
        "property.feature": ["inputs"],
    }  # fmt: skip


async def test_a_change_of_properties_counts_with_a_new_session(swarmd: Lab):
    bot = await came(swarmd, properties=LINUX)
    bot.session.worker.devices[0].properties.add(key="gpu", value="a10")
    await bot.update()
    assert "gpu" not in await dimensions_of(swarmd)
    await bot.create()
    assert (await dimensions_of(swarmd))["gpu"] == ["a10"]


# ------------------------------------------------------------------ instances


async def test_an_instance_says_whose_work_its_bots_take(swarmd: Lab):
    for instance, pools in (("lab", ["default"]), ("lab/east", ["default", "east"]), ("", ["nameless"])):
        bot = await came(swarmd, instance=instance)
        parent, _, last = bot.session.name.rpartition("/")
        assert parent == instance and len(last) == 36
        assert (await dimensions_of(swarmd))["pool"] == pools
        for pool in ("default", "east", "nameless"):
            assert await gets(swarmd, bot, pool=pool) is (pool in pools)
        await bot.create(status=6)


@pytest.mark.swarmd(
    config={"remoteworkers": {"instances": {"a": {"pools": ["a"]}, "b": {"pools": ["b", "a"]}, "*": {}}}}
)
async def test_bots_of_the_instance_for_all_take_the_work_of_all(swarmd: Lab):
    bot = await came(swarmd, instance="*")
    assert (await dimensions_of(swarmd))["pool"] == ["a", "b"]
    assert await gets(swarmd, bot, pool="a") and await gets(swarmd, bot, pool="b")


async def test_a_bot_is_one_bot_in_all_instances(swarmd: Lab):
    bot, id = await came(swarmd, instance="lab/east"), await swarmd.submit("make", pool="east", bot_retries=1)
    await bot.update()
    await bot.update()
    await swarmd.check_state(id, "RUNNING")
    await came(swarmd, instance="lab")
    await swarmd.check_state(id, "PENDING")
    assert [bot.id for bot in await swarmd.client.bots().all()] == ["w1"]


# ------------------------------------------------------------------ what its protocol can express


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"commands": [{"argv": ["a"]}, {"argv": ["b"]}]}, "commands"),
        ({"commands": [{"write_to": "f", "text": "t"}]}, "files"),
        ({"argv": ["a"], "cwd": "sub"}, "cwd"),
        ({"argv": ["a"], "env": {"A": None}}, "unset"),
        ({"argv": ["a"], "outputs": ["out"]}, "outputs"),
        ({"noop": True}, "noop"),
        ({"payload": {"type": "type.googleapis.com/x.Y"}}, "payload.type.googleapis.com/x.Y"),
    ],
)
async def test_what_a_lease_cannot_carry_waits_for_another_bot_and_is_explained(
    swarmd: Lab, fields: dict, missing: str
):
    bot = await came(swarmd)
    id = await swarmd.submit(**fields)
    await bot.update()
    assert not bot.leases
    explained = await swarmd.client.explain(id)
    assert missing in explained.sentence and "remoteworkers" in explained.sentence, explained.sentence


@pytest.mark.swarmd(config=with_rules(payloads=["type.googleapis.com/x.Y"]))
async def test_bots_that_know_no_commands_get_none(swarmd: Lab):
    bot = await came(swarmd)
    id = await swarmd.submit("make")
    await bot.update()
    assert not bot.leases
    assert "command" in (await swarmd.client.explain(id)).sentence


# ------------------------------------------------------------------ a new configuration


async def test_a_new_configuration_counts_with_the_next_update(swarmd: Lab):
    bot = await came(swarmd, properties=LINUX)
    await reconfigure(swarmd, {"lab": {"pools": ["gold"], "payloads": ["command", "t/x.Y"]}})
    await bot.update()
    found = (await swarmd.client.bot("w1")).dimensions
    assert (
        found["pool"] == ["gold"] and "payload.t/x.Y" in found["feature"] and found["OSFamily"] == ["linux"]
    )
    assert await gets(swarmd, bot, pool="gold") and not await gets(swarmd, bot)
