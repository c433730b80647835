"""A service in which what is asked for happens, in a daemon of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from swarmd.api.grpc import Rpc, RpcCall, Service
from swarmd.api.native import form
from swarmd.api.problems import Package
from swarmd.api.routes import MIB, Verb
from swarmd.api.rpc import Code, RpcError
from swarmd.core.errors import Busy, Unknown
from swarmd.testing.harness import RunningDaemon, running

from . import echo_pb2
from .echo_pb2 import Text

NAME = "swarmd.tests.Echo"
MOST = 16 * MIB


class Echo:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.calls: list[RpcCall] = []
        self.release = trio.Event()

    async def say(self, call: RpcCall, request: Text) -> Text:
        self.calls.append(call)
        self.begun.append(request.text)
        try:
            answer = await self._said(call, request)
        except trio.Cancelled:
            self.cancelled.append(request.text)
            raise
        self.ended.append(request.text)
        return answer

    async def _said(self, call: RpcCall, request: Text) -> Text:
        match request.text.split(" ", 1):
            case ["hold", *_]:
                await self.release.wait()
            case ["begun"]:
                return Text(number=self.begun.count("hold"))
            case ["release"]:
                self.release.set()
                self.release = trio.Event()
            case ["sleep", seconds]:
                await trio.sleep(float(seconds))
            case ["fail", message]:
                raise RpcError(Code(request.number % 17 or 2), message, [Text(text="a detail")])
            case ["unknown"]:
                raise Unknown("unknown_task", "there is no such task", "give another")
            case ["busy"]:
                raise Busy("busy", "not now", 3, "later")
            case ["broken"]:
                raise RuntimeError("the handler is broken")
            case ["metadata"]:
                call.initial = {"first": "1", "first-bin": b"\0\1"}
                call.trailing = {"last": "2", "last-bin": b"\xff"}
                return Text(text=call.metadata.get("asked", ""), data=call.binary.get("asked-bin", b""))
            case ["size"]:
                return Text(data=b"x" * request.number, number=len(request.data))
        return request

    async def count(self, call: RpcCall, request: Text) -> AsyncIterator[Text]:
        self.begun.append(request.text)
        try:
            number = 0
            while request.number < 0 or number < request.number:
                yield Text(number=number, data=request.data)
                number += 1
                if request.text == "hold":
                    await self.release.wait()
            if request.text.startswith("fail"):
                raise RpcError(Code.ABORTED, "in the middle")
        except (trio.Cancelled, GeneratorExit):
            self.cancelled.append(request.text)
            raise
        self.ended.append(request.text)

    async def sum(self, call: RpcCall, requests: AsyncIterator[Text]) -> Text:
        total, size = 0, 0
        async for request in requests:
            if request.text == "enough":
                return Text(text="enough")
            total += request.number
            size += len(request.data)
        return Text(number=total, text=str(size))

    async def chat(self, call: RpcCall, requests: AsyncIterator[Text]) -> AsyncIterator[Text]:
        async for request in requests:
            yield request

    def services(self) -> tuple[Service, ...]:
        one: dict[str, Any] = {"request": Text, "answer": Text, "verb": Verb.SUBMIT, "limit": MOST}
        rpcs = (
            Rpc(name="Say", handler=self.say, **one),
            Rpc(name="Count", handler=self.count, kind="server_stream", **one),
            Rpc(name="Sum", handler=self.sum, kind="client_stream", **one),
            Rpc(name="Chat", handler=self.chat, kind="both_streams", **one),
        )
        return (Service(name=NAME, rpcs=rpcs, file=echo_pb2.DESCRIPTOR),)


def add_to(world: RunningDaemon) -> Echo:
    """Before the first call of gRPC: the services are loaded then."""
    echo = Echo()
    package = Package("echo", (), {}, (), form, grpc=echo.services)
    world.app.packages = (*world.app.packages, package)
    return echo


@asynccontextmanager
async def echoing(**how: Any) -> AsyncIterator[tuple[RunningDaemon, Echo]]:
    async with running(**{"tcp": True, **how}) as world:
        yield world, add_to(world)
