"""The client: one method for each route of the native API."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio
from msgspec import Struct

from swarmd.api.native import messages as m
from swarmd.client.address import address_from_environment, parse_address, token_from_environment
from swarmd.client.connection import Body
from swarmd.client.errors import ApiError, StrangeAnswer, Unreachable
from swarmd.client.reading import OutputBytes, OutputSlice, Pages
from swarmd.client.sse import ServerEvents
from swarmd.client.streams import EventStream, Follow
from swarmd.client.transport import QueryValue, Response, Transport, segment

API = "/api/v1"
CALL_S = 30.0
PATIENCE_S = 10.0
LONG_PATIENCE_S = 300.0  # of waits: they survive a restart of the daemon
BACKUP_S = 900.0  # until the first byte of a backup
TRANSFER_S = 60.0  # between two pieces of a blob
MAX_ANSWER_BYTES = 256 << 20
PIECE_BYTES = 1 << 18
OUTPUT_READ_BYTES = 1 << 20

T = TypeVar("T")
Progress = Callable[[int, int], None]
_json = msgspec.json.Encoder()


class Client:
    """Calls one daemon; made by `open_client`. Safe to use from many tasks at once.

    Every method may raise `ApiError` (the daemon refused), `Unreachable` (no answer) and `StrangeAnswer`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def url(self) -> str:
        return self._transport.address.url

    # ------------------------------------------------------------------ the general forms

    async def call(
        self,
        method: str,
        path: str,
        body: Struct | None = None,
        answer: type[T] = m.Empty,  # type: ignore[assignment]
        *,
        query: Mapping[str, QueryValue] | None = None,
        timeout_s: float = CALL_S,
        repeatable: bool | None = None,
        patience_s: float | None = None,
    ) -> T:
        """Sends `body` as JSON and gives the decoded answer.

        `repeatable`: may be sent again when it is not known whether it arrived; by default GETs and
        bodies with a `request_id`. `patience_s`: how long it is tried again; by default the client's.
        """
        if repeatable is None:
            repeatable = method == "GET" or bool(getattr(body, "request_id", ""))
        raw = b"" if body is None else _json.encode(body)
        headers: tuple[tuple[str, str], ...] = ()
        if method not in ("GET", "HEAD", "DELETE") or raw:
            headers = (("Content-Type", "application/json"), ("Content-Length", str(len(raw))))
        for is_last in (not repeatable, True):
            try:
                async with self._transport.exchange(
                    method, path, query=query, headers=headers, body=raw,
                    timeout_s=timeout_s, repeatable=repeatable, patience_s=patience_s,
                ) as response:  # fmt: skip
                    data = await response.read(MAX_ANSWER_BYTES)
                break
            except Unreachable as error:
                if is_last or not error.sent:
                    raise
        return _decoded(data or b"{}", answer, f"{method} {path}")

    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, QueryValue] | None = None,
        body: Body = b"",
        headers: tuple[tuple[str, str], ...] = (),
        timeout_s: float = TRANSFER_S,
        repeatable: bool | None = None,
    ) -> AbstractAsyncContextManager[Response]:
        """`async with client.stream(…) as response: async for data in response`: an answer of any length."""
        if repeatable is None:
            repeatable = method in ("GET", "HEAD")
        return self._transport.exchange(
            method, path, query=query, headers=headers, body=body, timeout_s=timeout_s, repeatable=repeatable
        )

    # ------------------------------------------------------------------ tasks

    async def submit(self, tasks: Sequence[m.TaskRequest], request_id: str = "") -> list[str]:
        """Submits all of `tasks` or none; gives their ids in order, arrays and lines expanded in place."""
        return (await self.submit_request(m.SubmitRequest(tasks=list(tasks), request_id=request_id))).ids

    async def submit_request(self, request: m.SubmitRequest, graph: str = "") -> m.SubmitAnswer:
        """As `submit`, with states and warnings; with `graph` the tasks are added to that open graph.

        Without a `request_id` a random one is set, so that a call whose answer was lost can be repeated.
        """
        request.request_id = request.request_id or new_request_id()
        path = f"{API}/graphs/{segment(graph)}/tasks" if graph else f"{API}/tasks"
        return await self.call("POST", path, request, m.SubmitAnswer)

    async def submit_graph(self, request: m.GraphRequest) -> m.GraphAnswer:
        """Submits a graph; sets a random `request_id` when there is none."""
        request.request_id = request.request_id or new_request_id()
        return await self.call("POST", f"{API}/graphs", request, m.GraphAnswer)

    async def get(self, id: str) -> m.TaskDetails:
        return await self.call("GET", _task(id), answer=m.TaskDetails)

    def tasks(self, limit: int | None = None, **filters: QueryValue) -> Pages[m.TaskInfo]:
        """`async for task in client.tasks(state="RUNNING")`, newest first.

        Filters: state (joined by commas), pool, tag, name, graph, bot, failed.
        """
        return self._pages(f"{API}/tasks", m.TaskList, limit, filters)

    async def wait(
        self,
        ids: Sequence[str],
        timeout_s: float | None = None,
        any: bool = False,
        progress: Progress | None = None,
    ) -> list[m.TaskInfo]:
        """Those of `ids` that are final, as soon as all are (with `any`: one is) or `timeout_s` has passed.

        Also waits while the daemon is restarted. `progress(final, all)` is called about once a second.
        """
        if any and len(ids) > m.MAX_TASKS_PER_REQUEST:
            raise ValueError(f"any=True takes at most {m.MAX_TASKS_PER_REQUEST:,} ids, got {len(ids):,}")
        give_up_at = trio.current_time() + (float("inf") if timeout_s is None else timeout_s)
        done: list[m.TaskInfo] = []
        open_ids = list(dict.fromkeys(ids))
        total = len(open_ids)
        held_s = 1.0 if progress else m.MAX_WAIT_S - 20.0
        while open_ids:
            batch = open_ids[: m.MAX_TASKS_PER_REQUEST]
            left_s = max(0.0, give_up_at - trio.current_time())
            answer = await self.wait_once(batch, min(held_s, left_s), any)
            done += answer.items
            final = {item.id for item in answer.items}
            open_ids = [id for id in open_ids if id not in final]
            if progress:
                progress(len(done), total)
            if (any and final) or left_s == 0.0:
                break
        return done

    async def wait_once(self, ids: list[str], wait_s: float, any: bool = False) -> m.WaitAnswer:
        """One held call: at most MAX_TASKS_PER_REQUEST ids, at most MAX_WAIT_S."""
        request = m.WaitRequest(ids=ids, wait_s=wait_s, any=any)
        return await self.call(
            "POST", f"{API}/tasks/wait", request, m.WaitAnswer,
            timeout_s=wait_s + CALL_S, repeatable=True, patience_s=LONG_PATIENCE_S,
        )  # fmt: skip

    async def cancel(
        self, ids: Sequence[str] = (), *, kill: bool = True, reason: str = "", **filter: Any
    ) -> m.BulkAnswer:
        """Cancels by id, or by the fields of `messages.Filter`. Repeating it does no harm."""
        request = m.CancelRequest(filter=m.Filter(ids=list(ids), **filter), kill=kill, reason=reason)
        return await self.call("POST", f"{API}/tasks/cancel", request, m.BulkAnswer, repeatable=True)

    async def retry(self, ids: Sequence[str] = (), request_id: str = "", **filter: Any) -> m.BulkAnswer:
        """Submits final operations anew; the answer's `ids` are the new ones."""
        request = m.RetryRequest(
            filter=m.Filter(ids=list(ids), **filter), request_id=request_id or new_request_id()
        )
        return await self.call("POST", f"{API}/tasks/retry", request, m.BulkAnswer)

    async def set_after(self, id: str, after: Sequence[str | m.Dependency]) -> m.TaskDetails:
        """Replaces what an operation waits for that was not yet offered."""
        return await self.call(
            "PUT", f"{_task(id)}/after", m.EdgesRequest(after=list(after)), m.TaskDetails, repeatable=True
        )

    async def explain(self, id: str) -> m.ExplainAnswer:
        return await self.call("GET", f"{_task(id)}/explain", answer=m.ExplainAnswer)

    def task_events(self, id: str, limit: int | None = None) -> Pages[m.EventInfo]:
        return self._pages(f"{_task(id)}/events", m.EventList, limit)

    # ------------------------------------------------------------------ output

    async def read_output(
        self,
        id: str,
        stream: str,
        offset: int = 0,
        limit: int = OUTPUT_READ_BYTES,
        attempt: str = "",
        wait_s: float = 0.0,
    ) -> OutputSlice:
        """At most `limit` bytes from `offset` on; held up to `wait_s` while there are none."""
        query: dict[str, QueryValue] = {
            "offset": offset,
            "limit": limit,
            "attempt": attempt,
            "wait_s": wait_s or None,
        }
        path = f"{_task(id)}/output/{segment(stream)}"
        async with self._transport.exchange(
            "GET",
            path,
            query=query,
            timeout_s=wait_s + CALL_S,
            repeatable=True,
            patience_s=LONG_PATIENCE_S if wait_s else None,
        ) as response:
            data = await response.read(limit)
        head = response.headers
        try:
            at, end = int(head["swarmd-offset"]), int(head["swarmd-end"])
            return OutputSlice(
                data, at, end, head["swarmd-final"].lower() in ("true", "1"), head["swarmd-attempt"]
            )
        except (KeyError, ValueError) as error:
            raise StrangeAnswer(
                f"the answer to GET {path} lacks a header: {error}", "do the versions fit?"
            ) from None

    def output(
        self, id: str, stream: str = "stdout", offset: int = 0, attempt: str = "", follow: bool = False
    ) -> OutputBytes:
        """`async for data in client.output(id)`: the bytes of one stream of one attempt (by default the
        newest).
        """

        async def read(offset: int, attempt: str, wait_s: float) -> OutputSlice:
            return await self.read_output(id, stream, offset, OUTPUT_READ_BYTES, attempt, wait_s)

        return OutputBytes(read, offset, attempt, follow)

    def follow(self, id: str) -> Follow:
        """`async with client.follow(id) as events: async for event in events`: both streams live, until
        the end.
        """
        return Follow(ServerEvents(self._transport, f"{_task(id)}/follow", last_kinds=frozenset({"end"})))

    # ------------------------------------------------------------------ graphs and events

    def graphs(self, limit: int | None = None) -> Pages[m.GraphInfo]:
        return self._pages(f"{API}/graphs", m.GraphList, limit)

    async def graph(self, id: str) -> m.GraphInfo:
        return await self.call("GET", f"{API}/graphs/{segment(id)}", answer=m.GraphInfo)

    async def close_graph(self, id: str) -> m.GraphInfo:
        return await self.call(
            "POST", f"{API}/graphs/{segment(id)}/close", answer=m.GraphInfo, repeatable=True
        )

    def events(self, limit: int | None = None) -> Pages[m.EventInfo]:
        """All events, newest first."""
        return self._pages(f"{API}/events", m.EventList, limit)

    def stream_events(self, after: str = "") -> EventStream:
        """`async with client.stream_events() as events: async for event in events`: from now on, or after
        that id.
        """
        return EventStream(ServerEvents(self._transport, f"{API}/events/stream", {"after": after}))

    # ------------------------------------------------------------------ bots

    def bots(self, limit: int | None = None) -> Pages[m.BotInfo]:
        """All bots, by name."""
        return self._pages(f"{API}/bots", m.BotList, limit)

    async def bot(self, id: str) -> m.BotInfo:
        return await self.call("GET", _bot(id), answer=m.BotInfo)

    async def order_bot(self, id: str, order: m.BotOrderRequest) -> m.BotInfo:
        return await self.call("PATCH", _bot(id), order, m.BotInfo, repeatable=True)

    async def delete_bot(self, id: str) -> None:
        await self.call("DELETE", _bot(id))

    def bot_events(self, id: str, limit: int | None = None) -> Pages[m.EventInfo]:
        return self._pages(f"{_bot(id)}/events", m.EventList, limit)

    def bot_tasks(self, id: str, limit: int | None = None) -> Pages[m.TaskInfo]:
        return self._pages(f"{_bot(id)}/tasks", m.TaskList, limit)

    # ------------------------------------------------------------------ blobs

    async def upload(self, chunks: AsyncIterable[bytes], size: int, sha256: str = "") -> m.BlobAnswer:
        """Stores `size` bytes as a blob. Sent once only: `upload_file` can also repeat."""
        used = iter((chunks,))

        async def body() -> AsyncIterator[bytes]:
            async for chunk in next(used):
                yield chunk

        return await self._upload(body, size, sha256, repeatable=False)

    async def upload_bytes(self, data: bytes) -> m.BlobAnswer:
        """Stores `data` as a blob."""
        return await self._upload(data, len(data), hashlib.sha256(data).hexdigest(), repeatable=True)

    async def upload_file(
        self, path: str | os.PathLike[str], sha256: str = "", progress: Progress | None = None
    ) -> m.BlobAnswer:
        """Stores a file as a blob, read piece by piece; `progress(sent, all)` in bytes."""
        size = os.stat(path).st_size

        async def body() -> AsyncIterator[bytes]:
            sent = 0
            with open(path, "rb") as file:  # noqa: ASYNC230 - local reads of 256 KiB
                while data := file.read(PIECE_BYTES):
                    yield data
                    sent += len(data)
                    if progress:
                        progress(sent, size)

        return await self._upload(body, size, sha256, repeatable=True)

    async def _upload(self, body: Body, size: int, sha256: str, repeatable: bool) -> m.BlobAnswer:
        headers = (("Content-Type", "application/octet-stream"), ("Content-Length", str(size)))
        method, path = ("PUT", _blob(sha256)) if sha256 else ("POST", f"{API}/blobs")
        async with self.stream(method, path, body=body, headers=headers, repeatable=repeatable) as response:
            return _decoded(await response.read(MAX_ANSWER_BYTES), m.BlobAnswer, f"{method} {path}")

    def blob(self, sha256: str) -> AbstractAsyncContextManager[Response]:
        """`async with client.blob(sha256) as response: async for data in response`."""
        return self.stream("GET", _blob(sha256))

    async def save_blob(self, sha256: str, write: Callable[[bytes], object]) -> int:
        """Gives each piece of a blob to `write` and the size at the end; raises `StrangeAnswer` for wrong
        bytes.
        """
        digest, size = hashlib.sha256(), 0
        async with self.blob(sha256) as response:
            async for data in response:
                digest.update(data)
                size += len(data)
                write(data)
        if digest.hexdigest() != sha256:
            raise StrangeAnswer(
                f"blob {sha256} came as other bytes", "run `swarmd check` on the server's database"
            )
        return size

    async def blob_size(self, sha256: str) -> int | None:
        """The size of a blob in bytes, or None when it is not there."""
        try:
            async with self.stream("HEAD", _blob(sha256)) as response:
                return int(response.headers.get("content-length", "0"))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def missing_blobs(self, digests: Sequence[str]) -> list[str]:
        """Which of `digests` the daemon does not have."""
        query = m.BlobQuery(digests=list(digests))
        return (
            await self.call("POST", f"{API}/blobs/missing", query, m.BlobMissing, repeatable=True)
        ).missing

    # ------------------------------------------------------------------ a bot's own calls

    async def open_session(self, bot: str, request: m.SessionRequest) -> m.SessionAnswer:
        """Opens a session; the same `session_key` again is the same session."""
        return await self.call("POST", f"{_bot(bot)}/sessions", request, m.SessionAnswer, repeatable=True)

    async def sync(self, session: str, request: m.SyncRequest) -> m.SyncAnswer:
        """One round of a session; the same `seq` again gets the same answer."""
        path = f"{API}/sessions/{segment(session)}/sync"
        return await self.call(
            "POST", path, request, m.SyncAnswer, timeout_s=request.wait_s + CALL_S, repeatable=True
        )

    async def close_session(self, session: str) -> None:
        await self.call("DELETE", f"{API}/sessions/{segment(session)}")

    async def append_output(self, attempt: str, stream: str, offset: int, data: bytes) -> m.OutputAnswer:
        """Appends raw bytes at `offset`; those below the stream's end are ignored, so repeating is
        harmless.
        """
        path = f"{API}/attempts/{segment(attempt)}/output/{segment(stream)}"
        headers = (("Content-Type", "application/octet-stream"), ("Content-Length", str(len(data))))
        query = {"offset": offset}
        async with self.stream(
            "POST", path, query=query, body=data, headers=headers, repeatable=True
        ) as response:
            return _decoded(await response.read(MAX_ANSWER_BYTES), m.OutputAnswer, f"POST {path}")

    # ------------------------------------------------------------------ the daemon

    async def counts(self) -> m.CountsAnswer:
        return await self.call("GET", f"{API}/counts", answer=m.CountsAnswer)

    async def health(self) -> m.HealthAnswer:
        return await self.call("GET", f"{API}/health", answer=m.HealthAnswer)

    async def mint_bootstrap(self) -> m.BootstrapAnswer:
        """A token with which a machine may fetch the code of a Swarming bot, for an hour."""
        return await self.call("POST", f"{API}/swarming/bootstrap", answer=m.BootstrapAnswer, repeatable=True)

    async def remote_instances(self) -> list[m.InstanceInfo]:
        """The instances of the Remote Workers API and their bots, by name."""
        path = f"{API}/remoteworkers/instances"
        return (await self.call("GET", path, answer=m.InstanceList)).items

    async def openapi(self) -> dict[str, Any]:
        return await self.call("GET", f"{API}/openapi.json", answer=dict[str, Any])

    async def metrics(self) -> str:
        """The metrics in the text form of Prometheus."""
        async with self.stream("GET", "/metrics", timeout_s=CALL_S) as response:
            return (await response.read(MAX_ANSWER_BYTES)).decode()

    def backup(self) -> AbstractAsyncContextManager[Response]:
        """`async with client.backup() as response`: a consistent copy of the database file as the body."""
        headers = (("Content-Length", "0"),)
        return self.stream("POST", f"{API}/backup", headers=headers, timeout_s=BACKUP_S, repeatable=True)

    # ------------------------------------------------------------------

    def _pages(
        self, path: str, answer: type[Any], limit: int | None, filters: Mapping[str, QueryValue] | None = None
    ) -> Pages[Any]:
        def fetch(count: int, cursor: str) -> Any:
            return self.call(
                "GET", path, None, answer, query={**(filters or {}), "limit": count, "cursor": cursor}
            )

        return Pages(fetch, limit)


def _decoded(data: bytes, answer: type[T], request: str) -> T:
    try:
        return msgspec.json.decode(data, type=answer)
    except msgspec.DecodeError as error:
        raise StrangeAnswer(
            f"the answer to {request} cannot be read: {error}", "do the versions fit?"
        ) from None


def _task(id: str) -> str:
    return f"{API}/tasks/{segment(id)}"


def _bot(id: str) -> str:
    return f"{API}/bots/{segment(id)}"


def _blob(sha256: str) -> str:
    return f"{API}/blobs/{segment(sha256)}"


def new_request_id() -> str:
    """A random request id."""
    return secrets.token_hex(16)


@asynccontextmanager
async def open_client(
    url: str | None = None, token: str | None = None, patience_s: float = PATIENCE_S
) -> AsyncIterator[Client]:
    """`async with open_client() as client`: a client of the daemon at `url`.

    `url`: `http://HOST:PORT` or `unix:PATH`; by default SWARMD_URL, else http://127.0.0.1:8710.
    `token`: by default what is in the file that SWARMD_TOKEN_FILE names. `patience_s`: how long calls
    that may be repeated are repeated once the daemon has been reached. Connects with the first call;
    raises `BadSetting` for an address or a token file that cannot be used.
    """
    address = address_from_environment() if url is None else parse_address(url)
    transport = Transport(address, token_from_environment() if token is None else token, patience_s)
    try:
        yield Client(transport)
    finally:
        with trio.CancelScope(shield=True):  # closing is immediate: nothing is flushed or waited for
            await transport.close()
