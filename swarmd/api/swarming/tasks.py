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
from swarmd.api.swarming.ids import live_run
from swarmd.api.swarming.outcome import check_update, failure_of, is_end, outcome_of
from swarmd.api.swarming.tokens import SessionToken
from swarmd.core.engine import Engine
from swarmd.core.model import Attempt, Outcome

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
        outcome = outcome_of(body) if is_end(body) else None
        end = outcome is not None
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
                answer = self._take_in(
                    engine, now, attempt, int(body.output_chunk_start or 0), output, outcome
                )
        await self._daemon.settled()
        if end and attempt is None:
            answer.pop("stop_reason")
        return reply({**answer, "session": self._context.fresh(token)})

    def _take_in(
        self,
        engine: Engine,
        now: float,
        attempt: Attempt,
        offset: int,
        output: bytes,
        outcome: Outcome | None,
    ) -> dict[str, Any]:
        engine.accept(now, attempt, tell=outcome is None)
        if output:
            engine.report_output(now, attempt, STREAM, offset, output)
        if outcome is not None:
            engine.finish(now, attempt.session, attempt.id, outcome)
            if attempt.session in engine.sessions:  # it has not confirmed that it ends itself
                engine.seen(now, attempt.session)  # what its task tolerated counts no more
        elif attempt.stop is not None:
            return {"must_stop": True, "ok": True, "stop_reason": KILLING}
        return {"must_stop": False, "ok": True}

    def _check_owner(self, engine: Engine, token: SessionToken, task_id: object) -> None:
        """Raises `Refused` for a task that another bot runs right now: no bot of good faith names that."""
        attempt = live_run(engine, task_id)
        if attempt is not None and attempt.bot != token.bot:
            raise wire.bad("the task is run by another bot", "report on this bot's own task")

    async def swarming_task_error(self, call: Call) -> Reply:
        body: wire.TaskErrorCall = call.body
        token = await self._context.session(call, body.session)
        check_id(token, body.id)
        _check_task_id(body.task_id)
        message = body.message if isinstance(body.message, str) else ""
        outcome = failure_of(message, body.client_error)
        self._daemon.note_life()
        with self._daemon.step() as (engine, now):
            session = self._context.open_session_of(token)
            if session is not None:
                engine.seen(now, session.id)
                engine.bot_tells(now, session.bot, "bot.task_error", message)
            attempt = self._context.held_attempt(token, body.task_id)
            if attempt is not None:
                engine.finish(now, attempt.session, attempt.id, outcome)
        await self._daemon.settled()
        return reply({})  # nothing else is right: the bot trips over any other key


def _check_task_id(given: object) -> None:
    if not isinstance(given, str) or not given:
        raise wire.bad(f"task_id is {wire.shown(given)}", "name the task as the manifest does")
