"""Services of gRPC: what a package gives, and what a handler sees. They are served by `api/grpc_edge.py`.

    unary          async (call, request) -> answer
    server_stream  (call, request) -> async iterator of answers
    client_stream  async (call, requests) -> answer
    both_streams   (call, requests) -> async iterator of answers

`requests` is an async iterator. A handler may raise `RpcError`, or any error of the core. It is cancelled when the
client takes the call back or goes, and at the call's deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from swarmd.api.calls import Caller
from swarmd.api.routes import MIB, Verb

if TYPE_CHECKING:
    from google.protobuf.message import Message

USUAL_MESSAGE = 4 * MIB  # what servers of gRPC take unless told otherwise

Kind = Literal["unary", "server_stream", "client_stream", "both_streams"]
Unary = Callable[["RpcCall", Any], Awaitable[Any]]
Streaming = Callable[["RpcCall", Any], AsyncIterator[Any]]


class RpcCall:
    """One call of gRPC as a handler sees it."""

    __slots__ = ("binary", "caller", "deadline", "initial", "metadata", "method", "trailing")

    def __init__(
        self,
        method: str,
        caller: Caller,
        metadata: dict[str, str] | None = None,
        binary: dict[str, bytes] | None = None,
        deadline: float = inf,
    ) -> None:
        self.method = method  # "/package.Service/Method"
        self.caller = caller
        self.metadata = metadata or {}  # names in lower case; several values of one are joined by commas
        self.binary = binary or {}  # those whose names end in "-bin"
        self.deadline = deadline  # trio time, inf when there is none
        self.initial: dict[str, str | bytes] = {}  # sent before the first answer
        self.trailing: dict[str, str | bytes] = {}  # sent with the status


class Rpc(Struct, frozen=True, kw_only=True):
    """A method of a service. `limit`: bytes of a request message, as sent and inflated."""

    name: str
    request: type[Message]
    answer: type[Message]
    handler: Unary | Streaming
    verb: Verb
    kind: Kind = "unary"
    limit: int = USUAL_MESSAGE


class Service(Struct, frozen=True, kw_only=True):
    """`name` is the full one. For reflection: `file` is the `FileDescriptor` of its file, `carried` are those of what
    travels in an `Any`."""

    name: str
    rpcs: tuple[Rpc, ...]
    file: Any
    carried: tuple[Any, ...] = ()


LoadServices = Callable[[], tuple[Service, ...]]
