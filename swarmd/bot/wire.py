"""What the bot asks of its daemon, and how a call can fail. `ClientWire` speaks HTTP; tests plug in a scripted daemon.

Bodies of `open_session` and `sync` are handed over as bytes: a call repeated after a lost answer is the same to the
byte.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

import msgspec
import trio

from swarmd.api.native.messages import BlobMissing, BlobQuery, OutputAnswer, SessionAnswer, SyncAnswer
from swarmd.bot import events
from swarmd.client.address import Address
from swarmd.client.connection import Body, Lost
from swarmd.client.errors import ApiError, ClientError
from swarmd.client.transport import Transport, segment

T = TypeVar("T")

FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 15.0
API = "/api/v1"
CALL_S = (
    30.0  # for an answer that is not held: a daemon under load or on a slow disk is not given up too early
)
TRANSFER_S = 60.0  # between two pieces of a large body
MAX_BULK = 4  # large transfers at the same time, beside at most two `sync`
MAX_ANSWER_BYTES = 64 << 20
JSON, BYTES = "application/json", "application/octet-stream"

_session_answer = msgspec.json.Decoder(SessionAnswer)
_sync_answer = msgspec.json.Decoder(SyncAnswer)
_output_answer = msgspec.json.Decoder(OutputAnswer)
_missing = msgspec.json.Decoder(BlobMissing)


class WireError(Exception):
    """A call got no usable answer: `status` is the HTTP status, None if no answer came at all."""

    def __init__(self, status: int | None, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    @property
    def is_gone(self) -> bool:
        """What the call named does not exist (any more)."""
        return self.status in (404, 410)

    @property
    def is_denied(self) -> bool:
        """The daemon does not let this caller in; asking again will not help."""
        return self.status in (401, 403, 421)

    @property
    def is_passing(self) -> bool:
        """The same call may succeed later: no answer, overload, no space, a daemon that stops."""
        return self.status is None or self.status >= 500 or self.status in (408, 425, 429)


class Wire(Protocol):
    """The daemon, as the bot sees it. Every method raises `WireError`, and may be canceled at any time."""

    async def open_session(self, bot: str, body: bytes) -> SessionAnswer: ...

    async def sync(self, session: str, body: bytes, *, held_s: float) -> SyncAnswer:
        """`held_s`: how long the daemon may hold the answer; somewhat later the call counts as lost."""
        ...

    async def close_session(self, session: str) -> None: ...

    async def append_output(self, attempt: str, stream: str, offset: int, data: bytes) -> OutputAnswer: ...

    async def missing_blobs(self, digests: list[str]) -> list[str]: ...

    def get_blob(self, digest: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...

    async def put_blob(self, digest: str, size: int, chunks: Callable[[], Iterable[bytes]]) -> None:
        """`chunks` gives the bytes from the start, each time it is called."""
        ...


class ClientWire:
    """The daemon over HTTP, by the client's connections. One of `bulk` transfers each has a connection of its own."""

    def __init__(self, address: Address, token: str | None) -> None:
        self._transport = Transport(address, token, 0.0)
        self._bulk = trio.Semaphore(MAX_BULK)

    async def close(self) -> None:
        """Closes the connections that are idle."""
        await self._transport.close()

    async def open_session(self, bot: str, body: bytes) -> SessionAnswer:
        raw = await self._call("POST", f"{API}/bots/{segment(bot)}/sessions", body, CALL_S)
        return _decoded(_session_answer, raw)

    async def sync(self, session: str, body: bytes, *, held_s: float) -> SyncAnswer:
        raw = await self._call("POST", f"{API}/sessions/{segment(session)}/sync", body, held_s + CALL_S)
        return _decoded(_sync_answer, raw)

    async def close_session(self, session: str) -> None:
        await self._call("DELETE", f"{API}/sessions/{segment(session)}", b"", CALL_S)

    async def append_output(self, attempt: str, stream: str, offset: int, data: bytes) -> OutputAnswer:
        path = f"{API}/attempts/{segment(attempt)}/output/{segment(stream)}?offset={offset}"
        async with self._bulk:
            return _decoded(_output_answer, await self._call("POST", path, data, TRANSFER_S, BYTES))

    async def missing_blobs(self, digests: list[str]) -> list[str]:
        body = msgspec.json.encode(BlobQuery(digests=digests))
        return _decoded(_missing, await self._call("POST", f"{API}/blobs/missing", body, CALL_S)).missing

    @asynccontextmanager
    async def get_blob(self, digest: str) -> AsyncIterator[AsyncIterator[bytes]]:
        with _failures():
            async with (
                self._bulk,
                self._transport.exchange(
                    "GET",
                    f"{API}/blobs/{segment(digest)}",
                    timeout_s=TRANSFER_S,
                    repeatable=True,
                    patience_s=0.0,
                ) as response,
            ):
                yield response

    async def put_blob(self, digest: str, size: int, chunks: Callable[[], Iterable[bytes]]) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for chunk in chunks():
                yield chunk

        async with self._bulk:
            await self._call("PUT", f"{API}/blobs/{segment(digest)}", pieces, TRANSFER_S, BYTES, size)

    async def _call(
        self, method: str, path: str, body: Body, timeout_s: float, kind: str = JSON, size: int | None = None
    ) -> bytes:
        """One exchange; again at once only if an idle connection turned out to be dead. Raises `WireError`."""
        headers = (("Content-Type", kind), ("Content-Length", str(len(body) if size is None else size)))  # type: ignore[arg-type]
        with _failures():
            async with self._transport.exchange(
                method, path, headers=headers, body=body, timeout_s=timeout_s, repeatable=True, patience_s=0.0
            ) as response:
                return await response.read(MAX_ANSWER_BYTES)


@contextmanager
def _failures() -> Iterator[None]:
    """Turns the client's errors into `WireError`."""
    try:
        yield
    except ApiError as error:
        raise WireError(error.status, error.code, str(error)) from None
    except ClientError as error:
        raise WireError(None, "no_answer", str(error)) from None
    except Lost as error:
        raise WireError(None, "no_answer", error.reason) from None


def _decoded(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise WireError(
            None, "strange_answer", f"the answer cannot be read ({error}); do the versions fit?"
        ) from None


class Backoff:
    """Pauses between tries: 0.1 s, doubled up to 15 s, each shortened by a random part of up to a half."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pause_s = FIRST_PAUSE_S
        self.tries = 0

    def next_s(self) -> float:
        """The next pause in seconds."""
        pause_s = self._pause_s * (0.5 + self._rng.random() / 2)
        self._pause_s = min(self._pause_s * 2, LAST_PAUSE_S)
        self.tries += 1
        return pause_s


async def persist(what: str, call: Callable[[], Awaitable[T]], rng: random.Random) -> T:
    """The answer of `call`, tried again for as long as it fails in passing; other failures are raised."""
    backoff = Backoff(rng)
    while True:
        try:
            return await call()
        except WireError as failure:
            if not failure.is_passing:
                raise
            pause_s = backoff.next_s()
            if backoff.tries == 1:
                events.warning("call.failed", call=what, reason=failure.message, again_in_s=round(pause_s, 1))
        await trio.sleep(pause_s)
