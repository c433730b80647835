"""The edge of gRPC: every call passes here, and the same checks as every request of HTTP.

It takes streams of HTTP/2 from the server (`daemon/server.py`), speaks the protocol through `swarmd.grpc`, and calls
the handlers of the packages' services. Protobuf and the services are loaded at the first call.
"""

from __future__ import annotations

from contextlib import aclosing
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from swarmd.api.aside import Aside
from swarmd.api.budget import Share
from swarmd.api.grpc import Rpc, RpcCall, Service
from swarmd.api.guard import Denied
from swarmd.api.problems import Problem, problem_of
from swarmd.api.routes import Verb
from swarmd.api.rpc import Code, RpcError, code_of
from swarmd.daemon.daemon import Stopping
from swarmd.daemon.http2 import Stream
from swarmd.daemon.http2_asgi import plain_fields
from swarmd.grpc.codes import WireFault
from swarmd.grpc.conversation import Conversation
from swarmd.grpc.wire import Fields, Head, head_of, metadata_fields
from swarmd.logs import printable

if TYPE_CHECKING:
    from swarmd.api.edge import Edge

MAX_PATH = 1_024


class Ended(NamedTuple):
    """How a call ended."""

    code: Code
    message: str = ""
    details: bytes = b""
    problem: str = ""  # the code that docs/errors.md explains


class GrpcEdge:
    """Serves a stream; made by the edge whose guard and packages it uses."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._aside = Aside()
        self._rpcs: dict[str, Rpc] | None = None
        self._services: tuple[Service, ...] = ()

    @property
    def services(self) -> tuple[Service, ...]:
        """All that is served, loaded when it was not."""
        if self._rpcs is None:
            from swarmd.api.grpc_standard import standard_services

            loaders = [package.grpc for package in self._edge.packages if package.grpc is not None]
            given = [service for load in loaders for service in load()]
            standard = standard_services(self._edge.daemon, lambda: self._services)
            self._services = (*given, *standard)
            self._rpcs = {f"/{s.name}/{rpc.name}": rpc for s in self._services for rpc in s.rpcs}
        return self._services

    def rpc(self, path: str) -> Rpc:
        """Raises `RpcError`."""
        _ = self.services
        assert self._rpcs is not None
        rpc = self._rpcs.get(path)
        if rpc is None:
            raise RpcError(
                Code.UNIMPLEMENTED, f"there is no method {path[:200]!r}; reflection lists what there is"
            )
        return rpc

    async def __call__(self, stream: Stream) -> None:
        with self._edge.budget.share() as share:
            await self._converse(stream, share)

    async def _converse(self, stream: Stream, share: Share) -> None:
        conversation: Conversation | None = None
        call: RpcCall | None = None
        try:
            rpc, call, head = self._look(stream)
            conversation = Conversation(stream, head, rpc.limit, self._aside, share.hold)
            with trio.move_on_at(call.deadline) as scope:
                await self._serve(rpc, call, conversation)
                scope.deadline = inf  # what was said in time is sent
                ended = Ended(Code.OK)
            if scope.cancelled_caught:
                ended = Ended(Code.DEADLINE_EXCEEDED, "not done within the time that the call has")
        except BaseException as error:
            told = told_of(error)
            if told is None:
                raise
            ended = told
        if conversation is None:
            conversation = Conversation(stream, _NO_HEAD, 0, self._aside, share.hold)
        trailing = _fields(call.trailing) if call is not None else []
        if ended.problem:
            trailing.append((b"x-swarmd-code", ended.problem.encode()))
        await conversation.end(ended.code, printable(ended.message), ended.details, trailing)

    def _look(self, stream: Stream) -> tuple[Rpc, RpcCall, Head]:
        """Checks everything that can be checked before the first message. Raises what `told_of` knows."""
        edge = self._edge
        fields = plain_fields(stream.fields)
        raw_path = next(value for name, value in stream.fields if name == b":path")
        if len(raw_path) > MAX_PATH:
            raise Denied(414, "uri_too_long", f"the path has more than {MAX_PATH} bytes", "send less")
        peer = stream.peer
        caller, path = edge.guard.admit(fields, peer[0] if peer else None, raw_path.decode("latin-1"))
        rpc = self.rpc(path)
        edge.guard.may(caller, rpc.verb)
        head = head_of(fields)
        if edge.is_leaving and rpc.verb is not Verb.OPEN:
            raise Stopping
        deadline = inf if head.timeout_s is None else trio.current_time() + head.timeout_s
        return rpc, RpcCall(path, caller, head.metadata, head.binary, deadline), head

    # ------------------------------------------------------------- the four kinds

    async def _serve(self, rpc: Rpc, call: RpcCall, conversation: Conversation) -> None:
        handler: Any = rpc.handler
        if rpc.kind in ("unary", "server_stream"):
            request: Any = await self._only_request(rpc, conversation)
        else:
            request = self._requests(rpc, conversation)
        if rpc.kind in ("unary", "client_stream"):
            await self._answer(rpc, call, conversation, await handler(call, request))
            return
        async with aclosing(handler(call, request)) as answers:
            async for answer in answers:
                await self._answer(rpc, call, conversation, answer)
                await trio.lowlevel.checkpoint()

    async def _only_request(self, rpc: Rpc, conversation: Conversation) -> Any:
        """In a frame of its own: the bytes are not kept while the call is held."""
        data = await conversation.only_message()
        return await self._aside(len(data), _parsed, rpc.request, data)

    async def _requests(self, rpc: Rpc, conversation: Conversation) -> Any:
        while (data := await conversation.message()) is not None:
            yield await self._aside(len(data), _parsed, rpc.request, data)

    async def _answer(self, rpc: Rpc, call: RpcCall, conversation: Conversation, answer: Any) -> None:
        assert isinstance(answer, rpc.answer), f"{call.method} gave {type(answer).__name__}"
        data = await self._aside(answer.ByteSize(), answer.SerializeToString)
        conversation.initial = _fields(call.initial)
        await conversation.answer(data)


def _parsed(type: Any, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return type.FromString(data)
    except DecodeError as error:
        name = type.DESCRIPTOR.full_name
        raise RpcError(Code.INVALID_ARGUMENT, f"a message is no {name}: {str(error)[:200]}") from None


_NO_HEAD = Head(None, "identity", False, {}, {})  # of a call that was not looked at


def _fields(metadata: dict[str, str | bytes]) -> Fields:
    return metadata_fields(metadata) if metadata else []


def told_of(error: BaseException) -> Ended | None:
    """An error as a client of gRPC reads it; None for what is not ours to answer."""
    if isinstance(error, RpcError):
        return Ended(error.code, error.message, _status(error) if error.details else b"")
    if isinstance(error, WireFault):
        return Ended(error.code, error.message)
    problem = problem_of(error)
    return None if problem is None else _told(problem)


def _told(problem: Problem) -> Ended:
    text = f"{problem.message}; {problem.remedy}" if problem.remedy else problem.message
    return Ended(code_of(problem), text, problem=problem.code)


def _status(error: RpcError) -> bytes:
    from google.rpc import status_pb2

    status = status_pb2.Status(code=int(error.code), message=error.message)
    for detail in error.details:
        status.details.add().Pack(detail)
    return bytes(status.SerializeToString())
