"""What a Swarming bot reports about a task, as an outcome of the core."""

from __future__ import annotations

from typing import Any

import msgspec

from swarmd.api.swarming import wire
from swarmd.api.swarming.context import RESULT
from swarmd.core.model import Outcome, Payload

MAX_RESULT_BYTES = 1 << 20
STATISTICS = (
    "bot_overhead", "cost_usd", "cas_output_root", "cipd_pins", "isolated_stats", "named_caches_stats",
    "cache_trim_stats", "cipd_stats", "cleanup_stats",
)  # fmt: skip


def check_update(call: wire.TaskUpdateCall) -> None:
    """Raises `Refused` for a field that cannot be, and for fields that do not go together."""
    wire.number(call.cost_usd, "cost_usd", low=0)
    duration = wire.number(call.duration, "duration", low=0)
    exit_code = wire.whole(call.exit_code, "exit_code")
    overhead = wire.number(call.bot_overhead, "bot_overhead")
    wire.whole(call.output_chunk_start, "output_chunk_start", low=0)
    for name in ("hard_timeout", "io_timeout", "canceled"):
        wire.flag(getattr(call, name), name)
    if (duration is None) != (exit_code is None):
        raise wire.bad("exactly one of duration and exit_code is given", "give both or none")
    if overhead is not None and duration is None:
        raise wire.bad("bot_overhead is given without duration", "leave it out, or give both")


def is_end(call: wire.TaskUpdateCall) -> bool:
    """Whether an update says that the task has ended: anything else is a plain one, whatever statistics it carries."""
    return bool(call.exit_code is not None or call.canceled or call.hard_timeout or call.io_timeout)


def outcome_of(call: wire.TaskUpdateCall) -> Outcome:
    """The end that a last update tells. A killed task looks as any other here: the core knows that it was."""
    timed_out = bool(call.hard_timeout or call.io_timeout)
    reason = "hard_limit" if call.hard_timeout else "io_limit" if call.io_timeout else ""
    return Outcome(
        ok=call.exit_code == 0 and not timed_out and not call.canceled,
        exit_code=call.exit_code if not timed_out or call.exit_code is not None else -1,
        duration_s=call.duration,
        timed_out=timed_out,
        canceled=bool(call.canceled),
        reason=reason,
        payload=_result(call),
    )


def failure_of(message: object, client_error: object) -> Outcome:
    """The end that a `task_error` tells."""
    said = message if isinstance(message, str) and message else "the bot failed and did not say why"
    missing = _missing(client_error)
    if missing:
        said = f"{said}; missing: {', '.join(missing)}"
    return Outcome(ok=False, exit_code=-1, client_error=bool(missing), died=not missing, reason=said[:2_000])


def _missing(client_error: object) -> list[str]:
    """What the bot could not fetch, in words; empty lists mean that this was not the reason."""
    given = client_error if isinstance(client_error, dict) else {}
    trees = [f"CAS {item.get('digest')}" for item in _objects(given.get("missing_cas"))]
    packages = [
        f"CIPD {p.get('package_name')}@{p.get('version')}" for p in _objects(given.get("missing_cipd"))
    ]
    return [*trees, *packages]


def _objects(given: object) -> list[dict[str, Any]]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _result(call: wire.TaskUpdateCall) -> Payload | None:
    """What the report says beyond an outcome; clients of this protocol get it as it came."""
    told: dict[str, Any] = {name: v for name in STATISTICS if (v := getattr(call, name)) is not None}
    data = msgspec.json.encode(told) if told else b""
    return Payload(RESULT, data) if data and len(data) <= MAX_RESULT_BYTES else None
