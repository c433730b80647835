"""The history of a bot, as Swarming clients are told it. Source: docs/swarming-clients.md."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from swarmd.api.calls import Call
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.ids import run_id_of
from swarmd.api.swarming.proto import bots_pb2
from swarmd.api.swarming.services.bot_infos import check_bot_id, identity, maintenance_text
from swarmd.api.swarming.services.common import bad_cursor, cursor_key, cursor_text, moment, page_limit, since
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import AttemptState, BotOrder, TaskState
from swarmd.core.states import final_state
from swarmd.store.bot_history import (
    LAST_WALL,
    EndEntry,
    Entry,
    OfferEntry,
    OwnEntry,
    bot_history,
    standing,
    termination_tasks,
)

CURSOR = "events"

# What a bot told of itself, or a person did to it, and how the protocol calls it. Others are entries of its log.
_TYPES = {
    "bot.connected": "bot_connected",
    "bot.deleted": "bot_deleted",
    "bot.error": "bot_error",
    "bot.rebooting": "bot_rebooting",
    "bot.shutdown": "bot_shutdown",
}
LOG = "bot_log"
_ORDERED = {
    BotOrder.RESTART.value: "request_restart",
    BotOrder.UPDATE.value: "request_update",
    BotOrder.TERMINATE.value: "bot_terminate",
}
# How a session ended, by the beginning of the reason. A Swarming bot's goodbye is an event of its own, and a session
# that was replaced has a successor: neither tells anything new of the bot.
_ENDINGS = (("silent for", "bot_missing"), ("replaced", LOG), ("bot_rebooting", LOG), ("bot_shutdown", LOG))
GOODBYE = "bot_shutdown"
_ENDS = {
    TaskState.COMPLETED: "task_completed",
    TaskState.TIMED_OUT: "task_completed",
    TaskState.KILLED: "task_killed",
    TaskState.CANCELED: "task_killed",
}
FAULT = "task_error"


class BotEventMethods:
    def __init__(self, context: Context) -> None:
        self._daemon = context.daemon

    async def list_bot_events(
        self, call: Call, request: bots_pb2.BotEventsRequest
    ) -> bots_pb2.BotEventsResponse:
        check_bot_id(request.bot_id)
        limit = page_limit(request.limit)
        history = partial(
            bot_history,
            bot=request.bot_id,
            before=_before(request.cursor),
            since=since(request.start) if request.HasField("start") else 0.0,
            until=since(request.end) if request.HasField("end") else LAST_WALL,
            limit=limit,
        )

        def look(conn: sqlite3.Connection) -> tuple[list[Entry], list[bots_pb2.BotEventResponse]]:
            entries = history(conn)
            return entries, _events(conn, request.bot_id, entries)

        wall = self._daemon.clock.wall()
        entries, events = await self._daemon.read(look)
        return bots_pb2.BotEventsResponse(
            cursor=cursor_text(CURSOR, to_text(entries[-1].id)) if len(entries) == limit else "",
            items=events,
            now=moment(wall),
        )


def _before(cursor: str) -> int | None:
    key = cursor_key(CURSOR, cursor)
    if key is None:
        return None
    id = from_text(key)
    if id is None:
        raise bad_cursor()
    return id


def last_known(conn: sqlite3.Connection, bot: str) -> bots_pb2.BotInfo | None:
    """A bot that was deleted, as far as its history tells; None when nothing does."""
    entries = bot_history(conn, bot, limit=2)
    if not entries:
        return None
    last = _events(conn, bot, entries)[0]
    # Its deletion was not its own doing: what came before is the last that was seen of it.
    seen = next((e for e in entries if not _is_deletion(e)), entries[0])
    return bots_pb2.BotInfo(
        bot_id=bot, authenticated_as=last.authenticated_as, last_seen_ts=moment(seen.wall), version=last.version,
        quarantined=last.quarantined, maintenance_msg=last.maintenance_msg, is_dead=True, deleted=True,
    )  # fmt: skip


def _is_deletion(entry: Entry) -> bool:
    return isinstance(entry, OwnEntry) and entry.kind == "bot.deleted"


def _events(conn: sqlite3.Connection, bot: str, entries: Sequence[Entry]) -> list[bots_pb2.BotEventResponse]:
    """What is told of entries, newest first as they are."""
    if not entries:
        return []
    teller = _Teller(bot, termination_tasks(conn, [e.task for e in entries if isinstance(e, OfferEntry)]))
    before = standing(conn, bot, entries[-1].id)
    known = {e.id: e for e in (before.session, before.connected, before.health) if e is not None}
    for id in sorted(known):
        teller.takes(known[id])
    return [teller.event(entry) for entry in reversed(entries)][::-1]


class _Teller:
    """Goes through a bot's history, oldest first, and knows how the bot was at each entry."""

    def __init__(self, bot: str, termination_tasks: set[int]) -> None:
        self._bot = bot
        self._termination_tasks = termination_tasks
        self._is_deleted = False
        self._version = ""
        self._session = ""
        self._quarantined: str | None = None
        self._maintenance: str | None = None
        self._order: str | None = None

    def event(self, entry: Entry) -> bots_pb2.BotEventResponse:
        if isinstance(entry, OwnEntry):
            type, message, session = self.takes(entry)
            run = ""
        else:
            type, message = _of_attempt(entry, self._termination_tasks)
            session, run = self._session, run_id_of(entry.task, entry.number, entry.attempt)
        return bots_pb2.BotEventResponse(
            ts=moment(entry.wall), event_type=type, message=message, authenticated_as=identity(self._bot),
            version=self._version, quarantined=self._quarantined is not None,
            maintenance_msg=maintenance_text(self._maintenance), task_id=run, session_id=session,
        )  # fmt: skip

    def takes(self, entry: OwnEntry) -> tuple[str, str, str]:
        """Type, message and session of an event of the bot itself, which may change how it is."""
        detail: dict[str, Any] = msgspec.json.decode(entry.detail) if entry.detail else {}
        if self._is_deleted:  # and here again: as another bot
            self._is_deleted, self._quarantined, self._maintenance = False, None, None
        if entry.kind == "bot.changed":
            return *self._change(detail), self._session
        if entry.kind == "bot.connected":
            self._session, self._version = detail.get("session", ""), detail.get("version", "")
            self._order = None  # it has come back: that was carried out
        elif entry.kind == "bot.disconnected":
            self._session = ""
            reason = detail.get("reason", "")
            return _ending_of(reason), reason, detail.get("session", "")
        elif entry.kind == "bot.deleted":
            self._is_deleted, self._session = True, ""
        return _TYPES.get(entry.kind, LOG), detail.get("message", ""), self._session

    def _change(self, detail: dict[str, Any]) -> tuple[str, str]:
        """A change of its health is none of the orders that stand."""
        self._quarantined, self._maintenance = detail.get("quarantined"), detail.get("maintenance")
        before, self._order = self._order, detail.get("order")
        if self._order is not None and self._order != before:
            return _ORDERED.get(self._order, LOG), f"told to {self._order}"
        reasons = []
        if self._quarantined is not None:
            reasons.append(f"in quarantine: {self._quarantined}")
        if self._maintenance is not None:
            reasons.append(f"under maintenance: {self._maintenance}")
        if detail.get("draining"):
            reasons.append("draining")
        return LOG, "; ".join(reasons) or "takes work"


def _ending_of(reason: str) -> str:
    return next((type for begins, type in _ENDINGS if reason.startswith(begins)), GOODBYE)


def _of_attempt(entry: OfferEntry | EndEntry, termination_tasks: set[int]) -> tuple[str, str]:
    """Type and message of the begin or the end of an attempt."""
    if isinstance(entry, OfferEntry):
        return "bot_terminate" if entry.task in termination_tasks else "request_task", ""
    outcome = entry.outcome
    if entry.state is AttemptState.DROPPED:
        type = "task_killed" if outcome.canceled else FAULT
        return type, f"never started: {outcome.reason}" if outcome.reason else "never started"
    return _ENDS.get(final_state(outcome, entry.stop), FAULT), outcome.reason
