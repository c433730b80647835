"""What can go wrong with a call, before any protocol puts it into its own form.

Whatever is raised becomes a `Problem` here, once for all protocols; each `Package` has one function that writes it the
way its clients read it, so that no other protocol's page, nor a framework's, ever reaches them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any

import trio
from msgspec import Struct

from swarmd.api.calls import Call, Headers, Reply
from swarmd.api.grpc import LoadServices
from swarmd.api.guard import Denied, Lesser
from swarmd.api.routes import Route
from swarmd.config import Config
from swarmd.core.errors import Busy, Conflict, CoreError, NotYours, Refused, Unknown
from swarmd.daemon.daemon import NoSpace, Stopping
from swarmd.store.errors import StoreBroken, StoreError

log = logging.getLogger("swarmd.edge")

Handler = Callable[[Call], Awaitable[Any]]
Prepare = Callable[[Config], Awaitable[Callable[[], None]]]


class TooLarge(Exception):
    """A body above its route's limit."""


class Problem(Struct, frozen=True):
    """Why a call failed: an HTTP status, a stable code, a sentence, what to do, and headers that belong to it."""

    status: int
    code: str
    message: str
    remedy: str = ""
    details: dict[str, Any] = {}
    headers: Headers = ()


class Package(Struct, frozen=True):
    """What one protocol adds to the edge. Paths that begin with one of `prefixes` are its own, known to it or not.

    `prepare` looks at a new configuration, changes nothing, and gives what takes it; raises `ConfigError` for one that
    cannot be used. `lesser` knows secrets (`Guard`). `check_ticket` raises `Denied` for a ticket that is none
    (`Route.ticket`). `grpc` gives its services of gRPC when the first one is called: they need protobuf.
    """

    name: str
    routes: tuple[Route, ...]
    handlers: dict[str, Handler]
    prefixes: tuple[str, ...]
    form: Callable[[Problem], Reply]
    prepare: Prepare | None = None
    lesser: Lesser | None = None
    check_ticket: Callable[[str], None] | None = None
    grpc: LoadServices | None = None


_STATUS: tuple[tuple[type[CoreError], int], ...] = (
    (Unknown, 404),
    (Conflict, 409),
    (NotYours, 409),
    (Busy, 503),
    (Refused, 400),
)
_STORE_STATUS = {"digest_mismatch": 400, "size_mismatch": 400, "blob_missing": 404}
_STORE_REMEDIES = {
    "digest_mismatch": "send the bytes of that digest, or let the daemon name them: POST /api/v1/blobs",
    "size_mismatch": "send all bytes that were announced",
    "blob_missing": "upload it again",
}


def problem_of(error: BaseException) -> Problem | None:
    """What went wrong, or None for what is not ours to answer (a cancel, a broken engine)."""
    if isinstance(error, CoreError):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        wait = _retry_after(error.retry_after_s) if isinstance(error, Busy) else ()
        return Problem(status, error.code, error.message, error.remedy, error.details, wait)
    if isinstance(error, Denied):
        return Problem(error.status, error.code, error.message, error.remedy, {}, _denied_headers(error))
    if isinstance(error, TooLarge):
        limit = error.args[0]
        return Problem(
            413, "too_large", f"the body has more than {limit} bytes", "send less", {"limit": limit}
        )
    if isinstance(error, Stopping):
        return Problem(503, "stopping", "the daemon is stopping", "try again", {}, _retry_after(1))
    if isinstance(error, NoSpace):
        return Problem(
            507, "no_space", str(error), "make room on the disk, then repeat with the same request id"
        )
    if isinstance(error, StoreBroken):
        return Problem(503, "store_broken", error.message, "restart the daemon", {}, _retry_after(5))
    if isinstance(error, StoreError):
        remedy = _STORE_REMEDIES.get(error.code, "see the daemon's log")
        return Problem(_STORE_STATUS.get(error.code, 500), error.code, error.message, remedy)
    if isinstance(error, Exception) and not isinstance(error, trio.Cancelled):
        log.error("call.failed", exc_info=error)
        return Problem(500, "internal", "the daemon failed at this call; its log tells more", "report it")
    return None


def _retry_after(seconds: float) -> Headers:
    return ((b"retry-after", str(max(1, ceil(seconds))).encode()),)


def _denied_headers(error: Denied) -> Headers:
    if error.status in (408, 414):
        return ((b"connection", b"close"),)
    if error.status == 401:
        return ((b"www-authenticate", b"Bearer"),)
    if error.status == 405:
        return ((b"allow", error.remedy.removeprefix("use ").encode()),)
    return ()
