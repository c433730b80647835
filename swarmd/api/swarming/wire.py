"""What Swarming bots send, read as leniently as a server must: unknown keys are ignored, and what is wrong in a field
is for its handler to say, because a broken bot must still be able to hear that it has to update.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec
from msgspec import Struct

from swarmd.api.calls import kept_json
from swarmd.core.errors import Refused

MAX_STATE_BYTES = 64 << 10
MAX_WHOLE = (1 << 53) - 1  # what JSON's numbers can say exactly
MAX_SHOWN = 60  # characters of a value in a message
BOT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SESSION_ID = re.compile(r"[a-z0-9\-_/]{1,50}")
REQUEST_UUID = re.compile(r"[a-zA-Z0-9\-_/]{0,50}")


class HandshakeCall(Struct):
    dimensions: Any = None
    state: Any = None
    version: Any = None
    session_id: Any = None


class PollCall(Struct):
    dimensions: Any = None
    state: Any = None
    version: Any = None
    session: Any = None
    request_uuid: Any = None
    force: Any = None


class EventCall(Struct):
    event: Any = None
    message: Any = None
    session: Any = None
    state: Any = None
    request_uuid: Any = None


class ClaimCall(Struct):
    claim_id: Any = None
    task_id: Any = None
    session: Any = None


class TaskErrorCall(Struct):
    id: Any = None
    task_id: Any = None
    session: Any = None
    message: Any = None
    client_error: Any = None


class TokenCall(Struct):
    id: Any = None
    task_id: Any = None
    session: Any = None
    account_id: Any = None
    scopes: Any = None
    audience: Any = None


class Lease(Struct):
    id: str
    state: str
    result: dict[str, Any] | None = None


class RbeCreateCall(Struct):
    session: Any = None
    bot_version: Any = None


class RbeUpdateCall(Struct):
    session: Any = None
    status: Any = None
    nonblocking: Any = None
    lease: Any = None


class TaskUpdateCall(Struct):
    """Source: protocol reference, task_update. All numbers may come as int or float."""

    id: Any = None
    task_id: Any = None
    session: Any = None
    cost_usd: Any = None
    output: Any = None
    output_chunk_start: Any = None
    exit_code: Any = None
    duration: Any = None
    bot_overhead: Any = None
    hard_timeout: Any = None
    io_timeout: Any = None
    canceled: Any = None
    cas_output_root: Any = None
    cipd_pins: Any = None
    isolated_stats: Any = None
    named_caches_stats: Any = None
    cache_trim_stats: Any = None
    cipd_stats: Any = None
    cleanup_stats: Any = None


# ------------------------------------------------------------------ one field each


def bad(message: str, remedy: str = "send what the protocol says") -> Refused:
    return Refused("bad_field", message, remedy)


def bot_id(dimensions: object) -> str:
    """The bot's id in its dimensions. Raises `Refused`: nothing can be answered to a bot without one."""
    ids = dimensions.get("id") if isinstance(dimensions, dict) else None
    if not isinstance(ids, list) or len(ids) != 1 or not isinstance(ids[0], str):
        raise bad("dimensions.id must be a list with the bot's id", "set SWARMING_BOT_ID on the bot")
    if not BOT_ID.fullmatch(ids[0]):
        raise bad(
            f"{ids[0][:80]!r} cannot be a bot's id",
            "use 1 to 128 letters, digits, '.', '_' and '-', a letter or digit first",
        )
    return ids[0]


def dimensions(given: dict[str, Any]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The dimensions that can be read, and a sentence for each that cannot. `given` has passed `bot_id`."""
    found: dict[str, tuple[str, ...]] = {}
    faults = []
    for key, values in given.items():
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            if values:
                found[key] = tuple(values)
            else:
                faults.append(f"dimension {key[:64]!r} has no values")
        else:
            faults.append(f"dimension {key[:64]!r} is no list of texts")
    return found, faults


def state(given: object) -> tuple[bytes, list[str]]:
    """A bot's state as JSON, and what is wrong with it. One that is too large or too deep is not kept."""
    if given is None:
        return b"{}", []
    if not isinstance(given, dict):
        return b"{}", ["state is no object"]
    try:
        raw = kept_json(given, "state")
    except Refused as error:
        return b"{}", [error.message]
    if len(raw) > MAX_STATE_BYTES:
        return msgspec.json.encode({"too_large": len(raw)}), []
    return raw, []


def text(value: object, name: str, pattern: re.Pattern[str]) -> str:
    """A text of a pattern. Raises `Refused`."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise bad(f"{name} is {shown(value)}, expected {pattern.pattern}")
    return value


def number(value: object, name: str, *, low: float | None = None) -> float | None:
    """A number or None. Raises `Refused`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > 1e15:
        raise bad(f"{name} is {shown(value)}, expected a number")
    if low is not None and value < low:
        raise bad(f"{name} is {shown(value)}, expected {low:g} or more")
    return value


def whole(value: object, name: str, *, low: int, high: int = MAX_WHOLE) -> int | None:
    """A whole number or None. Raises `Refused`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad(f"{name} is {shown(value)}, expected a whole number")
    if not low <= value <= high:
        raise bad(f"{name} is {shown(value)}, expected {low} to {high}")
    return value


def flag(value: object, name: str) -> bool:
    """A boolean; None is false. Raises `Refused`."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad(f"{name} is {shown(value)}, expected true or false")
    return value


def octets(value: object, name: str) -> bytes:
    """Base64 as bytes; None is none. Raises `Refused`."""
    if value is None:
        return b""
    if not isinstance(value, str):
        raise bad(f"{name} is {shown(value)}, expected base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"{name} is no base64", "use standard base64 with padding") from None


def shown(value: object) -> str:
    """A value as a message shows it: texts and numbers, cut short; of anything else only what it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
