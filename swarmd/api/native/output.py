"""Output of tasks: by stream and offset, by long poll, and live as server-sent events."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator

import msgspec
import trio

from swarmd.api.calls import Call, Reply, id_of
from swarmd.api.native import messages as m
from swarmd.api.native.tasks import unknown_task
from swarmd.api.sse import FIRST, HEARTBEAT, HEARTBEAT_S, ServerEvent
from swarmd.core.errors import NotYours, Refused
from swarmd.core.ids import from_text, to_text
from swarmd.core.model import AttemptId, OpId
from swarmd.daemon.daemon import Daemon
from swarmd.store import queries, selecting

STREAMS = ("stdout", "stderr")
PIECE_BYTES = 64 << 10  # of a followed stream, in one event
MAX_RESUMED = 128  # characters of Last-Event-ID


class OutputHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    # ------------------------------------------------------------- by offset

    async def read_output(self, call: Call) -> Reply:
        """Bytes from `offset`. Held up to `wait_s` while there are none and more may come."""
        op, stream = OpId(call.id_param("id", "task")), call.params["stream"]
        if stream not in STREAMS:
            raise Refused(
                "unknown_stream", f"there is no stream {stream[:20]!r}", f"streams are {', '.join(STREAMS)}"
            )
        attempt = AttemptId(id_of(call.query["attempt"], "attempt")) if call.query["attempt"] else None
        start, limit = call.query["offset"], call.query["limit"]
        until = trio.current_time() + call.query["wait_s"]
        while True:
            row = await self._row(op)
            keys = [op, row.attempt, attempt]
            with self.daemon.news.waiting_for([k for k in keys if k is not None]) as news:
                row, state = await self._state(op, attempt)
                end = state.streams.get(stream, (0, 0))[0] if state is not None else 0
                over = (state is None or state.over) if row.state.is_final or attempt else False
                if end > start or over or trio.current_time() >= until or self.daemon.stopping.is_set():
                    break
                with trio.move_on_at(until):
                    await news.wait()
        data = b""
        if state is not None and end > start:
            found = state
            data = await self.daemon.read(
                lambda conn: queries.read_output(conn, found.attempt, stream, start, min(end, start + limit))
            )
        headers = (
            (b"swarmd-offset", str(start).encode()),
            (b"swarmd-end", str(end).encode()),
            (b"swarmd-final", b"true" if over and start + len(data) >= end else b"false"),
            (b"swarmd-attempt", to_text(state.attempt).encode() if state is not None else b""),
        )
        return Reply(data, content_type="application/octet-stream", headers=headers)

    async def _row(self, op: OpId) -> selecting.OpRow:
        rows = await self.daemon.read(lambda conn: selecting.ops_by_id(conn, [op]))
        if op not in rows:
            raise unknown_task(op)
        return rows[op]

    async def _state(
        self, op: OpId, attempt: AttemptId | None
    ) -> tuple[selecting.OpRow, queries.OutputState | None]:
        def read(conn: object) -> tuple[selecting.OpRow | None, queries.OutputState | None]:
            row = selecting.ops_by_id(conn, [op]).get(op)  # type: ignore[arg-type]
            state = queries.output_state(conn, row.task, attempt) if row is not None else None  # type: ignore[arg-type]
            return row, state

        row, state = await self.daemon.read(read)
        if row is None:
            raise unknown_task(op)
        if attempt is not None and state is None:
            raise Refused(
                "unknown_attempt", f"task {to_text(op)} has no attempt {to_text(attempt)}", "see swarmd show"
            )
        return row, state

    # ------------------------------------------------------------- live

    async def follow_output(self, call: Call) -> Reply:
        """Both streams as they grow, over all attempts, until the operation is final."""
        op = OpId(call.id_param("id", "task"))
        await self._row(op)
        resume = call.headers.get("last-event-id", "")[:MAX_RESUMED]
        return Reply(content_type="text/event-stream", stream=self._follow(op, _Place.parse(resume)))

    async def _follow(self, op: OpId, place: _Place) -> AsyncIterator[bytes]:
        yield FIRST
        while True:
            row = await self._row(op)
            keys: list[object] = [op] if row.attempt is None else [op, row.attempt]
            with self.daemon.news.waiting_for(keys) as news:
                row, attempts = await self._attempts(op)
                if place.told != (row.state, row.attempt or 0):
                    place.told = (row.state, row.attempt or 0)
                    attempt = to_text(row.attempt) if row.attempt is not None else None
                    data = msgspec.json.encode(m.StateEvent(state=row.state.name, attempt=attempt))
                    yield ServerEvent(place.text(), "state", data).encode()
                for one in attempts:  # also one that ended, and was followed by another, since the last look
                    if one.id >= place.attempt:
                        async for event in self._new_output(one, place):
                            yield event
                if row.state.is_final:
                    yield ServerEvent(place.text(), "end", _end(row)).encode()
                    return
                if self.daemon.stopping.is_set():
                    return
                with trio.move_on_after(HEARTBEAT_S) as scope:
                    await news.wait()
            if scope.cancelled_caught:
                yield HEARTBEAT

    async def _attempts(self, op: OpId) -> tuple[selecting.OpRow, list[queries.AttemptRow]]:
        def read(conn: sqlite3.Connection) -> tuple[selecting.OpRow | None, list[queries.AttemptRow]]:
            row = selecting.ops_by_id(conn, [op]).get(op)
            return row, queries.attempts_of(conn, row.task) if row is not None else []

        row, attempts = await self.daemon.read(read)
        if row is None:
            raise unknown_task(op)
        return row, attempts

    async def _new_output(self, state: queries.AttemptRow, place: _Place) -> AsyncIterator[bytes]:
        place.move_to(state.id)
        for stream in STREAMS:
            end = state.streams.get(stream, (0, 0))[0]
            while (start := place.offsets[stream]) < end:
                stop = min(end, start + PIECE_BYTES)
                data = await self.daemon.read(
                    lambda conn, stream=stream, start=start, stop=stop: queries.read_output(
                        conn, state.id, stream, start, stop
                    )
                )
                place.offsets[stream] = stop
                piece = m.OutputEvent(attempt=to_text(state.id), stream=stream, offset=start, data=data)
                yield ServerEvent(place.text(), "output", msgspec.json.encode(piece)).encode()

    # ------------------------------------------------------------- from a bot

    async def append_output(self, call: Call) -> m.OutputAnswer:
        """Large output as raw bytes, appended piece by piece as they arrive."""
        stream = call.params["stream"]
        if stream not in STREAMS:
            raise Refused(
                "unknown_stream", f"there is no stream {stream[:20]!r}", f"streams are {', '.join(STREAMS)}"
            )
        attempt_id = AttemptId(call.id_param("attempt", "attempt"))
        offset = call.query["offset"]
        assert call.chunks is not None
        end = self._end_of(attempt_id, stream)
        async for chunk in call.chunks():
            self.daemon.check_space()
            with self.daemon.step() as (engine, now):
                attempt = engine.attempts.get(attempt_id)
                if attempt is None:
                    raise _stale(attempt_id)
                engine.seen(now, attempt.session)
                end = engine.report_output(now, attempt, stream, offset, chunk)
            offset += len(chunk)
            if self.daemon.uncommitted_output > MAX_UNCOMMITTED_OUTPUT:
                await self.daemon.settled()
        await self.daemon.settled()
        return m.OutputAnswer(end=end, limit=self.daemon.engine.settings.output_limit)

    def _end_of(self, attempt_id: AttemptId, stream: str) -> int:
        attempt = self.daemon.engine.attempts.get(attempt_id)
        if attempt is None:
            raise _stale(attempt_id)
        known = attempt.streams.get(stream)
        return known.end if known is not None else 0


MAX_UNCOMMITTED_OUTPUT = 8 << 20  # bytes; above it bodies are not read


class _Place:
    """Where a follower is: the attempt, the next byte of each stream, and the state that it was told last (with the
    attempt of that moment). Its text is the event's id.
    """

    def __init__(self, attempt: int, offsets: dict[str, int], told: tuple[int, int] = (0, 0)) -> None:
        self.attempt = attempt
        self.offsets = offsets
        self.told = told

    @classmethod
    def parse(cls, text: str) -> _Place:
        """From `Last-Event-ID`; anything strange starts at the beginning."""
        parts = text.split(".")
        if len(parts) == 5 and all(p.isascii() and p.isdigit() for p in parts[1:4]):
            attempt, told = from_text(parts[0]), from_text(parts[4])
            if attempt is not None and told is not None:
                return cls(
                    attempt, dict(zip(STREAMS, map(int, parts[1:3]), strict=True)), (int(parts[3]), told)
                )
        return cls(0, dict.fromkeys(STREAMS, 0))

    def move_to(self, attempt: int) -> None:
        if attempt != self.attempt:
            self.attempt = attempt
            self.offsets = dict.fromkeys(STREAMS, 0)

    def text(self) -> str:
        state, attempt = self.told
        offsets = [str(self.offsets[s]) for s in STREAMS]
        return ".".join([to_text(self.attempt), *offsets, str(int(state)), to_text(attempt)])


def _end(row: selecting.OpRow) -> bytes:
    return msgspec.json.encode(
        m.EndEvent(state=row.state.name, ok=row.ok, exit_code=row.exit_code, reason=row.reason)
    )


def _stale(attempt: AttemptId) -> NotYours:
    return NotYours("stale_attempt", f"attempt {to_text(attempt)} is not live (any more)", "stop it")
