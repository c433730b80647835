"""A bootstrap token from the service `Swarming`: it opens what one of the native API opens."""

from __future__ import annotations

from pathlib import Path

import trio

from swarmd.api.routes import Verb
from swarmd.api.swarming.bootstrap import BOOTSTRAP_S
from swarmd.api.swarming.methods import METHODS
from swarmd.api.swarming.proto import server_pb2
from swarmd.config import Config
from swarmd.testing.harness import running
from tests.api.swarming.prpc.calls import BINARY, call, fault, message
from tests.api.swarming.test_bootstrap import SHOWN, get, guarded
from tests.api.swarming.test_bot_code import a_folder

GET_TOKEN = "swarming.v2.Swarming/GetToken"


async def test_it_opens_the_bot_code_for_an_hour(tmp_path: Path, autojump_clock):
    async with running(tcp=True, config=guarded(tmp_path, a_folder(tmp_path))) as world:
        answer = message(await call(world.url, GET_TOKEN, b"", BINARY, SHOWN), server_pb2.BootstrapToken)
        other = message(await call(world.url, GET_TOKEN, b"", BINARY, SHOWN), server_pb2.BootstrapToken)
        assert answer.bootstrap_token != other.bootstrap_token
        assert (await get(world, "/bootstrap")).status == 401
        assert (await get(world, "/bootstrap", answer.bootstrap_token)).status == 200
        assert (await get(world, "/bot_code", answer.bootstrap_token)).status == 302
        await trio.sleep(BOOTSTRAP_S)
        assert (await get(world, "/bootstrap", answer.bootstrap_token)).status == 401


async def test_who_shows_nothing_gets_none(tmp_path: Path, autojump_clock):
    async with running(tcp=True, config=guarded(tmp_path, a_folder(tmp_path))) as world:
        fault(await call(world.url, GET_TOKEN, b"", BINARY), 16, 401)


async def test_without_bot_code_there_is_nothing_to_open(autojump_clock):
    async with running(config=Config()) as world:
        answer = await call(world.url, GET_TOKEN, b"", BINARY)
        assert fault(answer, 5, 404).startswith("this daemon serves no bot code")
        assert answer.headers["x-swarmd-code"] == "no_bot_code"


def test_it_is_for_who_may_operate_bots():
    [method] = [method for method in METHODS if method.name == "GetToken"]
    assert method.verb is Verb.OPERATE
