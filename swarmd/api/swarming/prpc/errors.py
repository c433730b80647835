"""Codes of gRPC, and how an error looks on the wire.

The code in the header decides what a client does; it ignores the status. It repeats UNKNOWN, DEADLINE_EXCEEDED,
INTERNAL and UNAVAILABLE ten times, over five minutes: nothing that a repetition cannot change may have one of these.
"""

from __future__ import annotations

import base64

from swarmd.api.calls import Headers, Reply
from swarmd.api.problems import Problem
from swarmd.api.rpc import Code, RpcError, code_of
from swarmd.api.swarming.prpc.negotiation import Encoding

CODE_HEADER = b"x-prpc-grpc-code"
DETAILS_HEADER = b"x-prpc-status-details-bin"
OWN_CODE_HEADER = b"x-swarmd-code"  # the code that docs/errors.md explains
TEXT = "text/plain; charset=utf-8"


STATUS = {
    Code.OK: 200, Code.CANCELLED: 499, Code.UNKNOWN: 500, Code.INVALID_ARGUMENT: 400, Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404, Code.ALREADY_EXISTS: 409, Code.PERMISSION_DENIED: 403, Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400, Code.ABORTED: 409, Code.OUT_OF_RANGE: 400, Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500, Code.UNAVAILABLE: 503, Code.DATA_LOSS: 500, Code.UNAUTHENTICATED: 401,
}  # fmt: skip


def form(problem: Problem) -> Reply:
    """An error of the edge or the core as a pRPC client reads it."""
    code, status, remedy = code_of(problem), problem.status, problem.remedy
    if problem.code == "unknown_route":
        status, remedy = STATUS[code], "discovery.Discovery/Describe tells what there is"
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
    return _reply(error.code, error.status or STATUS[error.code], error.message, details)


def _reply(code: Code, status: int, text: str, headers: Headers) -> Reply:
    body = text.encode("utf-8", "backslashreplace") + b"\n"
    own = (CODE_HEADER, b"%d" % code)
    return Reply(body, status=status, content_type=TEXT, headers=(own, *headers))
