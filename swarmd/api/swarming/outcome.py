"""What a Swarming bot reports about a task, as an outcome of the core."""

from __future__ import annotations

from typing import Any

from swarmd.api.calls import kept_json
from swarmd.api.swarming import wire
from swarmd.api.swarming.context import RESULT
from swarmd.core.errors import Refused
from swarmd.core.model import Outcome, Payload

MAX_RESULT_BYTES = 1 << 20
MAX_EXIT_CODE = 1 << 32  # signals are negative, and Windows has 32 bits without a sign
STATISTICS = (
    "bot_overhead", "cost_usd", "cas_output_root", "cipd_pins", "isolated_stats", "named_caches_stats",
    "cache_trim_stats", "cipd_stats", "cleanup_stats",
)  # fmt: skip


def check_update(call: wire.TaskUpdateCall) -> None:
    """Raises `Refused` for a field that cannot be, and for fields that do not go together."""
    wire.number(call.cost_usd, "cost_usd", low=0)
    duration = wire.number(call.duration, "duration", low=0)
    exit_code = wire.whole(call.exit_code, "exit_code", low=-MAX_EXIT_CODE, high=MAX_EXIT_CODE)
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


def failure_of(message: str, client_error: object) -> Outcome:
    """The end that a `task_error` tells."""
    said = message or "the bot failed and did not say why"
    missing = _missing(client_error)
    if missing:
        said = f"{said}; missing: {', '.join(missing)}"
    return Outcome(ok=False, exit_code=-1, client_error=bool(missing), died=not missing, reason=said[:2_000])


def _missing(client_error: object) -> list[str]:
    """What the bot could not fetch, in words; empty lists mean that this was not the reason."""
    given = client_error if isinstance(client_error, dict) else {}
    trees = [f"CAS {_name(item, 'digest')}" for item in _objects(given.get("missing_cas"))]
    packages = [
        f"CIPD {_name(p, 'package_name')}@{_name(p, 'version')}" for p in _objects(given.get("missing_cipd"))
    ]
    return [*trees, *packages]


def _name(item: dict[str, Any], field: str) -> str:
    value = item.get(field)
    return value if isinstance(value, str) else wire.shown(value)


def _objects(given: object) -> list[dict[str, Any]]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _result(call: wire.TaskUpdateCall) -> Payload | None:
    """What the report says beyond an outcome; clients of this protocol get it as it came."""
    told: dict[str, Any] = {name: v for name in STATISTICS if (v := getattr(call, name)) is not None}
    try:
        data = kept_json(told, "the report")
    except Refused:  # the end counts all the same
        return None
    return Payload(RESULT, data) if told and len(data) <= MAX_RESULT_BYTES else None
