"""What the process that runs a task reports: task_update, task_error.

It outlives the bot's main process, uses a session token of its own, and may call long after the task was given to
another bot. So each report counts for the attempt that it names, as long as that is live in the caller's own session;
any other one is answered so that the command is stopped, and changes nothing.

Source: protocol reference, task_update, task_error.
"""

from __future__ import annotations

from typing import Any

from swarmd.api.calls import Call, Reply
from swarmd.api.swarming import wire
from swarmd.api.swarming.context import Context, check_id, reply
from swarmd.api.swarming.ids import is_run_of
from swarmd.api.swarming.outcome import check_update, failure_of, is_end, outcome_of
from swarmd.api.swarming.tokens import SessionToken
from swarmd.core.engine import Engine
from swarmd.core.model import Attempt

STREAM = "stdout"  # both streams of a command arrive as one
NOT_ITS_TASK = "the bot is not associated with this task on the server"
KILLING = "Killing task"


class TaskHandlers:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon = context.daemon

    async def swarming_task_update(self, call: Call) -> Reply:
        body: wire.TaskUpdateCall = call.body
        token = await self._context.session(call, body.session)
        check_id(token, body.id)
        _check_task_id(body.task_id)
        check_update(body)
        output = wire.octets(body.output, "output")
        end = is_end(body)
        self._daemon.note_life()
        with self._daemon.step() as (engine, now):
            session = self._context.open_session_of(token)
            if session is not None:
                engine.seen(now, session.id)
            attempt = self._context.held_attempt(token, body.task_id)
            if attempt is None:
                self._check_owner(engine, token, body.task_id)
                answer: dict[str, Any] = {"must_stop": not end, "ok": False, "stop_reason": NOT_ITS_TASK}
            else:
                answer = self._take_in(engine, now, attempt, body, output, end)
        await self._daemon.settled()
        if end and attempt is None:
            answer.pop("stop_reason")
        return reply({**answer, "session": self._context.fresh(token)})

    def _take_in(
        self,
        engine: Engine,
        now: float,
        attempt: Attempt,
        body: wire.TaskUpdateCall,
        output: bytes,
        end: bool,
    ) -> dict[str, Any]:
        engine.accept(now, attempt, tell=not end)
        if output:
            engine.report_output(now, attempt, STREAM, int(body.output_chunk_start or 0), output)
        must_stop = attempt.stop is not None
        if end:
            engine.finish(now, attempt.session, attempt.id, outcome_of(body))
            engine.seen(now, attempt.session)  # what its task tolerated counts no more
            must_stop = False
        answer: dict[str, Any] = {"must_stop": must_stop, "ok": True}
        if must_stop:
            answer["stop_reason"] = KILLING
        return answer

    def _check_owner(self, engine: Engine, token: SessionToken, task_id: object) -> None:
        """Raises `Refused` for a task that another bot runs right now: no bot of good faith names that."""
        if any(is_run_of(task_id, a) and a.bot != token.bot for a in engine.attempts.values()):
            raise wire.bad("the task is run by another bot", "report on this bot's own task")

    async def swarming_task_error(self, call: Call) -> Reply:
        body: wire.TaskErrorCall = call.body
        token = await self._context.session(call, body.session)
        check_id(token, body.id)
        _check_task_id(body.task_id)
        with self._daemon.step() as (engine, now):
            session = self._context.open_session_of(token)
            if session is not None:
                engine.seen(now, session.id)
                message = body.message if isinstance(body.message, str) else ""
                engine.bot_tells(now, session.bot, "bot.task_error", message)
            attempt = self._context.held_attempt(token, body.task_id)
            if attempt is not None:
                engine.finish(now, attempt.session, attempt.id, failure_of(body.message, body.client_error))
        await self._daemon.settled()
        return reply({})  # nothing else is right: the bot trips over any other key


def _check_task_id(given: object) -> None:
    if not isinstance(given, str) or not given:
        raise wire.bad(f"task_id is {given!r}"[:80], "name the task as the manifest does")
