"""The list of methods, and what the first ones answer."""

from __future__ import annotations

import re

import pytest
from google.protobuf import descriptor_pool

from swarmd import __version__
from swarmd.api.routes import Verb
from swarmd.api.swarming.methods import METHODS, ROUTES
from swarmd.api.swarming.proto import discovery_pb2, server_pb2
from swarmd.config import Config
from swarmd.config_swarming import PoolRules, SwarmingConfig
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import running
from tests.api.swarming.prpc.calls import BINARY, call, message
from tests.api.test_edge import TOKEN, guarded

DETAILS = "swarming.v2.Swarming/GetDetails"
PERMISSIONS = "swarming.v2.Swarming/GetPermissions"
DESCRIBE = "discovery.Discovery/Describe"


async def test_every_method_of_the_list_has_its_types_and_one_handler(autojump_clock):
    async with running() as daemon:
        [package] = [p for p in daemon.app.packages if p.name == "prpc"]
        layer = package.handlers[DETAILS].func.__self__
        for method in METHODS:
            service = (
                descriptor_pool.Default().FindServiceByName(method.service) if layer.binding(method) else None
            )
            known = service.methods_by_name[method.name]
            bound = layer.binding(method)
            assert (known.input_type, known.output_type) == (
                bound.request.DESCRIPTOR,
                bound.answer.DESCRIPTOR,
            )
            assert bound.handler.__name__ == method.attribute


def test_the_list_has_each_method_once_and_says_what_it_is_about():
    keys = [method.key for method in METHODS]
    assert len(keys) == len(set(keys)) and {DETAILS, PERMISSIONS, DESCRIBE} <= set(keys)
    assert [route.path for route in ROUTES] == [f"/prpc/{key}" for key in keys]
    assert len({method.attribute for method in METHODS}) == len(METHODS)
    for method in METHODS:
        assert method.about.endswith(".") and re.fullmatch(r"[a-z]+(_[a-z]+)*", method.attribute)
        assert method.verb in (Verb.READ, Verb.SUBMIT, Verb.CHANGE, Verb.OPERATE)


async def test_details(autojump_clock, tmp_path):
    async with running() as daemon:
        answer = message(await call(daemon.url, DETAILS), server_pb2.ServerDetails)
        assert answer == server_pb2.ServerDetails(server_version=__version__)
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "__main__.py").write_text("print('a bot')")
    config = Config(swarming=SwarmingConfig(bot_code=str(tmp_path / "bot")))
    async with running(config=config) as daemon:
        answer = message(await call(daemon.url, DETAILS), server_pb2.ServerDetails)
        assert re.fullmatch("[0-9a-f]{64}", answer.bot_version)


async def permissions(daemon, *headers, **fields) -> server_pb2.ClientPermissions:
    request = server_pb2.PermissionsRequest(**fields)
    return message(await call(daemon.url, PERMISSIONS, request, *headers), server_pb2.ClientPermissions)


ALL = {
    "delete_bot": True, "delete_bots": True, "terminate_bot": True, "cancel_task": True, "get_bootstrap_token": True,
    "cancel_tasks": True,
}  # fmt: skip


async def test_in_a_lab_everybody_may_do_everything(autojump_clock):
    config = Config(swarming=SwarmingConfig(pools={"night": PoolRules()}))
    async with running(config=config) as daemon:
        await NativeBot(daemon.client, "b1", dimensions={"pool": ["lab", "bench"]}).open()
        everywhere = ["bench", "lab", "night"]
        assert await permissions(daemon) == server_pb2.ClientPermissions(
            **ALL, list_bots=everywhere, list_tasks=everywhere
        )
        named = await permissions(
            daemon, tags=["pool:lab", "os:Linux", "pool:", "pool", "pool:lab"], bot_id="b7"
        )
        assert named == server_pb2.ClientPermissions(**ALL, list_bots=["lab"], list_tasks=["lab"])


async def test_who_may_less_is_told_less(autojump_clock, tmp_path, monkeypatch):
    """A running task that shows its token may read, submit and cancel, but leaves the bots alone."""
    async with running(tcp=True, config=guarded(tmp_path)) as daemon:
        lesser = {"task-token-task-token": ("task:7", frozenset({Verb.READ, Verb.SUBMIT, Verb.CHANGE}))}
        monkeypatch.setattr(daemon.app.guard, "_lesser", (lesser.get,))
        shown = ("Authorization", "Bearer task-token-task-token")
        told = await permissions(daemon, shown, tags=["pool:lab"])
        assert told == server_pb2.ClientPermissions(
            cancel_task=True, cancel_tasks=True, list_bots=["lab"], list_tasks=["lab"]
        )
        full = await permissions(daemon, ("Authorization", f"Bearer {TOKEN}"), tags=["pool:lab"])
        assert full == server_pb2.ClientPermissions(**ALL, list_bots=["lab"], list_tasks=["lab"])


async def test_an_unknown_token_is_ignored_where_none_is_needed(autojump_clock):
    """Who is logged in at another LUCI server sends one."""
    async with running(tcp=True) as daemon:
        answer = await call(
            daemon.url, DETAILS, b"", BINARY, ("Authorization", "Bearer ya29.of-somebody-else")
        )
        message(answer, server_pb2.ServerDetails)


async def test_discovery_describes_everything_in_an_order_that_can_be_built(autojump_clock):
    async with running() as daemon:
        answer = message(await call(daemon.url, DESCRIBE), discovery_pb2.DescribeResponse)
    assert list(answer.services) == sorted({method.service for method in METHODS})
    pool = descriptor_pool.DescriptorPool()
    for file in answer.description.file:
        pool.Add(file)  # fails where something is used before it is there
    for method in METHODS:
        service = pool.FindServiceByName(method.service)
        assert service.methods_by_name[method.name].input_type.full_name
    names = [file.name for file in answer.description.file]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("key", [DETAILS, PERMISSIONS, DESCRIBE])
async def test_fields_of_newer_clients_are_ignored(key, autojump_clock):
    async with running() as daemon:
        unknown = b"\xfa\x01\x05hello"  # field 31
        assert (await call(daemon.url, key, unknown, BINARY)).headers["x-prpc-grpc-code"] == "0"
