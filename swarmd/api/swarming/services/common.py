"""What the methods of all services share: moments, pages, and the cursors between them."""

from __future__ import annotations

import base64
import binascii
import math
from typing import overload

from google.protobuf.timestamp_pb2 import Timestamp

from swarmd.api.rpc import Code, RpcError

USUAL_PAGE = 100
MAX_PAGE = 1_000
MAX_CURSOR = 1_024  # characters; the longest key is a bot's id
MICROS = 1_000_000
LAST_SECOND = 253_402_300_799  # of the year 9999, with which the moments of protobuf end


@overload
def moment(wall: float) -> Timestamp: ...
@overload
def moment(wall: None) -> None: ...
def moment(wall: float | None) -> Timestamp | None:
    """Wall time as it is told: to the microsecond, which is all that a float has; None stays unset."""
    if wall is None:
        return None
    seconds, micros = divmod(_micros(wall), MICROS)
    return Timestamp(seconds=seconds, nanos=micros * 1_000)


def since(told: Timestamp) -> float:
    """The earliest wall time that `moment` tells as `told` or later.

    With it a span contains what it contains by the moments that a client was told, whatever was rounded away. Raises
    `RpcError` for what is no moment.
    """
    if not -62_135_596_800 <= told.seconds <= LAST_SECOND or not 0 <= told.nanos < 1_000_000_000:
        raise RpcError(
            Code.INVALID_ARGUMENT, f"no moment has {told.seconds} seconds and {told.nanos} nanos since 1970"
        )
    wanted = told.seconds * MICROS - -told.nanos // 1_000
    if wanted <= 0:
        return 0.0
    wall = (wanted - 0.5) / MICROS  # right but for an ulp or two
    while _micros(wall) < wanted:
        wall = math.nextafter(wall, math.inf)
    while _micros(below := math.nextafter(wall, 0.0)) >= wanted:
        wall = below
    return wall


def _micros(wall: float) -> int:
    return int(wall * MICROS + 0.5)


def page_limit(limit: int) -> int:
    """How many items a page may have. Raises `RpcError`."""
    if limit == 0:
        return USUAL_PAGE
    if not 1 <= limit <= MAX_PAGE:
        raise RpcError(
            Code.INVALID_ARGUMENT, f"limit is {limit}, expected 1 to {MAX_PAGE}, or 0 for {USUAL_PAGE}"
        )
    return limit


def cursor_text(kind: str, key: str) -> str:
    """A cursor for clients: behind `key`, in lists of one `kind` (letters only)."""
    assert kind.isalpha()
    return base64.urlsafe_b64encode(f"{kind} {key}".encode()).decode().rstrip("=")


def cursor_key(kind: str, text: str) -> str | None:
    """The key behind a cursor, None at the start of a list. Raises `RpcError` for what is no cursor of this kind.

    Anybody can make one: the key may be any text.
    """
    if not text:
        return None
    try:
        if len(text) > MAX_CURSOR:
            raise bad_cursor()
        packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        of, _, key = packed.decode().partition(" ")
    except (binascii.Error, ValueError):  # of which UnicodeDecodeError is one
        raise bad_cursor() from None
    if of != kind or not key or cursor_text(kind, key) != text:
        raise bad_cursor()
    return key


def bad_cursor() -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, "bad pagination cursor")
