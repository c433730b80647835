"""What a bot says that it is: its properties as dimensions, how many leases it can hold, how it feels.

Source: protocol reference, worker, capability matching, capacity.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from swarmd.core.dimensions import FEATURE, ID, MAX_BOT_KEYS, MAX_BOT_VALUES, POOL, check_key, check_value
from swarmd.core.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarmd.api.remoteworkers.proto.worker_pb2 import Worker

CAPACITY = "capacity"
MAX_CAPACITY = 1_024
MOST_READ = 10_000  # configs, properties; few bytes each may be millions
OK = 1
STATUSES = (
    "BOT_STATUS_UNSPECIFIED", "OK", "UNHEALTHY", "HOST_REBOOTING", "BOT_TERMINATING", "INITIALIZING", "MAINTENANCE",
)  # fmt: skip
UNHEALTHY = 2
OURS = (
    POOL,
    ID,
    FEATURE,
)  # dimensions that the daemon sets; a property of such a name is told as `property.NAME`
UNKNOWN = "unknown"  # the label of a bot that has none


def capacity_text(worker: Worker) -> str:
    """How many leases it can hold, in its own words; what it says twice counts once."""
    configs = islice(worker.configs, MOST_READ)
    return next((config.value for config in configs if config.key == CAPACITY), "1")


def dimensions(worker: Worker, with_own: bool) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The properties of its first device, and with `with_own` also the worker's, with all values of each key; and what
    of them cannot be a dimension.

    What cannot be is left out and no error: reccworker, for one, sends properties without a value.
    """
    pairs = [(p.key, p.value) for device in worker.devices[:1] for p in device.properties[:MOST_READ]]
    if with_own:
        pairs += [(p.key, p.value) for p in worker.properties[:MOST_READ]]
    found: dict[str, list[str]] = {}
    odd: list[str] = []
    for key, value in pairs:
        name = f"property.{key}" if key in OURS else key
        if not _may_be(name, value):
            odd.append(f"{key[:40]}={value[:40]}")
            continue
        values = found.setdefault(name, []) if len(found) < MAX_BOT_KEYS - 1 else found.get(name)
        if values is None or len(values) >= MAX_BOT_VALUES:
            odd.append(f"{key[:40]}={value[:40]}")
        elif value not in values:
            values.append(value)
    return {key: tuple(values) for key, values in found.items()}, odd


def _may_be(key: str, value: str) -> bool:
    try:
        check_key(key)
        check_value(key, value)
    except Refused:
        return False
    return True


def status_name(status: int) -> str:
    """The status in the protocol's word; a newer one by its number."""
    return STATUSES[status] if 0 <= status < len(STATUSES) else str(status)


def health(status: int) -> tuple[str | None, str | None]:
    """Why it is in quarantine, and why under maintenance, by its own word. Whatever is not OK takes no new work."""
    if status == OK:
        return None, None
    sentence = f"it says that it is {status_name(status)}"
    return (sentence, None) if status == UNHEALTHY else (None, sentence)


def labels(dims: dict[str, tuple[str, ...]], key: str) -> Iterable[str]:
    """By what a bot is counted: all its values of one property."""
    return dims.get(key) or (UNKNOWN,)
