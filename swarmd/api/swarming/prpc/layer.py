"""A method of a protobuf service as a route of the edge: reads the call, gives its handler a message, sends the answer.

A handler is `async (call, request message) -> response message`. It may raise `RpcError`, or any error of the core,
which the edge tells in this protocol's form. Handlers, messages and protobuf itself are loaded at the first call.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from msgspec import Struct

from swarmd.api.aside import Aside
from swarmd.api.calls import Call, Reply
from swarmd.api.problems import Handler, TooLarge
from swarmd.api.routes import MIB, Route, Verb
from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.prpc import negotiation
from swarmd.api.swarming.prpc.bodies import GZIP_ABOVE, BadGzip, deflated, inflated
from swarmd.api.swarming.prpc.errors import CODE_HEADER, error_reply
from swarmd.api.swarming.prpc.negotiation import BadHeader, Encoding

if TYPE_CHECKING:
    from google.protobuf.message import Message

MAX_BODY = 64 * MIB  # what the protocol grants a request, before and after decompression
# What all but the largest requests are far below. 60 MiB of empty strings, which are 60 KiB when compressed, would take
# 3 GiB of memory and stop the daemon for ten seconds.
USUAL_BODY = MIB
# The parsers of these are slow, and let nobody else run while they look for the end of a number or a text.
MAX_OF_ENCODING = {Encoding.BINARY: MAX_BODY, Encoding.JSON: 4 * MIB, Encoding.TEXT: MIB}

RpcHandler = Callable[[Call, Any], Awaitable[Any]]


class Method(Struct, frozen=True):
    """A method that is served. Its handler is the attribute `new_task` for `NewTask`, of one of the loaded parts.

    `limit`: bytes of a request, before and after decompression; at most `MAX_BODY`.
    """

    service: str
    name: str
    verb: Verb
    about: str
    limit: int = USUAL_BODY

    @property
    def key(self) -> str:
        return f"{self.service}/{self.name}"

    @property
    def attribute(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()

    def route(self) -> Route:
        return Route(
            method="POST", path=f"/prpc/{self.key}", handler=self.key, about=self.about, verb=self.verb,
            body_limit=self.limit, raw_body=True, hot=True, produces=Encoding.BINARY.value,
        )  # fmt: skip


class Bound(NamedTuple):
    request: type[Message]
    answer: type[Message]
    handler: RpcHandler


class Wishes(NamedTuple):
    """What the headers of a call ask for."""

    body: Encoding
    gzipped: bool
    timeout_s: float
    max_answer: float
    takes_gzip: bool


class Layer:
    def __init__(self, methods: Iterable[Method], load: Callable[[], Iterable[object]]) -> None:
        """`load` imports the services' descriptors, and gives the objects that have the handlers."""
        self._methods = tuple(methods)
        self._load = load
        self._bound: dict[str, Bound] = {}
        self._aside = Aside()
        self.handlers: dict[str, Handler] = {
            method.key: partial(self._serve, method) for method in self._methods
        }

    def binding(self, method: Method) -> Bound:
        """The types and the handler of a method."""
        if not self._bound:
            self._bound = self._bind(tuple(self._load()))
        return self._bound[method.key]

    def _bind(self, parts: tuple[object, ...]) -> dict[str, Bound]:
        from google.protobuf import descriptor_pool, message_factory

        found: dict[str, Bound] = {}
        for method in self._methods:
            service = descriptor_pool.Default().FindServiceByName(method.service)
            known = service.methods_by_name[method.name]
            owners = [part for part in parts if hasattr(part, method.attribute)]
            assert len(owners) == 1, f"{method.key} has {len(owners)} owners"
            request, answer = (
                message_factory.GetMessageClass(t) for t in (known.input_type, known.output_type)
            )
            found[method.key] = Bound(request, answer, getattr(owners[0], method.attribute))
        return found

    # ------------------------------------------------------------- a call

    async def _serve(self, method: Method, call: Call) -> Reply:
        encoding = Encoding.BINARY
        try:
            encoding = _answer_encoding(call)
            wishes = _wishes(call)
            with trio.move_on_after(wishes.timeout_s) as scope:
                return await self._answer(method, call, wishes, encoding)
            assert scope.cancelled_caught
            raise RpcError(Code.DEADLINE_EXCEEDED, f"not done within the {wishes.timeout_s:g} s of the call")
        except RpcError as error:
            return error_reply(error, encoding)

    async def _answer(self, method: Method, call: Call, wishes: Wishes, encoding: Encoding) -> Reply:
        bound = self.binding(method)
        limit = min(method.limit, MAX_OF_ENCODING[wishes.body])
        request = await self._request(bound.request, call, wishes, limit)
        answer = await bound.handler(call, request)
        assert isinstance(answer, bound.answer), f"{call.route.path} gave {type(answer).__name__}"
        return await self._reply(answer, wishes, encoding)

    async def _request(self, type: type[Message], call: Call, wishes: Wishes, limit: int) -> Message:
        from swarmd.api.swarming.prpc.codec import BadMessage, decoded

        def read() -> Message:
            return decoded(type, inflated(data, limit) if wishes.gzipped else data, wishes.body)

        assert call.chunks is not None and call.share is not None
        parts, size = [], 0
        async for chunk in call.chunks():
            size += len(chunk)
            if size > limit:
                raise TooLarge(limit)
            call.share.hold(size)
            parts.append(chunk)
        data = b"".join(parts)
        parts.clear()
        try:
            # What was compressed may be large: no more of these than of other large ones are in memory at once.
            message = await self._aside(limit if wishes.gzipped else size, read)
            if wishes.gzipped:
                call.share.hold(message.ByteSize())
            return message
        except (BadGzip, BadMessage) as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"could not decode body: {error}") from None

    async def _reply(self, answer: Message, wishes: Wishes, encoding: Encoding) -> Reply:
        from swarmd.api.swarming.prpc.codec import encoded

        body = await self._aside(answer.ByteSize(), encoded, answer, encoding)
        if len(body) > wishes.max_answer:
            raise _too_big(len(body), int(wishes.max_answer))
        headers = [(CODE_HEADER, b"0")]
        if wishes.takes_gzip and len(body) > GZIP_ABOVE:
            body = await self._aside(len(body), deflated, body)
            headers.append((b"content-encoding", b"gzip"))
        return Reply(body, content_type=encoding.value, headers=tuple(headers))


def _answer_encoding(call: Call) -> Encoding:
    try:
        encoding = negotiation.answer_encoding(call.headers.get("accept", ""))
    except BadHeader as error:
        raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None
    if encoding is None:
        given = call.headers["accept"][:80]
        raise RpcError(Code.INVALID_ARGUMENT, f"Accept is {given!r}, expected {_known_types()}", status=406)
    return encoding


def _wishes(call: Call) -> Wishes:
    headers = call.headers
    content_type, coding = (
        headers.get("content-type", ""),
        headers.get("content-encoding", "").strip().lower(),
    )
    try:
        body = negotiation.request_encoding(content_type)
    except BadHeader:
        body = None
    if body is None:
        raise RpcError(
            Code.INVALID_ARGUMENT,
            f"Content-Type is {content_type[:80]!r}, expected {_known_types()}",
            status=415,
        )
    if coding not in ("", "identity", "gzip"):
        raise RpcError(
            Code.INVALID_ARGUMENT, f"Content-Encoding is {coding[:80]!r}, expected gzip or none", status=415
        )
    timeout, size = headers.get("x-prpc-grpc-timeout"), headers.get("x-prpc-max-response-size")
    try:
        return Wishes(
            body,
            coding == "gzip",
            inf if timeout is None else negotiation.timeout_s(timeout),
            inf if size is None else negotiation.max_answer_size(size),
            negotiation.takes_gzip(headers.get("accept-encoding", "")),
        )
    except BadHeader as error:
        raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None


def _known_types() -> str:
    return " or ".join(f"{encoding.value!r}" for encoding in Encoding)


def _too_big(size: int, limit: int) -> RpcError:
    """UNAVAILABLE, because the protocol says so; a client that finds this detail does not repeat the call."""
    from swarmd.api.swarming.proto import prpc_pb2

    told = prpc_pb2.ResponseTooBig(response_size=size, response_limit=limit)
    return RpcError(
        Code.UNAVAILABLE,
        f"the answer has {size} bytes, and the client takes {limit}",
        [prpc_pb2.ErrorDetails(response_too_big=told)],
    )
