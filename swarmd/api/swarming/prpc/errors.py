"""Codes of gRPC, and how an error looks on the wire.

The code in the header decides what a client does; it ignores the status. It repeats UNKNOWN, DEADLINE_EXCEEDED,
INTERNAL and UNAVAILABLE ten times, over five minutes: nothing that a repetition cannot change may have one of these.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from swarmd.api.calls import Headers, Reply
from swarmd.api.problems import Problem
from swarmd.api.swarming.prpc.negotiation import Encoding

if TYPE_CHECKING:
    from google.protobuf.message import Message

CODE_HEADER = b"x-prpc-grpc-code"
DETAILS_HEADER = b"x-prpc-status-details-bin"
OWN_CODE_HEADER = b"x-swarmd-code"  # the code that docs/errors.md explains
TEXT = "text/plain; charset=utf-8"


class Code(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


STATUS = {
    Code.OK: 200, Code.CANCELLED: 499, Code.UNKNOWN: 500, Code.INVALID_ARGUMENT: 400, Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404, Code.ALREADY_EXISTS: 409, Code.PERMISSION_DENIED: 403, Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400, Code.ABORTED: 409, Code.OUT_OF_RANGE: 400, Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500, Code.UNAVAILABLE: 503, Code.DATA_LOSS: 500, Code.UNAUTHENTICATED: 401,
}  # fmt: skip

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
    """Ends a call with a code of gRPC. `details` are messages; `status` replaces the usual one of the code."""

    def __init__(self, code: Code, message: str, details: Sequence[Message] = (), status: int = 0) -> None:
        assert code is not Code.OK
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.status = status or STATUS[code]


def form(problem: Problem) -> Reply:
    """An error of the edge or the core as a pRPC client reads it."""
    code, status, remedy = _CODES[problem.status], problem.status, problem.remedy
    if problem.code == "unknown_route":
        code, status, remedy = Code.UNIMPLEMENTED, 501, "discovery.Discovery/Describe tells what there is"
    elif code is Code.FAILED_PRECONDITION and status == 409:
        status = STATUS[code]
    text = f"{problem.message}; {remedy}" if remedy else problem.message
    return _reply(code, status, text, ((OWN_CODE_HEADER, problem.code.encode()), *problem.headers))


def error_reply(error: RpcError, encoding: Encoding) -> Reply:
    """An error of a method. Its details are encoded as the answer would have been."""
    details: Headers = ()
    if error.details:
        from swarmd.api.swarming.prpc.codec import packed

        details = tuple(
            (DETAILS_HEADER, base64.b64encode(packed(detail, encoding))) for detail in error.details
        )
    return _reply(error.code, error.status, error.message, details)


def _reply(code: Code, status: int, text: str, headers: Headers) -> Reply:
    body = text.encode("utf-8", "backslashreplace") + b"\n"
    own = (CODE_HEADER, b"%d" % code)
    return Reply(body, status=status, content_type=TEXT, headers=(own, *headers))
