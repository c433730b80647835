"""The running requests of a connection: what an app reads of its body, and how it is told that its client has gone."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio
from hypercorn.config import Config

log = logging.getLogger("swarmd.server")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
AppSend = Callable[[Message | None], Awaitable[None]]  # hypercorn's: None says that the app has ended
Wait = Callable[[], Awaitable[None]]
Patient = Callable[[Wait], Awaitable[None]]  # waits, and sees the client go meanwhile

INBOX_MESSAGES = (
    16  # body messages an app has not read yet, one read from the socket each; then reading stops
)


class Inbox:
    """What the app's `receive()` reads. `put` waits while it is full, but never for an app that has ended."""

    def __init__(self, patient: Patient | None = None) -> None:
        self._patient = patient
        self._messages: deque[Message] = deque()
        self._last: Message | None = None  # the disconnect: told again and again
        self._closed = False
        self._news: trio.Event | None = None  # receive() waits
        self._room: trio.Event | None = None  # put() waits
        self.app = trio.CancelScope()  # around the app

    async def put(self, message: Message) -> None:
        if self._closed or self._last is not None:
            return
        if message["type"].endswith(".disconnect"):
            self._last = message
        elif not self._ends_last_body(message):
            self._messages.append(message)
        if self._news is not None:
            self._news.set()
        while len(self._messages) >= INBOX_MESSAGES and not self._closed and self._last is None:
            self._room = trio.Event()
            await (self._patient(self._room.wait) if self._patient else self._room.wait())

    def _ends_last_body(self, message: Message) -> bool:
        """The empty end of a body becomes a mark on its last part: one `receive()` for a small request."""
        if message["type"] != "http.request" or message["more_body"] or message["body"] or not self._messages:
            return False
        self._messages[-1]["more_body"] = False
        return True

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._messages:
            if self._last is not None:
                await trio.lowlevel.checkpoint()  # an app that loops here must not stop the others
                return self._last
            self._news = trio.Event()
            await self._news.wait()
        message = self._messages.popleft()
        if self._room is not None:
            self._room.set()
        return message

    def close(self) -> None:
        """The app has ended: what still comes is dropped."""
        self._closed = True
        self._messages.clear()
        if self._room is not None:
            self._room.set()


class AppTasks:
    """The running requests of one HTTP/1 connection, in the form that hypercorn's protocol calls."""

    def __init__(self, nursery: trio.Nursery, patient: Patient) -> None:
        self._nursery = nursery
        self._patient = patient

    def spawn(self, func: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self._nursery.start_soon(func, *args)

    async def spawn_app(
        self, app: ASGIApp, config: Config, scope: Scope, send: AppSend
    ) -> Callable[[Message], Awaitable[None]]:
        inbox = Inbox(self._patient)
        self._nursery.start_soon(self._run, app, scope, inbox, send)
        return inbox.put

    async def _run(self, app: ASGIApp, scope: Scope, inbox: Inbox, send: AppSend) -> None:
        try:
            with inbox.app:
                await app(scope, inbox.receive, send)
        except* Exception as failures:
            log.error(
                "request.failed",
                extra={"method": scope.get("method"), "path": scope["path"], "client": scope["client"]},
                exc_info=failures,
            )
        finally:
            inbox.close()
        await send(None)  # a 500 if nothing was sent, the end of the connection or stream if only a part
