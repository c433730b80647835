"""Scripted processes for tests on virtual time: a `Runner` that starts nothing."""

import math
from collections.abc import Callable, Mapping

import msgspec
import trio

from swarmd.bot.process import Action, Ended, LeaderRecord, Start, StopSignal, Watch, write_record

SIGTERM, SIGKILL = 15, 9
FIRST_PID = 1000


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What a scripted process does. Moments are virtual seconds after its start."""

    after_s: float = 0.0  # when it ends by itself; `math.inf`: never
    exit_code: int = 0
    ignores_sigterm: bool = False
    term_s: float = 0.0  # how long it takes to end after SIGTERM
    output: tuple[tuple[float, str, bytes], ...] = ()  # (moment, "stdout" or "stderr", bytes), in order
    error: str | None = None  # it cannot be started, and this is the sentence


class FakeRunner:
    """Runs scripts by the rules of `PosixRunner`: limits, grace, ordered stops, cancellation, output files.

    `script` is one for all commands, or one by argv[0], or a function. Two commands of one attempt at the
    same time are a fault of the caller. `starts` keeps every start in order; `running` has the attempts
    that run now.
    """

    def __init__(self, script: Script | Mapping[str, Script] | Callable[[Start], Script]) -> None:
        self._script = script
        self.starts: list[Start] = []
        self.running: dict[str, Start] = {}

    async def run(self, start: Start, *, stop: StopSignal) -> Ended:
        await trio.lowlevel.checkpoint()
        if stop.reason is not None:
            return Ended(started=False, stopped_by=stop.reason)
        self.starts.append(start)
        script = self._script_of(start)
        if script.error is not None:
            return Ended(started=False, error=script.error)
        assert start.attempt not in self.running, f"attempt {start.attempt} runs already"
        pid = FIRST_PID + len(self.starts)
        write_record(
            start.state, LeaderRecord(attempt=start.attempt, pid=pid, born_from=0, born_to=0, boot_id="fake")
        )
        for path in (start.stdout, start.stderr):
            path.touch()
        self.running[start.attempt] = start
        try:
            return await self._play(start, script, stop)
        finally:
            del self.running[start.attempt]

    async def resume(self, start: Start, *, stop: StopSignal) -> Ended:
        """A scripted process does not outlive its runner."""
        await trio.lowlevel.checkpoint()
        return Ended(error="the command ended while nobody watched it; its exit code is lost")

    def _script_of(self, start: Start) -> Script:
        if isinstance(self._script, Script):
            return self._script
        return self._script[start.argv[0]] if isinstance(self._script, Mapping) else self._script(start)

    async def _play(self, start: Start, script: Script, stop: StopSignal) -> Ended:
        began_at = trio.current_time()
        watch = Watch(start, began_at, began_at)
        ends_at, ended = began_at + script.after_s, Ended(exit_code=script.exit_code)
        output = list(script.output)
        written = 0
        while True:
            now = trio.current_time()
            while output and began_at + output[0][0] <= min(now, ends_at):
                _, stream, data = output.pop(0)
                written += len(data)
                path = {"stdout": start.stdout, "stderr": start.stderr}[stream]
                with path.open("ab") as file:  # in a thread the clock would jump
                    file.write(data)
            if now >= ends_at:
                return msgspec.structs.replace(ended, duration_s=now - began_at, stopped_by=watch.stopped_by)
            action = watch.look(now, stop, lambda size=written: size)  # type: ignore[misc]
            if action is Action.TERMINATE and not script.ignores_sigterm and now + script.term_s < ends_at:
                ends_at, ended = now + script.term_s, Ended(signal=SIGTERM)
            elif action is Action.KILL:
                ends_at, ended = now, Ended(signal=SIGKILL)
            if action is not Action.NOTHING:
                continue
            next_output = began_at + output[0][0] if output else math.inf
            until = min(ends_at, watch.wake_at(), next_output)
            with stop.wait_until(until, noticed=watch.stopped_by is not None):
                await trio.sleep_forever()
