"""What a Swarming bot is told to run: a task's work as a manifest. `outcome.py` reads the report.

Source: protocol reference, task manifest; docs/swarming.md, "What a task becomes".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from math import ceil
from typing import Any

import msgspec
from msgspec import Struct

from swarmd.api.swarming.context import PROPERTIES
from swarmd.core.dimensions import FEATURE
from swarmd.core.ids import to_text
from swarmd.core.model import Attempt, Bot, Work
from swarmd.daemon.works import WorkText

NO_ACCOUNT = "none"
BOT_ACCOUNT = "bot"  # whatever the bot shows the daemon when it calls: the bot knows it by itself


class Cache(Struct, frozen=True):
    name: str
    path: str
    hint: str = "-1"  # expected size in bytes; -1: not known


class Properties(Struct, frozen=True, omit_defaults=True):
    """The payload of type `swarming.properties`, as JSON: all that a manifest can say of a task beyond its limits."""

    command: list[str] = []
    env: dict[str, str] = {}  # an empty value takes the variable away
    env_prefixes: dict[str, list[str]] = {}
    relative_cwd: str = ""
    caches: list[Cache] = []
    outputs: list[str] = []
    secret_bytes: bytes | None = None  # base64 in JSON
    realm: str = ""
    service_account: str = NO_ACCOUNT  # none, bot, or the name of an account
    containment: dict[str, Any] | None = None
    cipd_input: dict[str, Any] | None = None


class Told(Struct, frozen=True):
    """Who is told, and by whom: what a manifest says besides the task."""

    run_id: str
    server: str  # URL
    bot: str
    bot_dimensions: Mapping[str, tuple[str, ...]]
    task_dimensions: Mapping[str, list[str]]
    task_account: str  # of a task that names none
    system_account: str
    realm: str  # of a task that names none


def properties_of(work: Work) -> Properties:
    """What the bot runs. Everything else that a `Work` can say is a feature that these bots do not have."""
    if work.payload is not None and work.payload.type == PROPERTIES:
        return msgspec.json.decode(work.payload.data, type=Properties)
    command = work.commands[0]
    env = {**work.env, **command.env}
    return Properties(
        command=list(command.argv),
        env={name: value or "" for name, value in env.items()},
        relative_cwd=command.cwd,
    )


def account_of(what: Properties, of_others: str) -> str:
    """The account of a task: its own, or that of tasks that name none."""
    named = what.service_account
    return of_others if named in ("", NO_ACCOUNT) else named


def manifest(work: Work, text: WorkText, attempt: Attempt, told: Told) -> dict[str, Any]:
    """The manifest of an attempt. Limits are whole seconds on this wire, and are rounded up."""
    what = properties_of(work)
    env = {
        "SWARMD_TASK_ID": to_text(attempt.task), "SWARMD_ATTEMPT": to_text(attempt.id), "SWARMD_BOT_ID": told.bot,
        "SWARMD_URL": told.server,
    }  # fmt: skip
    if text.index is not None:
        env["SWARMD_INDEX"] = str(text.index)
    if text.line is not None:
        env["SWARMD_LINE"] = text.line
    made: dict[str, Any] = {
        "task_id": told.run_id,
        "bot_id": told.bot,
        "bot_dimensions": told.bot_dimensions,
        "bot_authenticated_as": f"bot:{told.bot}",
        "dimensions": told.task_dimensions,
        "command": what.command,
        "env": {**env, **what.env},
        "env_prefixes": what.env_prefixes,
        "relative_cwd": what.relative_cwd or None,
        "caches": what.caches,
        "outputs": what.outputs,
        "cipd_input": what.cipd_input,
        "cas_input_root": None,
        "containment": what.containment,
        "secret_bytes": None if what.secret_bytes is None else base64.b64encode(what.secret_bytes).decode(),
        "hard_timeout": ceil(work.hard_limit_s),
        "io_timeout": ceil(work.io_limit_s),
        "grace_period": ceil(work.grace_s),
        "service_accounts": {
            "system": {"service_account": told.system_account},
            "task": {"service_account": account_of(what, told.task_account)},
        },
        "host": told.server,
    }
    realm = what.realm or told.realm
    if realm:
        made["realm"] = {"name": realm}
    return made


def task_dimensions(attempt_requires: Any, bot: Bot) -> dict[str, list[str]]:
    """What the task requires, as a manifest tells it: of alternatives, those that this bot has."""
    found: dict[str, list[str]] = {}
    for key, alternatives in attempt_requires:
        if key != FEATURE:
            found.setdefault(key, []).extend(v for v in alternatives if f"{key}:{v}" in bot.values)
    return found
