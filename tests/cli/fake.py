"""A fake daemon: trio and h11, answering from a table; it records what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import h11
import msgspec
import trio


class Seen(NamedTuple):
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Reply(NamedTuple):
    """An answer. `cut`: the connection is closed in the middle; `hang`: no answer, but an open connection."""

    body: Any = None  # bytes as they are, anything else as JSON
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    cut: bool = False
    hang: bool = False
    drop: bool = False  # closes the connection instead of answering


Answers = Reply | list[Reply] | Callable[[Seen], Reply]


def problem(status: int, code: str, message: str, remedy: str = "") -> Reply:
    return Reply({"error": {"code": code, "message": message, "remedy": remedy, "details": {}}}, status)


def sse(*events: tuple[str, str, Any], cut: bool = False) -> Reply:
    """Events of (id, kind, data) as one stream."""
    text = "".join(f"id: {i}\nevent: {k}\ndata: {msgspec.json.encode(d).decode()}\n\n" for i, k, d in events)
    return Reply(text.encode(), headers={"content-type": "text/event-stream"}, cut=cut)


class Fake:
    """`table[method, path]` is a Reply, a list of them (the last one stays), or a function of the request."""

    def __init__(self, table: dict[tuple[str, str], Answers] | None = None) -> None:
        self.table: dict[tuple[str, str], Answers] = table or {}
        self.seen: list[Seen] = []
        self.connections = 0

    def asked(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def _answer(self, seen: Seen) -> Reply:
        answers = self.table.get((seen.method, seen.path))
        if answers is None:
            return problem(404, "unknown_route", f"no {seen.method} {seen.path} in this fake")
        if callable(answers):
            return answers(seen)
        if isinstance(answers, list):
            return answers.pop(0) if len(answers) > 1 else answers[0]
        return answers

    async def handle(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._exchange(http, stream):
                    pass
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                return

    async def _exchange(self, http: h11.Connection, stream: trio.abc.Stream) -> bool:
        head, body = None, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert head is not None
        target = urlsplit(head.target.decode())
        headers = {name.decode(): value.decode() for name, value in head.headers}
        seen = Seen(head.method.decode(), target.path, dict(parse_qsl(target.query)), headers, body)
        self.seen.append(seen)
        return await self._send(http, stream, self._answer(seen), seen.method == "HEAD")

    async def _send(self, http: h11.Connection, stream: trio.abc.Stream, reply: Reply, is_head: bool) -> bool:
        if reply.hang:
            await trio.sleep_forever()
        if reply.drop:
            return False
        data = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
        length = {} if "content-length" in reply.headers else {"content-length": str(len(data) + reply.cut)}
        headers = list({**length, **reply.headers}.items())
        await stream.send_all(http.send(h11.Response(status_code=reply.status, headers=headers)) or b"")
        if data and not is_head:
            await stream.send_all(http.send(h11.Data(data=data)) or b"")
        if reply.cut:
            return False
        await stream.send_all(http.send(h11.EndOfMessage()) or b"")
        if http.our_state is not h11.DONE:
            return False
        http.start_next_cycle()
        return True

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves on a free port of loopback; the status is the URL."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        await trio.serve_listeners(self.handle, [listener])

    @contextmanager
    def in_thread(self) -> Iterator[str]:
        """Serves from another thread, for commands that run trio themselves; gives the URL."""
        ready, urls, tokens, scopes = threading.Event(), [], [], []

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                urls.append(await nursery.start(self.serve))
                tokens.append(trio.lowlevel.current_trio_token())
                scopes.append(nursery.cancel_scope)
                ready.set()

        thread = threading.Thread(target=trio.run, args=(run,))
        thread.start()
        assert ready.wait(10)
        try:
            yield urls[0]
        finally:
            tokens[0].run_sync_soon(scopes[0].cancel)
            thread.join(10)


ID, OTHER = "0123456789abc", "0123456789abd"


def info(id: str = ID, state: str = "COMPLETED", **fields: Any) -> dict[str, Any]:
    """A `TaskInfo` as the daemon sends it."""
    final = state not in ("BLOCKED", "PENDING", "RUNNING")
    return {
        "id": id, "task": id, "name": "", "state": state, "ok": (state == "COMPLETED") if final else None,
        "exit_code": 0 if state == "COMPLETED" else None, "reason": "", "pool": "default", "priority": 0,
        "created_at": "2026-01-02T03:04:05.678Z", "started_at": None, "ended_at": None, "duration_s": None,
        "bot": None, "attempt": None, "number": 1, "tags": [], "index": None, "line": None, "graph": None,
        "key": "", "parent": None, "retry_of": None, "stopping": None, **fields,
    }  # fmt: skip


def details(id: str = ID, state: str = "COMPLETED", **fields: Any) -> dict[str, Any]:
    """A `TaskDetails` as the daemon sends it."""
    more = {
        "work": {"commands": [{"argv": ["echo", "hi"]}]}, "dimensions": {}, "slices": [], "retries": 0,
        "bot_retries": 1, "after": [], "attempts": [], "outputs": [],
    }  # fmt: skip
    return {**info(id, state), **more, **fields}


def bot_info(**fields: Any) -> dict[str, Any]:
    """A `BotInfo` as the daemon sends it."""
    return {
        "id": "bot1", "protocol": "native", "status": "idle", "dimensions": {"os": ["linux"]}, "version": "1",
        "slots": 2, "running": [], "first_seen_at": "2026-01-02T03:04:05.678Z",
        "last_seen_at": "2026-01-02T03:04:05.678Z", **fields,
    }  # fmt: skip
