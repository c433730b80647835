"""How a submission goes in: request ids reserved, the file searched for what it names, then one step of the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import trio
from msgspec import Struct

from swarmd.core.changes import RequestRecord
from swarmd.core.errors import Busy, Conflict, Unknown
from swarmd.core.ids import to_text
from swarmd.core.model import Graph, GraphId, OpId, Share, TaskId
from swarmd.core.submitting import Known, LookAgain, Submitted, TaskSpec
from swarmd.daemon.daemon import Daemon
from swarmd.store import queries

MAX_SEARCHES = 20  # of the file for one submission: each time something it names became final meanwhile


class Submission(Struct, frozen=True):
    """What goes in together. At most one of `new_graph` (name, open) and `add_to` is given."""

    specs: Sequence[TaskSpec] | Callable[[], Awaitable[Sequence[TaskSpec]]]  # or how they are made
    answer_of: Callable[[list[Submitted], GraphId | None], bytes]  # JSON; called in the step
    owner: str = ""
    request_id: str = ""
    body_hash: bytes = b""
    new_graph: tuple[str, bool] | None = None
    add_to: GraphId | None = None


async def submit(daemon: Daemon, submission: Submission) -> bytes:
    """Accepts a submission, all or none, and returns its answer when it is in the file.

    With a `request_id`, the same id and `body_hash` again, also after a crash, gives the same answer;
    another body raises `Conflict`. Raises what `Engine.submit` raises, and `Unknown` for a dependency
    or graph that does not exist.
    """
    if not submission.request_id:
        answer = await _submit(daemon, submission)
        await daemon.settled()
        return answer
    key = (submission.owner, submission.request_id)
    async with reserved(daemon, ("request", *key)):
        earlier = await daemon.earlier_answer(key)
        if earlier is not None:
            if earlier[0] != submission.body_hash:
                raise Conflict(
                    "request_id_reused",
                    f"request id {submission.request_id!r} was used before, with another body",
                    "take a new request id for a new request",
                )
            return earlier[1]
        answer = await _submit(daemon, submission)
        with trio.CancelScope(shield=True):  # the key stays reserved until the file knows it
            await daemon.settled()
        return answer


@asynccontextmanager
async def reserved(daemon: Daemon, key: tuple[str, ...]) -> AsyncIterator[None]:
    """One at a time for each key."""
    while (other := daemon.reserved.get(key)) is not None:
        await other.wait()
    done = daemon.reserved[key] = trio.Event()
    try:
        yield
    finally:
        del daemon.reserved[key]
        done.set()


async def _submit(daemon: Daemon, submission: Submission) -> bytes:
    make = submission.specs
    if not callable(make):
        return await _search_and_step(daemon, submission, make)
    # What is made from the file must still be so when it goes in: two additions may use the same key.
    async with reserved(daemon, ("graph", to_text(submission.add_to or GraphId(0)))):
        return await _search_and_step(daemon, submission, await make())


async def _search_and_step(daemon: Daemon, submission: Submission, specs: Sequence[TaskSpec]) -> bytes:
    named = {a.on for spec in specs for a in spec.after if a.on is not None}
    keys = {s.sameness for s in specs if s.sameness is not None and s.share is not Share.NONE and not s.after}
    search = {on for on in named if daemon.engine.task_of(on) is None}
    done: dict[OpId, bool] = {}
    for _ in range(MAX_SEARCHES):
        same = await find_same(daemon, keys)
        done |= await find_done(daemon, search)
        try:
            return _step(daemon, submission, specs, Known(done, same))
        except LookAgain as again:
            search = set(again.ops)
    raise Busy(
        "busy", "what this request depends on kept changing while it was accepted", 1.0, "send it again"
    )


def _step(daemon: Daemon, submission: Submission, specs: Sequence[TaskSpec], known: Known) -> bytes:
    with daemon.step() as (engine, now):
        graph = None if submission.add_to is None else engine.open_graph_named(submission.add_to)
        made: list[Graph] = []

        def make_graph() -> Graph:
            assert submission.new_graph is not None
            name, is_open = submission.new_graph
            made.append(engine.new_graph(now, name, submission.owner, is_open))
            return made[0]

        submitted = engine.submit(
            now, specs, graph, known, make_graph if submission.new_graph is not None else None
        )
        graph_id = made[0].id if made else submission.add_to
        answer = submission.answer_of(submitted, graph_id)
        if submission.request_id:
            engine.remember_request(
                RequestRecord(submission.owner, submission.request_id, submission.body_hash, answer, now)
            )
        return answer


async def find_same(daemon: Daemon, keys: Iterable[str]) -> dict[str, TaskId]:
    """The newest finished, successful task of each sameness key."""
    wanted = sorted(keys)
    return await daemon.read_settled(lambda conn: queries.same_tasks(conn, wanted)) if wanted else {}


async def find_done(daemon: Daemon, ops: Iterable[OpId]) -> dict[OpId, bool]:
    """Of `ops`, which are not alive, whether each ended ok. Raises `Unknown` for one that does not exist."""
    wanted = sorted(ops)
    if not wanted:
        return {}
    found = await daemon.read_settled(lambda conn: queries.ops_done(conn, wanted))
    for op in wanted:
        if op not in found and daemon.engine.task_of(op) is None:
            raise Unknown(
                "unknown_task",
                f"there is no task {to_text(op)} to wait for",
                "swarmd tasks lists those that are known",
            )
    return found
