"""The requirement language: what a task asks of a bot, and whether a bot has it.

A bot has `key: [values]`; a task requires `key: [values]`. Every value of every key must be satisfied; a
value `a|b|c` is
satisfied by any of its alternatives. No wildcards, no order, case matters.

Source: docs/glossary.md, "dimension"; the language and its limits are those of the Swarming bot API.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from swarmd.core.errors import Refused

MAX_KEY = 64
MAX_VALUE = 256
MAX_TASK_KEYS = 32
MAX_TASK_VALUES = 16  # per key
MAX_COMBINATIONS = 8  # over all alternatives of one slice
MAX_BOT_KEYS = 256
MAX_BOT_VALUES = 1_000  # per key
MAX_SLICES = 8

POOL = "pool"
ID = "id"
FEATURE = "feature"  # what a bot's protocol can express; set by the daemon, never by a user

_KEY = re.compile(r"[a-zA-Z\-_.][0-9a-zA-Z\-_.]*")

Requirement = tuple[str, tuple[str, ...]]  # a key and its sorted alternatives
Requirements = tuple[Requirement, ...]  # sorted, each once: the canonical form


def check_key(key: str) -> None:
    """Raises `Refused` unless `key` may name a dimension."""
    if len(key) > MAX_KEY or not _KEY.fullmatch(key):
        raise Refused(
            "bad_dimension",
            f"{key[:80]!r} cannot be the name of a dimension",
            f"use letters, digits, '-', '_', '.', no digit first, at most {MAX_KEY} characters",
        )


def check_value(key: str, value: str) -> None:
    """Raises `Refused` unless `value` may be a value of dimension `key`."""
    if not 1 <= len(value) <= MAX_VALUE or value != value.strip() or not value.isprintable():
        raise Refused(
            "bad_dimension",
            f"{value[:80]!r} cannot be a value of dimension {key}",
            f"give 1 to {MAX_VALUE} printable characters without blanks at the ends",
        )


def canonical(dimensions: Mapping[str, Sequence[str]], pool: str, features: Iterable[str]) -> Requirements:
    """The canonical requirements of one slice: equal requirements give equal tuples.

    `pool` is required unless it is empty (a termination task has only `id`). Raises `Refused` for what no
    bot could have.
    """
    if len(dimensions) > MAX_TASK_KEYS:
        raise Refused(
            "bad_dimension",
            f"a task requires {len(dimensions)} dimensions; at most {MAX_TASK_KEYS} are allowed",
            "leave some out",
        )
    found: set[Requirement] = {(FEATURE, (feature,)) for feature in features}
    combinations = 1
    for key, values in dimensions.items():
        check_key(key)
        if key == FEATURE:
            raise Refused("bad_dimension", "dimension 'feature' is set by the daemon", "leave it out")
        if not 1 <= len(values) <= MAX_TASK_VALUES:
            raise Refused(
                "bad_dimension", f"dimension {key} has {len(values)} values", f"give 1 to {MAX_TASK_VALUES}"
            )
        if key in (POOL, ID) and (len(values) != 1 or "|" in values[0]):
            raise Refused(
                "bad_dimension",
                f"dimension {key} is {[value[:80] for value in values]}",
                "give exactly one value, without '|'",
            )
        for value in values:
            if value.count("|") >= MAX_COMBINATIONS:  # looked at first: there may be millions
                raise Refused(
                    "bad_dimension",
                    f"a value of dimension {key} has {value.count('|') + 1} alternatives",
                    f"give at most {MAX_COMBINATIONS}",
                )
            alternatives = sorted(set(value.split("|")))
            for alternative in alternatives:
                check_value(key, alternative)
            combinations *= len(alternatives)
            found.add((key, tuple(alternatives)))
    if combinations > MAX_COMBINATIONS:
        raise Refused(
            "bad_dimension",
            f"the alternatives make {combinations} combinations; at most {MAX_COMBINATIONS} are allowed",
            "give fewer alternatives, or several slices",
        )
    if pool:
        check_value(POOL, pool)
        if POOL in dimensions and list(dimensions[POOL]) != [pool]:
            raise Refused(
                "bad_dimension",
                f"dimension pool is {dimensions[POOL][0][:80]!r} but the task's pool is {pool!r}",
                "give one",
            )
        found.add((POOL, (pool,)))
    return tuple(sorted(found))


def check_bot(bot: str, dimensions: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """A bot's own dimensions, checked: `id` is exactly `bot`, at least one pool, no doubled value."""
    if len(dimensions) > MAX_BOT_KEYS:
        raise Refused(
            "bad_dimension",
            f"bot {bot} has {len(dimensions)} dimensions; at most {MAX_BOT_KEYS} are allowed",
            "leave some out",
        )
    checked: dict[str, tuple[str, ...]] = {}
    for key, values in dimensions.items():
        check_key(key)
        if key == FEATURE:
            raise Refused("bad_dimension", "dimension 'feature' is set by the daemon", "leave it out")
        if not 1 <= len(values) <= MAX_BOT_VALUES or len(set(values)) != len(values):
            raise Refused(
                "bad_dimension",
                f"dimension {key} of bot {bot} has {len(values)} values, {len(set(values))} different ones",
                f"give 1 to {MAX_BOT_VALUES}, each once",
            )
        for value in values:
            check_value(key, value)
            if "|" in value:
                raise Refused(
                    "bad_dimension",
                    f"{value!r} cannot be a value of a bot's dimension {key}",
                    "'|' is for tasks",
                )
        checked[key] = tuple(values)
    if checked.setdefault(ID, (bot,)) != (bot,):
        raise Refused(
            "bad_dimension",
            f"dimension id of bot {bot} is {list(checked[ID])}",
            "leave it out or give the bot's own id",
        )
    checked.setdefault(POOL, ("default",))
    return checked


def values_of(
    dimensions: Mapping[str, tuple[str, ...]], assigned: Mapping[str, tuple[str, ...]]
) -> frozenset[str]:
    """All `key:value` of a bot; what the server assigned replaces the bot's own values of that key."""
    return frozenset(f"{k}:{v}" for k, values in {**dimensions, **assigned}.items() for v in values)


def missing(requirements: Requirements, values: frozenset[str]) -> list[Requirement]:
    """The requirements that a bot with `values` does not satisfy."""
    return [r for r in requirements if not any(f"{r[0]}:{v}" in values for v in r[1])]


def as_text(requirement: Requirement) -> str:
    """A requirement for people: `gpu=h200` or `os=Linux|Mac`."""
    return f"{requirement[0]}={'|'.join(requirement[1])}"
