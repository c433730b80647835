"""Graphs: submit, add to, close, list."""

from __future__ import annotations

from functools import partial

import msgspec

from swarmd.api.calls import Call, Reply, cursor_of
from swarmd.api.native import messages as m
from swarmd.api.native import translate
from swarmd.api.native.tasks import body_hash, submit_answer, warnings_of
from swarmd.core.errors import Refused, Unknown
from swarmd.core.ids import to_text
from swarmd.core.model import GraphId
from swarmd.core.submitting import Submitted, TaskSpec
from swarmd.daemon.daemon import Daemon
from swarmd.daemon.submitting import Submission, submit
from swarmd.store import queries


class GraphHandlers:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def submit_graph(self, call: Call) -> Reply:
        body: m.GraphRequest = call.body
        self.daemon.check_space()
        if not body.tasks and not body.open:
            raise Refused("empty_graph", "the graph has no tasks and is closed", "give tasks, or open: true")
        submission = Submission(
            translate.specs_of(body.tasks, call.caller.name),
            self._answer,
            owner=call.caller.name,
            request_id=body.request_id,
            body_hash=body_hash(call),
            new_graph=(body.name, body.open),
        )
        return Reply(await submit(self.daemon, submission), status=201)

    def _answer(self, submitted: list[Submitted], graph: GraphId | None) -> bytes:
        assert graph is not None
        return msgspec.json.encode(
            m.GraphAnswer(
                id=to_text(graph),
                ids=[to_text(s.id) for s in submitted],
                states=[s.state.name for s in submitted],  # type: ignore[misc]
                warnings=warnings_of(self.daemon.engine, submitted),
            )
        )

    async def add_to_graph(self, call: Call) -> Reply:
        body: m.SubmitRequest = call.body
        self.daemon.check_space()
        graph = GraphId(call.id_param("id", "graph"))
        named = {t.key for t in body.tasks if t.key} | {
            one if isinstance(one, str) else one.on for t in body.tasks for one in t.after
        }

        async def specs() -> list[TaskSpec]:
            keys = await self.daemon.read_settled(lambda conn: queries.graph_keys(conn, graph, named))
            return translate.specs_of(body.tasks, call.caller.name, keys)

        submission = Submission(
            specs,
            partial(submit_answer, self.daemon.engine),
            owner=call.caller.name,
            request_id=body.request_id,
            body_hash=body_hash(call),
            add_to=graph,
        )
        return Reply(await submit(self.daemon, submission), status=201)

    async def close_graph(self, call: Call) -> m.GraphInfo:
        id = GraphId(call.id_param("id", "graph"))
        graph = self.daemon.engine.graphs.get(id)
        if graph is not None:
            with self.daemon.step() as (engine, now):
                engine.close_graph(now, graph, "closed by its owner")
        await self.daemon.settled()
        return await self._info(id)

    async def get_graph(self, call: Call) -> m.GraphInfo:
        return await self._info(GraphId(call.id_param("id", "graph")))

    async def _info(self, id: GraphId) -> m.GraphInfo:
        row, counts = await self.daemon.read(
            lambda conn: (queries.graph(conn, id), queries.graph_counts(conn, id))
        )
        if row is None:
            raise Unknown(
                "unknown_graph",
                f"there is no graph {to_text(id)}",
                "swarmd graphs lists those that are known",
            )
        return graph_info(row, counts)

    async def list_graphs(self, call: Call) -> m.GraphList:
        before = cursor_of(call)
        limit = call.query["limit"]
        rows = await self.daemon.read(
            lambda conn: [
                (row, queries.graph_counts(conn, row.id))
                for row in queries.list_graphs(conn, before, limit + 1)
            ]
        )
        more = len(rows) > limit
        rows = rows[:limit]
        items = [graph_info(row, counts) for row, counts in rows]
        return m.GraphList(items=items, next=items[-1].id if more else None)


def graph_info(row: queries.GraphRow, counts: dict[str, int]) -> m.GraphInfo:
    done = not row.is_open and row.alive == 0
    return m.GraphInfo(
        id=to_text(row.id),
        name=row.name,
        open=row.is_open,
        owner=row.owner,
        created_at=translate.moment(row.created_wall) or "",
        counts=counts,
        done=done,
        ok=row.failed == 0 if done else None,
    )
