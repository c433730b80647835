"""The list of routes of the native API."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from msgspec import Meta

from swarmd.api.native import messages as m
from swarmd.api.routes import MIB, Header, Query, Route, Verb

MAX_BLOB_BYTES = 64 << 30
MAX_OUTPUT_BODY = 64 * MIB


def told(pattern: str) -> Any:
    """A text with a pattern for the OpenAPI file only: the handlers' own refusals say more."""
    return Annotated[str, Meta(extra_json_schema={"pattern": f"^({pattern})$"})]


IdOrNothing = told(f"|{m.ID_PATTERN}")
State = "|".join(get_args(m.StateName))

LIMIT = Query("limit", Annotated[int, Meta(ge=1, le=1000)], "How many items at the most.", 100)
CURSOR = Query("cursor", IdOrNothing, "Go on where the `next` of an earlier answer stopped.", "")
BOT_CURSOR = Query("cursor", str, CURSOR.about, "")  # a bot's name
WAIT = Query(
    "wait_s",
    Annotated[float, Meta(ge=0, le=m.MAX_WAIT_S)],
    "Hold the answer until there is news, at most this long.",
    0.0,
)
FILTERS = (
    Query("state", told(f"|({State})(,({State}))*"), "States, joined by commas.", ""),
    Query("pool", str, "Only this pool.", ""),
    Query("tag", str, "Only those that carry this tag.", ""),
    Query("name", str, "Only this name, exactly.", ""),
    Query("graph", IdOrNothing, "Only operations of this graph.", ""),
    Query("bot", str, "Only those whose newest attempt is on this bot.", ""),
    Query("failed", bool, "true: only those that are final and did not end ok.", None),
)
AFTER = Query("after", IdOrNothing, "Only events after this id.", "")
OUTPUT = (
    Query("offset", m.Offset, "First byte wanted.", 0),
    Query("limit", Annotated[int, Meta(ge=1, le=16 * MIB)], "How many bytes at the most.", MIB),
    Query("attempt", IdOrNothing, "An attempt's id; without it, the newest.", ""),
)
OUTPUT_HEADERS = (
    Header("Swarmd-Offset", m.Offset, "Where the body's first byte stands in the stream."),
    Header("Swarmd-End", m.Offset, "How long the stream is now."),
    Header("Swarmd-Final", bool, "true: the body goes to the end, and nothing more will come."),
    Header("Swarmd-Attempt", IdOrNothing, "The attempt whose output it is; empty while there is none."),
)
LENGTH = Header("Content-Length", Annotated[int, Meta(ge=0)], "Bytes of the body.")
EVENT_RESUME = Header("Last-Event-ID", IdOrNothing, "Only events after this id; goes before `after`.")
FOLLOW_RESUME = Header("Last-Event-ID", str, "The id of the last event that was seen: go on behind it.")
API = "/api/v1"

ROUTES: tuple[Route, ...] = (
    # submitting and reading tasks
    Route(
        method="POST",
        path=f"{API}/tasks",
        handler="submit",
        hot=True,
        verb=Verb.SUBMIT,
        about="Submit one or many tasks: all or none.",
        request=m.SubmitRequest,
        answer=m.SubmitAnswer,
        status=201,
        body_limit=64 * MIB,
    ),
    Route(
        method="GET",
        path=f"{API}/tasks",
        handler="list_tasks",
        verb=Verb.READ,
        about="List operations, newest first.",
        answer=m.TaskList,
        query=(LIMIT, CURSOR, *FILTERS),
    ),
    Route(
        method="GET",
        path=f"{API}/tasks/{{id}}",
        handler="get_task",
        hot=True,
        verb=Verb.READ,
        about="Everything about one operation.",
        answer=m.TaskDetails,
    ),
    Route(
        method="POST",
        path=f"{API}/tasks/wait",
        handler="wait_tasks",
        hot=True,
        verb=Verb.READ,
        request=m.WaitRequest,
        answer=m.WaitAnswer,
        about="Wait until operations are final.",
        held_s=m.MAX_WAIT_S,
    ),
    Route(
        method="POST",
        path=f"{API}/tasks/cancel",
        handler="cancel_tasks",
        hot=True,
        verb=Verb.CHANGE,
        request=m.CancelRequest,
        answer=m.BulkAnswer,
        about="Cancel operations by id or filter.",
    ),
    Route(
        method="POST",
        path=f"{API}/tasks/retry",
        handler="retry_tasks",
        verb=Verb.SUBMIT,
        request=m.RetryRequest,
        answer=m.BulkAnswer,
        about="Submit final operations anew, by id or filter.",
    ),
    Route(
        method="PUT",
        path=f"{API}/tasks/{{id}}/after",
        handler="set_after",
        verb=Verb.CHANGE,
        request=m.EdgesRequest,
        answer=m.TaskDetails,
        about="Replace what an operation that was not yet offered waits for.",
    ),
    Route(
        method="GET",
        path=f"{API}/tasks/{{id}}/explain",
        handler="explain_task",
        verb=Verb.READ,
        answer=m.ExplainAnswer,
        about="Why does this task wait, or how did it end?",
    ),
    Route(
        method="GET",
        path=f"{API}/tasks/{{id}}/events",
        handler="task_events",
        verb=Verb.READ,
        answer=m.EventList,
        query=(LIMIT, CURSOR),
        about="The history of an operation, newest first.",
    ),
    Route(
        method="GET",
        path=f"{API}/tasks/{{id}}/output/{{stream}}",
        handler="read_output",
        verb=Verb.READ,
        query=(*OUTPUT, WAIT),
        produces="application/octet-stream",
        answer_headers=OUTPUT_HEADERS,
        held_s=m.MAX_WAIT_S,
        about="Bytes of an output stream.",
    ),
    Route(
        method="GET",
        path=f"{API}/tasks/{{id}}/follow",
        handler="follow_output",
        verb=Verb.READ,
        produces="text/event-stream",
        headers=(FOLLOW_RESUME,),
        events={"output": m.OutputEvent, "state": m.StateEvent, "end": m.EndEvent},
        about="Both output streams live, as server-sent events: `output`, `state`, `end`.",
    ),
    # graphs
    Route(
        method="POST",
        path=f"{API}/graphs",
        handler="submit_graph",
        verb=Verb.SUBMIT,
        request=m.GraphRequest,
        answer=m.GraphAnswer,
        status=201,
        body_limit=64 * MIB,
        about="Submit a graph, open or closed.",
    ),
    Route(
        method="GET",
        path=f"{API}/graphs",
        handler="list_graphs",
        verb=Verb.READ,
        answer=m.GraphList,
        query=(LIMIT, CURSOR),
        about="List graphs, newest first.",
    ),
    Route(
        method="GET",
        path=f"{API}/graphs/{{id}}",
        handler="get_graph",
        verb=Verb.READ,
        answer=m.GraphInfo,
        about="One graph.",
    ),
    Route(
        method="POST",
        path=f"{API}/graphs/{{id}}/tasks",
        handler="add_to_graph",
        verb=Verb.SUBMIT,
        request=m.SubmitRequest,
        answer=m.SubmitAnswer,
        status=201,
        body_limit=64 * MIB,
        about="Add tasks to an open graph.",
    ),
    Route(
        method="POST",
        path=f"{API}/graphs/{{id}}/close",
        handler="close_graph",
        verb=Verb.CHANGE,
        answer=m.GraphInfo,
        about="Close an open graph: nothing more is added, failures take effect.",
    ),
    # events
    Route(
        method="GET",
        path=f"{API}/events",
        handler="list_events",
        verb=Verb.READ,
        answer=m.EventList,
        query=(LIMIT, CURSOR),
        about="All events, newest first.",
    ),
    Route(
        method="GET",
        path=f"{API}/events/stream",
        handler="stream_events",
        verb=Verb.READ,
        produces="text/event-stream",
        query=(AFTER,),
        headers=(EVENT_RESUME,),
        events={"": m.EventInfo},
        about="All events live, as server-sent events; resumable by Last-Event-ID.",
    ),
    # bots
    Route(
        method="GET",
        path=f"{API}/bots",
        handler="list_bots",
        verb=Verb.READ,
        answer=m.BotList,
        query=(LIMIT, BOT_CURSOR),
        about="List bots, by name.",
    ),
    Route(
        method="GET",
        path=f"{API}/bots/{{bot}}",
        handler="get_bot",
        verb=Verb.READ,
        answer=m.BotInfo,
        about="One bot.",
    ),
    Route(
        method="PATCH",
        path=f"{API}/bots/{{bot}}",
        handler="order_bot",
        verb=Verb.OPERATE,
        request=m.BotOrderRequest,
        answer=m.BotInfo,
        about="Drain, quarantine, maintain, restart, update or terminate a bot, or take that back.",
    ),
    Route(
        method="DELETE",
        path=f"{API}/bots/{{bot}}",
        handler="delete_bot",
        verb=Verb.OPERATE,
        answer=m.Empty,
        about="Forget a bot that has no session.",
    ),
    Route(
        method="GET",
        path=f"{API}/bots/{{bot}}/events",
        handler="bot_events",
        verb=Verb.READ,
        answer=m.EventList,
        query=(LIMIT, CURSOR),
        about="The history of a bot, newest first.",
    ),
    Route(
        method="GET",
        path=f"{API}/bots/{{bot}}/tasks",
        handler="bot_tasks",
        verb=Verb.READ,
        answer=m.TaskList,
        query=(LIMIT, CURSOR),
        about="Operations that this bot ran, newest first.",
    ),
    # blobs
    Route(
        method="POST",
        path=f"{API}/blobs",
        handler="put_blob",
        hot=True,
        verb=Verb.SUBMIT,
        answer=m.BlobAnswer,
        status=201,
        raw_body=True,
        body_limit=MAX_BLOB_BYTES,
        about="Store the body as a blob, named by its SHA-256.",
    ),
    Route(
        method="PUT",
        path=f"{API}/blobs/{{sha256}}",
        handler="put_named_blob",
        hot=True,
        verb=Verb.SUBMIT,
        answer=m.BlobAnswer,
        status=201,
        raw_body=True,
        body_limit=MAX_BLOB_BYTES,
        about="Store the body as the blob of this digest; another digest is refused.",
    ),
    Route(
        method="GET",
        path=f"{API}/blobs/{{sha256}}",
        handler="get_blob",
        verb=Verb.READ,
        produces="application/octet-stream",
        answer_headers=(LENGTH,),
        about="The bytes of a blob.",
    ),
    Route(
        method="HEAD",
        path=f"{API}/blobs/{{sha256}}",
        handler="head_blob",
        verb=Verb.READ,
        produces="application/octet-stream",
        answer_headers=(LENGTH,),
        about="Whether a blob is here, and its size as Content-Length.",
    ),
    Route(
        method="POST",
        path=f"{API}/blobs/missing",
        handler="missing_blobs",
        verb=Verb.READ,
        request=m.BlobQuery,
        answer=m.BlobMissing,
        about="Which of these digests are not here.",
    ),
    # a bot's own calls
    Route(
        method="POST",
        path=f"{API}/bots/{{bot}}/sessions",
        handler="open_session",
        hot=True,
        verb=Verb.BE_A_BOT,
        request=m.SessionRequest,
        answer=m.SessionAnswer,
        body_limit=MIB,
        about="Open a session.",
    ),
    Route(
        method="POST",
        path=f"{API}/sessions/{{session}}/sync",
        handler="sync",
        verb=Verb.BE_A_BOT,
        request=m.SyncRequest,
        answer=m.SyncAnswer,
        hot=True,
        held_s=m.MAX_WAIT_S,
        about="Report finished work and output, take offers and orders.",
    ),
    Route(
        method="DELETE",
        path=f"{API}/sessions/{{session}}",
        handler="close_session",
        verb=Verb.BE_A_BOT,
        answer=m.Empty,
        about="End a session: what it still held is given back or lost.",
    ),
    Route(
        method="POST",
        path=f"{API}/attempts/{{attempt}}/output/{{stream}}",
        handler="append_output",
        hot=True,
        verb=Verb.BE_A_BOT,
        answer=m.OutputAnswer,
        raw_body=True,
        body_limit=MAX_OUTPUT_BODY,
        query=(Query("offset", m.Offset, "Where the body's first byte stands in the stream.", 0),),
        about="Append large output as raw bytes.",
    ),
    # the daemon
    Route(
        method="GET",
        path=f"{API}/counts",
        handler="counts",
        verb=Verb.READ,
        answer=m.CountsAnswer,
        about="Counts of what is alive.",
    ),
    Route(
        method="GET",
        path=f"{API}/health",
        handler="health",
        verb=Verb.OPEN,
        answer=m.HealthAnswer,
        about="Is the daemon well?",
    ),
    Route(
        method="GET",
        path=f"{API}/openapi.json",
        handler="openapi",
        verb=Verb.OPEN,
        about="This API as an OpenAPI file.",
    ),
    Route(
        method="POST",
        path=f"{API}/swarming/bootstrap",
        handler="mint_bootstrap",
        verb=Verb.OPERATE,
        answer=m.BootstrapAnswer,
        about="A token with which a machine may fetch the code of a Swarming bot, for an hour.",
    ),
    Route(
        method="GET",
        path=f"{API}/remoteworkers/instances",
        handler="list_instances",
        verb=Verb.READ,
        answer=m.InstanceList,
        about="The instances of the Remote Workers API and their bots, by name.",
    ),
    Route(
        method="POST",
        path=f"{API}/backup",
        handler="backup",
        verb=Verb.OPERATE,
        produces="application/octet-stream",
        answer_headers=(LENGTH,),
        about="A consistent copy of the database file, as the answer's body.",
    ),
    Route(
        method="GET",
        path="/metrics",
        handler="metrics",
        verb=Verb.READ,
        produces="text/plain",
        about="Prometheus metrics.",
    ),
)
