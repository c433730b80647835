"""Submitting, reading, waiting for, canceling and retrying tasks."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import msgspec
import trio

from swarmd.api.calls import Call, Reply, cursor_of, id_of, ids_of
from swarmd.api.native import messages as m
from swarmd.api.native import translate
from swarmd.core.engine import Engine
from swarmd.core.errors import Refused, Unknown
from swarmd.core.ids import to_text
from swarmd.core.model import GraphId, OpId, TaskState
from swarmd.core.submitting import After, Known, LookAgain, Submitted
from swarmd.daemon.daemon import Daemon
from swarmd.daemon.submitting import MAX_SEARCHES, Submission, find_done, submit
from swarmd.store import queries, selecting

MAX_BULK = 100_000  # operations that one cancel or retry acts on
MAX_WARNINGS = 5


class TaskHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    # ------------------------------------------------------------- submitting

    async def submit(self, call: Call) -> Reply:
        body: m.SubmitRequest = call.body
        self.daemon.check_space()
        specs = translate.specs_of(body.tasks, call.caller.name)
        answer = await submit(
            self.daemon,
            Submission(
                specs,
                partial(submit_answer, self.daemon.engine),
                owner=call.caller.name,
                request_id=body.request_id,
                body_hash=body_hash(call),
            ),
        )
        return Reply(answer, status=201)

    async def set_after(self, call: Call) -> m.TaskDetails:
        op = OpId(call.id_param("id", "task"))
        rows = await self.daemon.read(lambda conn: selecting.ops_by_id(conn, [op]))
        if op not in rows:
            raise unknown_task(op)
        after = []
        for one in call.body.after:
            dependency = one if isinstance(one, m.Dependency) else m.Dependency(on=one)
            after.append(After(on=translate.op_named(dependency.on), condition=dependency.condition))
        search = {a.on for a in after if a.on is not None and self.daemon.engine.task_of(a.on) is None}
        done: dict[OpId, bool] = {}
        for _ in range(MAX_SEARCHES):
            done |= await find_done(self.daemon, search)
            try:
                with self.daemon.step() as (engine, now):
                    engine.set_after(now, op, after, Known(done))
                break
            except LookAgain as again:
                search = set(again.ops)
        await self.daemon.settled()
        return await self._details(op)

    # ------------------------------------------------------------- reading

    async def list_tasks(self, call: Call) -> m.TaskList:
        query = call.query
        wanted = filter_of_query(query)
        before = cursor_of(call)
        limit = query["limit"]
        rows = await self.daemon.read(lambda conn: selecting.list_ops(conn, wanted, before, limit + 1))
        return task_list(rows, limit)

    async def get_task(self, call: Call) -> m.TaskDetails:
        return await self._details(OpId(call.id_param("id", "task")))

    async def _details(self, op: OpId) -> m.TaskDetails:
        def read(conn: Any) -> m.TaskDetails | None:
            row = selecting.ops_by_id(conn, [op]).get(op)
            text = queries.task_text(conn, row.task, op) if row is not None else None
            if row is None or text is None:
                return None
            return translate.task_details(row, text, queries.attempts_of(conn, row.task))

        found = await self.daemon.read(read)
        if found is None:
            raise unknown_task(op)
        return found

    async def wait_tasks(self, call: Call) -> m.WaitAnswer:
        """Held until all (or one) of the operations are final, at most `wait_s`.

        The file is asked only for those that the engine does not know as unfinished: each of them once.
        """
        body: m.WaitRequest = call.body
        ids = list(dict.fromkeys(OpId(id) for id in ids_of(body.ids, "task")))
        final: dict[int, selecting.OpRow] = {}
        until = trio.current_time() + body.wait_s
        while True:
            left = [id for id in ids if id not in final]
            with self.daemon.news.waiting_for(left) as news:
                final |= await self._final_rows([id for id in left if self.daemon.engine.task_of(id) is None])
                enough = len(final) == len(ids) or (body.any and final)
                if enough or trio.current_time() >= until or self.daemon.stopping.is_set():
                    break
                with trio.move_on_at(until):
                    await news.wait()
        items = [translate.task_info(final[id]) for id in ids if id in final]
        return m.WaitAnswer(items=items, pending=len(ids) - len(final))

    async def _final_rows(self, ids: list[OpId]) -> dict[int, selecting.OpRow]:
        """Of `ids`, which the engine does not know as unfinished, those that are final. Raises `Unknown`."""
        if not ids:
            return {}
        rows = await self.daemon.read(lambda conn: selecting.ops_by_id(conn, ids))
        for id in ids:
            if id not in rows:
                raise unknown_task(id)
        return {id: row for id, row in rows.items() if row.state.is_final}

    async def explain_task(self, call: Call) -> m.ExplainAnswer:
        op = OpId(call.id_param("id", "task"))
        found = self.daemon.engine.explain(self.daemon.clock.now(), op)
        if found is not None:
            await self.daemon.tellable()
            return m.ExplainAnswer(
                id=to_text(op),
                state=found.state.name,  # type: ignore[arg-type]
                reason=found.reason,
                sentence=found.sentence,
            )
        rows = await self.daemon.read(lambda conn: selecting.ops_by_id(conn, [op]))
        if op not in rows:
            raise unknown_task(op)
        row = rows[op]
        return m.ExplainAnswer(
            id=to_text(op),
            state=row.state.name,  # type: ignore[arg-type]
            reason=row.state.name.lower(),
            sentence=_final_sentence(row),
        )

    async def task_events(self, call: Call) -> m.EventList:
        op = call.id_param("id", "task")
        return await events(self.daemon, call, op=op)

    # ------------------------------------------------------------- in bulk

    async def cancel_tasks(self, call: Call) -> m.BulkAnswer:
        body: m.CancelRequest = call.body
        wanted = bulk_filter(body.filter)
        if not wanted.ids and not wanted.states:  # final ones cannot be canceled
            alive = tuple(s for s in TaskState if not s.is_final)
            wanted = msgspec.structs.replace(wanted, states=alive)
        ids = await self.daemon.read(lambda conn: selecting.matching_ops(conn, wanted, MAX_BULK))
        self._all_known(wanted, ids)
        reason = body.reason or "canceled by its submitter"
        with self.daemon.step() as (engine, now):
            changed = [id for id in ids if engine.withdraw(now, OpId(id), reason, body.kill)]
        await self.daemon.settled()
        return m.BulkAnswer(matched=len(ids), changed=len(changed), ids=[to_text(id) for id in changed])

    async def retry_tasks(self, call: Call) -> Reply:
        body: m.RetryRequest = call.body
        self.daemon.check_space()
        wanted = bulk_filter(body.filter)
        ids = await self.daemon.read(lambda conn: selecting.matching_ops(conn, wanted, MAX_BULK))
        self._all_known(wanted, ids)
        found = await self.daemon.read(lambda conn: queries.specs_for_retry(conn, ids))
        if wanted.ids and len(found) < len(ids):
            raise Refused(
                "not_final",
                f"{len(ids) - len(found)} of these tasks are not final",
                "wait for them, or cancel them",
            )

        def answer(submitted: list[Submitted], graph: GraphId | None) -> bytes:
            texts = [to_text(s.id) for s in submitted]
            return msgspec.json.encode(m.BulkAnswer(matched=len(ids), changed=len(texts), ids=texts))

        return Reply(
            await submit(
                self.daemon,
                Submission(
                    [spec for _, spec in found],
                    answer,
                    owner=call.caller.name,
                    request_id=body.request_id,
                    body_hash=body_hash(call),
                ),
            )
        )

    @staticmethod
    def _all_known(wanted: selecting.OpFilter, ids: list[int]) -> None:
        if wanted.ids:
            missing = set(wanted.ids) - set(ids)
            if missing and wanted == selecting.OpFilter(ids=wanted.ids):
                raise unknown_task(min(missing))


def submit_answer(engine: Engine, submitted: list[Submitted], graph: GraphId | None) -> bytes:
    return msgspec.json.encode(
        m.SubmitAnswer(
            ids=[to_text(s.id) for s in submitted],
            states=[s.state.name for s in submitted],  # type: ignore[misc]
            warnings=warnings_of(engine, submitted),
        )
    )


def body_hash(call: Call) -> bytes:
    return hashlib.sha256(
        call.route.path.encode() + b"\0" + "/".join(call.params.values()).encode() + call.raw
    ).digest()


def warnings_of(engine: Engine, submitted: list[Submitted]) -> list[str]:
    """What the submitter should know: requirements that no bot meets now."""
    found: dict[str, None] = {}
    for requirement_set in {
        t.facts.requires for s in submitted if (t := engine.tasks.get(s.task)) and not t.facts.marker
    }:
        if not requirement_set.bots:
            found[engine.no_match(requirement_set)[1]] = None
    return sorted(found)[:MAX_WARNINGS]


def unknown_task(id: int) -> Unknown:
    return Unknown(
        "unknown_task", f"there is no task {to_text(id)}", "swarmd tasks lists those that are known"
    )


def filter_of_query(query: dict[str, Any]) -> selecting.OpFilter:
    return selecting.OpFilter(
        states=states_of(query["state"].split(",")) if query["state"] else (),
        pool=query["pool"],
        tag=query["tag"],
        name=query["name"],
        graph=GraphId(id_of(query["graph"], "graph")) if query["graph"] else None,
        bot=query["bot"],
        failed=query["failed"],
    )


def states_of(names: list[str]) -> tuple[TaskState, ...]:
    try:
        return tuple(TaskState[name.strip().upper()] for name in names)
    except KeyError as error:
        known = ", ".join(s.name for s in TaskState)
        raise Refused(
            "bad_parameter", f"there is no state {error.args[0][:40]!r}", f"states are {known}"
        ) from None


def bulk_filter(filter: m.Filter) -> selecting.OpFilter:
    wanted = selecting.OpFilter(
        ids=tuple(OpId(id) for id in ids_of(filter.ids, "task")),
        states=states_of(list(filter.states)),
        pool=filter.pool,
        tag=filter.tag,
        name=filter.name,
        graph=None if filter.graph is None else GraphId(id_of(filter.graph, "graph")),
        bot=filter.bot,
        failed=filter.failed,
    )
    if wanted.is_empty:
        raise Refused(
            "empty_filter",
            "the filter names nothing, so it would match everything",
            "give ids or another field",
        )
    return wanted


def task_list(rows: list[selecting.OpRow], limit: int) -> m.TaskList:
    more = len(rows) > limit
    rows = rows[:limit]
    return m.TaskList(
        items=[translate.task_info(r) for r in rows], next=to_text(rows[-1].id) if more else None
    )


async def events(daemon: Daemon, call: Call, **which: Any) -> m.EventList:
    before = cursor_of(call)
    limit = call.query["limit"]
    rows = await daemon.read(lambda conn: queries.events(conn, before=before, limit=limit + 1, **which))
    more = len(rows) > limit
    rows = rows[:limit]
    return m.EventList(
        items=[translate.event_info(r) for r in rows], next=to_text(rows[-1].id) if more else None
    )


def _exit_words(code: int | None) -> str:
    if code is None:
        return "did not end ok, without an exit code"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _final_sentence(row: selecting.OpRow) -> str:
    where = f" on bot {row.bot}" if row.bot else ""
    if row.state is TaskState.COMPLETED:
        how = "ended ok" if row.ok else _exit_words(row.exit_code)
        return f"it {how}{where}" + (f": {row.reason}" if row.reason and not row.ok else "")
    return f"it is {row.state.name}{where}" + (f": {row.reason}" if row.reason else "")
