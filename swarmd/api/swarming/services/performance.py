"""What a bot measured while it ran a task: figures of its report, as clients read them.

The report is what `outcome.py` kept of it, unchecked: what is not as it should be is left out.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

import msgspec

from swarmd.api.swarming.context import RESULT
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.core.model import Outcome

MAX_LIST_BYTES = 1 << 20  # of a list of sizes, unpacked
_DURATIONS = (
    ("package_installation", "cipd_stats", ""),
    ("cache_trim", "cache_trim_stats", ""),
    ("named_caches_install", "named_caches_stats", "install"),
    ("named_caches_uninstall", "named_caches_stats", "uninstall"),
    ("cleanup", "cleanup_stats", ""),
)
_ITEMS = ("cold", "hot")
MAX_INT32, MAX_INT64 = (1 << 31) - 1, (1 << 63) - 1


def report_of(outcome: Outcome | None) -> dict[str, Any]:
    """What a Swarming bot reported beyond the outcome; nothing for other bots."""
    if outcome is None or outcome.payload is None or outcome.payload.type != RESULT:
        return {}
    return _object(msgspec.json.decode(outcome.payload.data))


def cost_of(report: dict[str, Any]) -> float:
    """US dollars that the bot says the task has cost."""
    return _number(report.get("cost_usd"))


def performance_of(report: dict[str, Any]) -> tasks_pb2.PerformanceStats | None:
    """Operations that took no time are left unset; None when nothing was measured."""
    stats = tasks_pb2.PerformanceStats(bot_overhead=_number(report.get("bot_overhead")))
    for field, name, part in _DURATIONS:
        told = _object(report.get(name))
        duration = _number(_object(told.get(part) if part else told).get("duration"))
        if duration:
            getattr(stats, field).duration = duration
    cas = _object(report.get("isolated_stats"))
    for field, part in (("isolated_download", "download"), ("isolated_upload", "upload")):
        moved = _cas(_object(cas.get(part)))
        if moved.ByteSize():
            getattr(stats, field).CopyFrom(moved)
    return stats if stats.ByteSize() else None


def pins_of(report: dict[str, Any]) -> tasks_pb2.CipdPins | None:
    """The versions of packages that were installed."""
    told = _object(report.get("cipd_pins"))
    packages = told.get("packages")
    pins = tasks_pb2.CipdPins(
        packages=[_package(p) for p in packages if isinstance(p, dict)] if isinstance(packages, list) else []
    )
    client = told.get("client_package")
    if isinstance(client, dict):
        pins.client_package.CopyFrom(_package(client))
    return pins if pins.ByteSize() else None


def _package(told: dict[str, Any]) -> tasks_pb2.CipdPackage:
    texts = {name: told.get(name) for name in ("package_name", "version", "path")}
    return tasks_pb2.CipdPackage(**{name: text for name, text in texts.items() if isinstance(text, str)})


def _cas(told: dict[str, Any]) -> tasks_pb2.CASOperationStats:
    stats = tasks_pb2.CASOperationStats(
        duration=_number(told.get("duration")),
        initial_number_items=_whole(told.get("initial_number_items"), MAX_INT32),
        initial_size=_whole(told.get("initial_size"), MAX_INT64),
    )
    for which in _ITEMS:
        packed = _bytes(told.get(f"items_{which}"))
        sizes = unpacked(packed)
        setattr(stats, f"items_{which}", packed)
        setattr(stats, f"num_items_{which}", len(sizes))
        setattr(stats, f"total_bytes_items_{which}", min(sum(sizes), MAX_INT64))
    return stats


def unpacked(packed: bytes) -> list[int]:
    """The numbers of a list that only grows: deflated, each as its distance from the one before, seven bits to a byte,
    the lowest first. Empty for what is no such list."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, MAX_LIST_BYTES) if packed else b""
    except zlib.error:
        return []
    found, last, value, shift = [], 0, 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        if byte & 128:
            shift += 7
            if shift > 63:
                return []
            continue
        last += value
        found.append(last)
        value = shift = 0
    return found


def _object(given: object) -> dict[str, Any]:
    return given if isinstance(given, dict) else {}


def _number(given: object) -> float:
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    return float(given) if is_number and 0 <= given < 1e30 else 0.0  # type: ignore[operator,arg-type]


def _whole(given: object, most: int) -> int:
    return given if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= most else 0


def _bytes(given: object) -> bytes:
    try:
        return base64.b64decode(given, validate=True) if isinstance(given, str) else b""
    except (binascii.Error, ValueError):
        return b""
