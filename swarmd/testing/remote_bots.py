"""Scripted bots of the Remote Workers API for tests: each says exactly what the test wants said.

    bot = lab.remote_bot("w1", instance="lab")
    await bot.create()
    await bot.update()                        # held until there is work, by default not at all
    [lease] = bot.leases
    await bot.update()                        # naming the lease: it runs
    bot.complete(lease.id, exit_code=0)
    await bot.update()

A bot keeps what a real one keeps: the session as the last answer had it. Its calls go straight to the handlers of the
daemon, with messages that went through bytes, so that they run on virtual time. It starts no process. See
docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import trio
from google.protobuf import any_pb2
from google.protobuf.message import Message

from swarmd.api.calls import Caller
from swarmd.api.grpc import RpcCall
from swarmd.api.problems import problem_of
from swarmd.api.remoteworkers.payloads import COMMAND_RESULT
from swarmd.api.remoteworkers.proto import bots_pb2, command_pb2
from swarmd.api.remoteworkers.service import BOTS
from swarmd.api.rpc import Code, RpcError, code_of

if TYPE_CHECKING:
    from swarmd.testing.lab import Lab

OK, UNHEALTHY, MAINTENANCE = 1, 2, 6
PENDING, ACTIVE, COMPLETED = 1, 2, 4


class RemoteBot:
    """One bot of the service Bots. Change `session` as you like: it is what the next update sends.

    Methods raise `RpcError` for a refusal.
    """

    def __init__(
        self,
        lab: Lab,
        id: str,
        *,
        instance: str = "",
        properties: Sequence[tuple[str, str]] = (),
        capacity: int | None = None,
    ) -> None:
        self.lab = lab
        self.id = id
        self.instance = instance
        self.session = bots_pb2.BotSession(bot_id=id, status=OK)
        device = self.session.worker.devices.add(handle="primary")
        for key, value in properties:
            device.properties.add(key=key, value=value)
        if capacity is not None:
            self.session.worker.configs.add(key="capacity", value=str(capacity))
        self.trailing: Mapping[str, str | bytes] = {}  # of the last answer
        # While it is true, each call is made twice with the same bytes: the first answer was lost.
        self.loses_answers = False

    @property
    def leases(self) -> list[bots_pb2.Lease]:
        """What the last answer says that it holds, and what was done to them here."""
        return list(self.session.leases)

    def lease(self, id: str) -> bots_pb2.Lease:
        return next(lease for lease in self.session.leases if lease.id == id)

    # ------------------------------------------------------------- calls

    async def create(self, deadline_s: float = 1.0, status: int = OK) -> bots_pb2.BotSession:
        """Opens a session, as a process that has just started: it holds what `session` says, by default nothing."""
        self.session.name = self.session.version = ""
        self.session.status = status  # type: ignore[assignment]
        request = bots_pb2.CreateBotSessionRequest(parent=self.instance, bot_session=self.session)
        return self._took(await self.call("CreateBotSession", request, deadline_s))

    async def update(self, deadline_s: float = 1.0, status: int = OK) -> bots_pb2.BotSession:
        """Says what it holds, and takes over what it is told. With a deadline below 3.75 s it is not held."""
        self.session.status = status  # type: ignore[assignment]
        request = bots_pb2.UpdateBotSessionRequest(name=self.session.name, bot_session=self.session)
        return self._took(await self.call("UpdateBotSession", request, deadline_s))

    async def post(self, kind: int, message: str) -> Any:
        request = bots_pb2.PostBotEventTempRequest(name=self.session.name, type=kind, msg=message)  # type: ignore[arg-type]
        return await self.call("PostBotEventTemp", request)

    async def call(self, method: str, request: Message, deadline_s: float = inf) -> Any:
        """One call with whatever message; gives the answer and changes nothing here."""
        if self.loses_answers:
            await self._exchange(method, request, deadline_s)
        return await self._exchange(method, request, deadline_s)

    async def _exchange(self, method: str, request: Message, deadline_s: float) -> Any:
        [service] = [s for s in self.lab.services if s.name == BOTS]
        [rpc] = [rpc for rpc in service.rpcs if rpc.name == method]
        call = RpcCall(
            f"/{BOTS}/{method}", Caller("127.0.0.1", True), deadline=trio.current_time() + deadline_s
        )
        handler: Any = rpc.handler
        try:
            with trio.fail_after(deadline_s):
                answer = await handler(call, type(request).FromString(request.SerializeToString()))
        except trio.TooSlowError:
            raise RpcError(Code.DEADLINE_EXCEEDED, "not done within the time that the call has") from None
        except RpcError:
            raise
        except Exception as error:
            problem = problem_of(error)
            assert problem is not None
            raise RpcError(code_of(problem), problem.message) from error
        self.trailing = call.trailing
        return type(answer).FromString(answer.SerializeToString())

    def _took(self, answer: bots_pb2.BotSession) -> bots_pb2.BotSession:
        self.session.CopyFrom(answer)
        return answer

    # ------------------------------------------------------------- what it does to its leases

    def begin(self, id: str) -> None:
        """From now on it says that the lease is active."""
        self.lease(id).state = ACTIVE  # type: ignore[assignment]

    def complete(
        self,
        id: str,
        exit_code: int | None = 0,
        *,
        code: int = 0,
        message: str = "",
        result: any_pb2.Any | None = None,
    ) -> None:
        """The next update says that the lease is completed: with this exit code, or this status of the lease."""
        lease = self.lease(id)
        lease.state = COMPLETED  # type: ignore[assignment]
        lease.status.code, lease.status.message = code, message
        if result is not None:
            lease.result.CopyFrom(result)
        elif exit_code is not None and not code:
            told = command_pb2.CommandResult(exit_code=exit_code)
            lease.result.CopyFrom(any_pb2.Any(type_url=COMMAND_RESULT, value=told.SerializeToString()))

    def drop(self, id: str) -> None:
        """It forgets the lease."""
        kept = [lease for lease in self.leases if lease.id != id]
        del self.session.leases[:]
        self.session.leases.extend(kept)


def command_of(lease: bots_pb2.Lease) -> command_pb2.CommandTask:
    """The command that a lease carries."""
    return command_pb2.CommandTask.FromString(lease.payload.value)
