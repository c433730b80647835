"""Scripted bots of LUCI Swarming for tests: each says on the wire of that protocol exactly what the test wants said.

    bot = SwarmingBot(lab.url, "s1")
    await bot.handshake()
    task = await bot.take()
    await task.start()
    await task.write(b"hello\\n")
    await task.end(exit_code=0)

A bot keeps what a real one keeps: the newest session token, the request id of a poll until one succeeds, the offset of
the output; and it is as strict with answers. It starts no process. See docs/testing.md.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import h11
import msgspec
import trio

from swarmd.client import ApiError, StrangeAnswer, Unreachable
from swarmd.client.address import parse_address
from swarmd.client.connection import Lost, connect
from swarmd.client.transport import exchange_once

API = "/swarming/api/v1/bot"
READ_LIMIT_S = 60.0  # without a byte, the real bot gives up
MAX_ANSWER_BYTES = 64 << 20
NEEDED = {"run": "manifest", "sleep": "duration", "terminate": "task_id", "update": "version", "rbe": "rbe"}
NEEDED_OF_MANIFEST = (
    "task_id", "dimensions", "hard_timeout", "io_timeout", "grace_period", "bot_id", "bot_dimensions",
)  # fmt: skip
COST_USD = 1e-5  # that each update of a task adds

Answer = dict[str, Any]


class Said(NamedTuple):
    """One call as it goes onto the wire: repeated, it is the same bytes."""

    path: str
    body: bytes


class SwarmingBot:
    """One bot of the Swarming bot API: its main process. Change `dimensions`, `state`, `version` as you like.

    Methods raise `ApiError` for a refusal, `Unreachable`, and `StrangeAnswer` for what a real bot would trip over.
    """

    def __init__(
        self,
        url: str,
        id: str = "s1",
        *,
        dimensions: Mapping[str, Sequence[str]] | None = None,
        version: str = "1" * 64,
        token: str = "",
    ) -> None:
        self.url = url
        self.id = id
        self.dimensions = {"id": [id], **{key: list(values) for key, values in (dimensions or {}).items()}}
        self.state: dict[str, Any] = {"sleep_streak": 0}
        self.version = version
        self.session_id = ""  # of the process that runs
        self.session: str | None = None  # the newest token
        self.request_uuid = ""  # of the poll that has not succeeded yet
        self.rbe: Answer | None = None  # what it was told of leases, if it was
        self.rbe_session = ""
        self.last: Said | None = None
        # While it is true, each call is made twice with the same bytes: the first answer was lost.
        self.loses_answers = False
        self._address = parse_address(url)
        self._headers = [("Authorization", f"Bearer {token}")] if token else []
        self._polls = 0
        self._starts = 0
        self._begin()

    def _begin(self) -> None:
        self._starts += 1
        self.session_id = f"{self._starts:032x}/{100 + self._starts}"
        self.session, self.request_uuid, self.rbe, self.rbe_session = None, "", None, ""

    # ------------------------------------------------------------- the life of a process

    async def handshake(self, **changes: Any) -> Answer:
        """Says hello, and takes over what it is told: the token, dimensions, hooks. `changes` replace fields."""
        answer = await self.call(
            "handshake", changes, dimensions=self.dimensions, state=self.state, version=self.version,
            session_id=self.session_id,
        )  # fmt: skip
        self.dimensions.update((answer.get("bot_group_cfg") or {}).get("dimensions") or {})
        name = answer.get("bot_config_name") or "bot_config.py"
        self.dimensions["bot_config"] = [name]
        self.state["bot_config"] = {"name": name, "revision": answer.get("bot_config_rev")}
        self.rbe = answer.get("rbe")
        return answer

    async def restart(self) -> Answer:
        """Begins as a new process of the same bot, which knows nothing of what the old one did."""
        self._begin()
        return await self.handshake()

    async def event(self, kind: str, message: str = "") -> Answer:
        """Tells `bot_error`, `bot_log`, `bot_rebooting` or `bot_shutdown`."""
        return await self.call(
            "event", {}, **self._attributes, session=self.session, event=kind, message=message
        )

    @property
    def _attributes(self) -> Answer:
        return {"dimensions": self.dimensions, "state": self.state, "version": self.version}

    # ------------------------------------------------------------- native mode

    async def poll(self, *, force: bool = False, **changes: Any) -> Answer:
        """Asks what to do. The request id is that of the last poll while none has succeeded."""
        if not self.request_uuid:
            self._polls += 1
            self.request_uuid = str(UUID(int=self._starts << 64 | self._polls))
        forced = {"force": True} if force else {}
        answer = await self.call(
            "poll",
            changes,
            **self._attributes,
            session=self.session,
            request_uuid=self.request_uuid,
            **forced,
        )
        command = answer.get("cmd")
        needed = NEEDED.get(str(command), "cmd")
        if answer.get(needed) is None:
            raise StrangeAnswer(f"a poll was answered with cmd {command!r} and without {needed!r}")
        self.request_uuid = ""
        self.state["sleep_streak"] = self.state.get("sleep_streak", 0) + 1 if command == "sleep" else 0
        if command in ("rbe", "run", "sleep"):
            self.rbe = answer.get("rbe")
        return answer

    async def take(self, *, force: bool = False) -> SwarmingTask | None:
        """The task that a poll gives, not started; None when it gives another command."""
        answer = await self.poll(force=force)
        return SwarmingTask(self, answer["manifest"]) if answer["cmd"] == "run" else None

    async def confirm_end(self, task_id: str) -> Answer:
        """Reports that it ends itself, as it was told to by `terminate`."""
        return await self.call(
            f"task_update/{task_id}",
            {},
            task_id=task_id,
            id=self.id,
            session=self.session,
            duration=0,
            exit_code=0,
        )

    # ------------------------------------------------------------- leases

    async def open_rbe(self) -> Answer:
        """Opens a session for leases."""
        answer = await self.call(
            "rbe/session/create", {}, session=self.session, bot_version=self._bot_version
        )
        if not answer.get("session_id"):
            raise StrangeAnswer("a session for leases was opened without an id")
        self.rbe_session = answer["session_id"]
        return answer

    async def update_rbe(
        self,
        status: str = "OK",
        *,
        lease: Answer | None = None,
        nonblocking: bool = True,
        token: str | None = None,
        **changes: Any,
    ) -> Answer:
        """Tells how it stands with a lease; with status OK and none that is active it asks for one."""
        given: Answer = {"lease": lease} if lease is not None else {}
        if nonblocking:
            given["nonblocking"] = True
        answer = await self.call(
            "rbe/session/update", changes, session=token or self.session, bot_version=self._bot_version,
            status=status, **given,
        )  # fmt: skip
        if answer.get("status") != "OK":
            self.rbe_session = ""  # it opens another one
        return answer

    async def claim(self, lease: Answer) -> Answer:
        """Asks for the task behind a lease."""
        payload = lease["payload"]
        return await self.call(
            "claim", {}, **self._attributes, session=self.session, claim_id=lease["id"], task_id=payload["task_id"],
            task_to_run_shard=payload.get("task_to_run_shard", 0), task_to_run_id=payload.get("task_to_run_id", 0),
        )  # fmt: skip

    async def take_lease(self, *, nonblocking: bool = True) -> SwarmingTask | None:
        """The task behind the lease that it gets now, claimed and not started; None when it gets none."""
        if not self.rbe_session:
            await self.open_rbe()
        lease = (await self.update_rbe(nonblocking=nonblocking)).get("lease")
        if lease is None:
            return None
        answer = await self.claim(lease)
        return SwarmingTask(self, answer["manifest"], lease["id"]) if answer["cmd"] == "run" else None

    async def close_lease(self, id: str, status: str = "MAINTENANCE", **result: Any) -> Answer:
        """Says that it is done with a lease."""
        return await self.update_rbe(status, lease={"id": id, "state": "COMPLETED", "result": result})

    @property
    def _bot_version(self) -> str:
        return f"linux_amd64_swarming/{self.version}"

    # ------------------------------------------------------------- the wire

    async def call(self, path: str, changes: Mapping[str, Any], **fields: Any) -> Answer:
        """Any call of the API, by its path; takes the token that comes with the answer."""
        answer = await self.send(said(path, {**fields, **changes}))
        self.session = answer.get("session") or self.session
        return answer

    async def repeat(self) -> Answer:
        """Sends the last call once more; what is answered changes nothing here."""
        assert self.last is not None, "it has said nothing yet"
        return await self.exchange(self.last)

    async def send(self, call: Said) -> Answer:
        self.last = call
        if self.loses_answers:
            with suppress(ApiError):
                await self.exchange(call)
        return await self.exchange(call)

    async def exchange(self, call: Said) -> Answer:
        """Sends one call and gives its answer, which must be one that a real bot takes."""
        status, raw = await self._post(call)
        try:
            answer = msgspec.json.decode(raw, type=Answer)
        except msgspec.MsgspecError:
            raise StrangeAnswer(f"{call.path} was answered {status} with {raw[:200]!r}") from None
        if status != 200:
            raise ApiError(status, str(answer.get("code")), str(answer.get("error")))
        may_be_empty = call.path.partition("/")[0] in ("event", "task_error")
        if answer.get("error") or bool(answer) == may_be_empty:
            raise StrangeAnswer(f"{call.path} was answered with {raw[:200]!r}")
        return answer

    async def _post(self, call: Said) -> tuple[int, bytes]:
        headers = [
            ("Host", self._address.host_header), ("X-Luci-Swarming-Bot-ID", self.id), *self._headers,
            ("Content-Type", "application/json; charset=UTF-8"), ("Content-Length", str(len(call.body))),
        ]  # fmt: skip
        target = f"{self._address.prefix}{API}/{call.path}"
        try:
            connection = await connect(self._address)
            try:
                request = h11.Request(method="POST", target=target, headers=headers)
                response = await exchange_once(connection, request, call.body, READ_LIMIT_S)
                return response.status, await response.read(MAX_ANSWER_BYTES)
            finally:
                with trio.CancelScope(shield=True):
                    await connection.close()
        except Lost as lost:
            raise Unreachable(self.url, lost.reason, lost.sent) from None


class SwarmingTask:
    """One task of a bot, in the process that runs it: it has a token of its own and may outlive the bot's process."""

    def __init__(self, bot: SwarmingBot, manifest: Answer, lease: str = "") -> None:
        missing = [name for name in NEEDED_OF_MANIFEST if manifest.get(name) is None]
        if missing:
            raise StrangeAnswer(f"the manifest has no {', '.join(missing)}")
        self.bot = bot
        self.manifest = manifest
        self.id: str = manifest["task_id"]
        self.lease = lease
        self.session = bot.session
        self.written = 0  # bytes of output that were taken
        self.must_stop = False  # by the last answer
        self._process = bot.session_id
        self._cost_usd = 0.0

    @property
    def command(self) -> list[str]:
        return self.manifest["command"]

    async def start(self) -> Answer:
        """The first update: it has the task and begins."""
        return await self.update()

    async def write(self, data: bytes, offset: int | None = None) -> Answer:
        """Sends output, by default behind what was sent before."""
        return await self.update(data, offset)

    async def end(self, exit_code: int = 0, data: bytes = b"", **changes: Any) -> Answer:
        """The last update of a task that was run, however it ended; `changes` replace fields."""
        fields = {
            "exit_code": exit_code, "duration": 1.5, "bot_overhead": 0.5, "hard_timeout": False, "io_timeout": False,
            "isolated_stats": {"download": {}}, "cleanup_stats": {"duration": 0.001}, **changes,
        }  # fmt: skip
        answer = await self.update(data, **fields)
        self._hand_back()
        return answer

    async def time_out(self, which: str = "hard_timeout", exit_code: int = -15) -> Answer:
        """The last update of a task that was stopped at a limit of its own: `hard_timeout` or `io_timeout`."""
        return await self.end(exit_code, **{which: True})

    async def report_canceled(self) -> Answer:
        """The last update of a task whose first one was answered with `must_stop`."""
        answer = await self.update(canceled=True)
        self._hand_back()
        return answer

    async def fail(self, message: str = "Execution failed", client_error: Answer | None = None) -> Answer:
        """A failure of the bot itself: a last update without an exit code, then `task_error`."""
        await self.update(hard_timeout=False, io_timeout=False)
        nothing: Answer = {"missing_cas": [], "missing_cipd": []}
        answer = await self._call(
            "task_error", message=message, client_error={**nothing, **(client_error or {})}
        )
        self._hand_back()
        return answer

    async def ping(self) -> Answer:
        """Says that its lease is active."""
        lease = {"id": self.lease, "state": "ACTIVE"}
        return await self.bot.update_rbe(lease=lease, nonblocking=False, token=self.session)

    async def update(self, data: bytes = b"", offset: int | None = None, **fields: Any) -> Answer:
        """One update with whatever fields."""
        at = self.written if offset is None else offset
        if data:
            fields |= {"output": base64.b64encode(data).decode(), "output_chunk_start": at}
        self._cost_usd += COST_USD
        answer = await self._call("task_update", cost_usd=self._cost_usd, **fields)
        self.written = max(self.written, at + len(data)) if data else self.written
        self.must_stop = answer["must_stop"]
        return answer

    async def _call(self, route: str, **fields: Any) -> Answer:
        call = said(
            f"{route}/{self.id}", {"id": self.bot.id, "task_id": self.id, "session": self.session, **fields}
        )
        answer = await self.bot.send(call)
        self.session = answer.get("session") or self.session
        return answer

    def _hand_back(self) -> None:
        if self.bot.session_id == self._process:
            self.bot.session = self.session


def said(path: str, fields: Mapping[str, Any]) -> Said:
    """A call as the real bot writes it: compact JSON, keys sorted."""
    return Said(path, msgspec.json.encode(fields, order="sorted"))
