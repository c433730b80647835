"""The tags of operations. Those of other clients' tasks lack what a Swarming client's have by themselves."""

from __future__ import annotations

from collections.abc import Iterable

from swarmd.api.swarming.services.requests import swarming_priority
from swarmd.store.selecting import OpRow


def tagged(tags: Iterable[str], key: str) -> str:
    """The value of the first tag of that key, or nothing."""
    start = key + ":"
    return next((tag[len(start) :] for tag in tags if tag.startswith(start)), "")


def user_of(row: OpRow) -> str:
    user = tagged(row.tags, "user") or row.owner
    return "" if user == "none" else user


def tags_of(row: OpRow) -> list[str]:
    """Sorted, with its pool, priority and user."""
    keys = {tag.partition(":")[0] for tag in row.tags}
    if keys >= {"priority", "user"} and ("pool" in keys or not row.pool):
        return sorted(row.tags)
    priority, user = str(swarming_priority(row.priority)), user_of(row) or "none"
    missing = (("pool", row.pool), ("priority", priority), ("user", user))
    return sorted({*row.tags, *(f"{key}:{value}" for key, value in missing if key not in keys and value)})
