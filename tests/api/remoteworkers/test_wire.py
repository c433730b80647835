"""The service as Google's client of gRPC meets it: the example bot in a process of its own, and single calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from swarmd.offthread import in_thread
from swarmd.testing import Lab

grpc = pytest.importorskip("grpc", reason="needs grpcio, see the extra test")

from swarmd.api.proto import reflection_pb2  # noqa: E402
from swarmd.api.remoteworkers.proto import bots_pb2  # noqa: E402
from swarmd.api.remoteworkers.service import MAX_UPDATE  # noqa: E402

pytestmark = pytest.mark.swarmd(tcp=True, real_time=True)
ROOT = Path(__file__).parents[3]
SERVICE = "/google.devtools.remoteworkers.v1test2.Bots/"


@asynccontextmanager
async def example(lab: Lab, id: str = "remote-1") -> AsyncIterator[trio.Process]:
    """The example bot, until the block is left."""
    command = [sys.executable, str(ROOT / "examples" / "remote_bot.py"), lab.url, id]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, command, check=False, cwd=ROOT, stdin=subprocess.DEVNULL)
        )
        try:
            yield process
        finally:
            process.kill()


async def test_the_example_bot_runs_commands_to_their_end(swarmd: Lab):
    async with example(swarmd):
        good, bad = await swarmd.submit("true"), await swarmd.submit("sh", "-c", "exit 3")
        missing = await swarmd.submit("no-such-program", dimensions={"kind": "remote", "OSFamily": "linux"})
        assert (await swarmd.until(good)).exit_code == 0
        task = await swarmd.until(bad)
        assert (task.state, task.exit_code, task.ok) == ("COMPLETED", 3, False)
        task = await swarmd.until(missing)
        assert task.state == "CLIENT_ERROR" and task.reason.startswith("FAILED_PRECONDITION: ")


async def test_the_example_bot_kills_what_is_canceled(swarmd: Lab):
    async with example(swarmd):
        id = await swarmd.submit("sleep", "60")
        await swarmd.until(id, "RUNNING")
        await swarmd.client.cancel([id], kill=True)
        assert (await swarmd.until(id)).state == "KILLED"
        assert (await swarmd.until(await swarmd.submit("true"))).ok


async def test_the_example_bot_goes_on_over_a_restart_of_the_daemon(swarmd: Lab):
    async with example(swarmd):
        id = await swarmd.submit("sleep", "3", bot_retries=0)
        await swarmd.until(id, "RUNNING")
        await swarmd.crash()
        await trio.sleep(1)
        await swarmd.start()
        assert (await swarmd.until(id)).ok
        await swarmd.check_attempts(id, "ENDED")


# ------------------------------------------------------------------ single calls


def call(url: str, method: str, request: object, timeout_s: float) -> object:
    """The answer, or the error, of one call."""
    with grpc.insecure_channel(urlsplit(url).netloc) as channel:
        rpc = channel.unary_unary(
            SERVICE + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=bots_pb2.BotSession.FromString,
        )
        try:
            return rpc(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return error


def hello(id: str = "w1", parent: str = "") -> bots_pb2.CreateBotSessionRequest:
    session = bots_pb2.BotSession(bot_id=id, status=1)
    return bots_pb2.CreateBotSessionRequest(parent=parent, bot_session=session)


async def test_a_session_and_a_refusal_on_the_wire(swarmd: Lab):
    session = await in_thread(call, swarmd.url, "CreateBotSession", hello(), 3)
    assert isinstance(session, bots_pb2.BotSession) and session.name.startswith("/")
    error = await in_thread(call, swarmd.url, "CreateBotSession", hello(parent="nope"), 3)
    assert (error.code(), error.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Invalid instance name: [nope]; configured: []",
    )
    request = bots_pb2.PostBotEventTempRequest(name="x")
    error = await in_thread(call, swarmd.url, "PostBotEventTemp", request, 3)
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "")


async def test_a_held_call_is_answered_before_its_deadline(swarmd: Lab):
    began = trio.current_time()
    session = await in_thread(call, swarmd.url, "CreateBotSession", hello(), 4)
    assert isinstance(session, bots_pb2.BotSession), session
    assert 3 <= trio.current_time() - began < 4


async def test_what_is_too_long_or_taken_back_harms_no_session(swarmd: Lab):
    """RESOURCE_EXHAUSTED, CANCELLED, and a lease that was meant for the call that was taken back."""
    session = await in_thread(call, swarmd.url, "CreateBotSession", hello(), 3)
    update = bots_pb2.UpdateBotSessionRequest(name=session.name, bot_session=session)
    update.bot_session.leases.add(id="x", state=4).result.value = b"x" * (MAX_UPDATE + 1)
    error = await in_thread(call, swarmd.url, "UpdateBotSession", update, 30)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details().endswith(f"bytes, and {MAX_UPDATE} are allowed")
    del update.bot_session.leases[:]
    with grpc.insecure_channel(urlsplit(swarmd.url).netloc) as channel:
        rpc = channel.unary_unary(
            SERVICE + "UpdateBotSession", lambda message: message.SerializeToString(), bots_pb2.BotSession.FromString
        )  # fmt: skip
        held = rpc.future(update, timeout=30)
        [known] = swarmd.daemon.engine.sessions.values()
        with trio.fail_after(10):
            while not known.held:
                await trio.sleep(0.01)
            held.cancel()
            while known.held:
                await trio.sleep(0.01)
    assert held.code() is grpc.StatusCode.CANCELLED
    await swarmd.submit("true")
    answer = await in_thread(call, swarmd.url, "UpdateBotSession", update, 3)
    assert len(answer.leases) == 1


async def test_reflection_knows_what_travels_in_leases_and_errors(swarmd: Lab):
    """So that generic tools can show it."""
    names = ("google.devtools.remoteworkers.v1test2.CommandTask", "google.rpc.RetryInfo")

    def ask() -> list[str]:
        with grpc.insecure_channel(urlsplit(swarmd.url).netloc) as channel:
            rpc = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                lambda message: message.SerializeToString(), reflection_pb2.ServerReflectionResponse.FromString,
            )  # fmt: skip
            asks = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
            return [told.WhichOneof("message_response") for told in rpc(iter(asks), timeout=10)]

    assert await in_thread(ask) == ["file_descriptor_response"] * len(names)


@pytest.mark.swarmd(config={"trust_loopback": False})
async def test_a_bot_that_shows_no_token_is_unauthenticated(swarmd: Lab):
    error = await in_thread(call, swarmd.url, "CreateBotSession", hello(), 3)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
