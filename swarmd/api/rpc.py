"""Errors in the terms of gRPC. Two wires use them: pRPC over HTTP/1.1, and gRPC itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarmd.api.problems import Problem
from swarmd.grpc.codes import Code

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Code", "RpcError", "code_of"]

# What everybody else's errors mean here: the status of the problem to the code.
_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.UNAVAILABLE,  # the body came too slowly: the next one may not
    409: Code.FAILED_PRECONDITION,
    413: Code.INVALID_ARGUMENT,
    414: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    421: Code.FAILED_PRECONDITION,  # this daemon is not the host that the client takes it for
    500: Code.INTERNAL,
    503: Code.UNAVAILABLE,
    507: Code.UNAVAILABLE,
}


class RpcError(Exception):
    """Ends a call with a code of gRPC. `details` are messages; `status` replaces the usual HTTP status of the code."""

    def __init__(self, code: Code, message: str, details: Sequence[Message] = (), status: int = 0) -> None:
        assert code is not Code.OK
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.status = status


def code_of(problem: Problem) -> Code:
    """The code of an error of the edge or the core."""
    return Code.UNIMPLEMENTED if problem.code == "unknown_route" else _CODES[problem.status]
