"""Runs chunks until every part has reached its goal."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from .parts import Part, environment, last_lines
from .results import Chunk, Outcome, Results, free_seed

GRACE_S = 30.0  # for a chunk that is told to end, to end what it started
MOST_IN_VAIN = 3  # chunks of a part that end without an outcome, one after another, before it is given up
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
ROOT = Path(__file__).resolve().parent.parent.parent


class Runner:
    """`run` begins no chunk after `seconds`; it may be cancelled at any time, and what was not ended is not counted."""

    def __init__(
        self, parts: Sequence[Part], results: Results, *, jobs: int = 1, seconds: float = math.inf,
        first_seed: int = 1, commit: Callable[[], str], say: Callable[[str], object] = print,
    ) -> None:  # fmt: skip
        self.parts = parts
        self.results = results
        self.jobs = jobs
        self.ends_at = time.monotonic() + seconds
        self.first_seed = first_seed
        self._commit = commit
        self._say = say
        self._running: list[Chunk] = []  # as they will stand in the file if they do what they were asked for
        self._in_vain = dict.fromkeys((part.name for part in parts), 0)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self.jobs):
                nursery.start_soon(self._work)

    async def run_until_told(self) -> None:
        """As `run`, ended by Ctrl-C and SIGTERM."""
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

                async def told() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()
                        return

                nursery.start_soon(told)
                await self.run()
                nursery.cancel_scope.cancel()

    # ------------------------------------------------------------- what comes next

    def done(self, part: Part) -> float:
        return sum(chunk.done for chunk in self.results.of(part.name))

    def _left(self, part: Part) -> float:
        asked = sum(chunk.size for chunk in self._running if chunk.part == part.name)
        return part.goal - self.done(part) - asked

    def _next(self) -> Part | None:
        """The part that is furthest behind, so that all come along."""
        if time.monotonic() >= self.ends_at:
            return None
        open_ones = [
            part for part in self.parts if self._left(part) > 0 and self._in_vain[part.name] < MOST_IN_VAIN
        ]
        return max(open_ones, key=lambda part: self._left(part) / part.goal, default=None)

    async def _work(self) -> None:
        while (part := self._next()) is not None:
            size = min(part.size, math.ceil(self._left(part)))
            seeds = part.seeds(size)
            taken = [*self.results.of(part.name), *(c for c in self._running if c.part == part.name)]
            chunk = Chunk(
                part=part.name, seed=free_seed(taken, self.first_seed, seeds), seeds=seeds, size=size, done=0,
                seconds=0, commit=self._commit(),
            )  # fmt: skip
            self._running.append(chunk)
            try:
                with tempfile.TemporaryDirectory(prefix="swarmd-dose-") as folder:
                    await self._chunk(part, chunk, Path(folder))
            finally:
                self._running.remove(chunk)

    # ------------------------------------------------------------- one chunk

    async def _chunk(self, part: Part, chunk: Chunk, folder: Path) -> None:
        began = time.monotonic()
        with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
            process = await trio.run_process(
                part.command(chunk.seed, chunk.size), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                check=False, cwd=ROOT, env=environment(folder), start_new_session=True, deliver_cancel=_end,
            )  # fmt: skip
        outcome = _outcome(process.returncode, folder)
        self._in_vain[part.name] = 0 if outcome and outcome.done else self._in_vain[part.name] + 1
        if outcome is None:
            self._say(f"{part.name}: seed {chunk.seed} was killed, and is not counted")
        else:
            seconds = round(time.monotonic() - began, 2)
            ended = msgspec.structs.replace(
                chunk, done=outcome.done, seconds=seconds, counts=outcome.counts, faults=outcome.faults
            )
            self.results.add(ended)
            self._tell(part, ended, folder)
        if self._in_vain[part.name] == MOST_IN_VAIN:
            self._say(f"{part.name}: {MOST_IN_VAIN} chunks in a row did nothing; it is given up")

    def _tell(self, part: Part, chunk: Chunk, folder: Path) -> None:
        self._say(
            f"{part.name}: {self.done(part):g}/{part.goal:g} {part.unit}; seed {chunk.seed}: {chunk.done:g} in "
            f"{chunk.seconds:.0f} s, {len(chunk.faults)} faults"
        )
        if chunk.faults:
            for fault in chunk.faults:
                self._say("  " + fault.replace("\n", "\n  "))
            kept = self.results.path.with_suffix(".faulty") / f"{part.name}-{chunk.seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, ignore=_not_copied)
            replay = shlex.join(["python", "-m", "tests.doses", *part.replay(chunk.seed, chunk.size)])
            self._say(f"  again: {replay}; its files are in {kept}")

    # ------------------------------------------------------------- the end

    def reached(self) -> bool:
        """Every goal, without a fault."""
        return all(
            self.done(part) >= part.goal and not any(c.faults for c in self.results.of(part.name))
            for part in self.parts
        )

    def table(self) -> str:
        lines = [f"{'PART':<10}{'DONE/GOAL':<24}{'CHUNKS':>7}{'SECONDS':>9}{'FAULTS':>8}"]
        for part in self.parts:
            chunks = self.results.of(part.name)
            done = f"{self.done(part):g}/{part.goal:g} {part.unit}"
            faults = sum(len(chunk.faults) for chunk in chunks)
            seconds = sum(chunk.seconds for chunk in chunks)
            lines.append(f"{part.name:<10}{done:<24}{len(chunks):>7}{seconds:>9.0f}{faults:>8}")
            total, commits = Counter[str](), Counter[str]()
            for chunk in chunks:
                total.update(chunk.counts)
                commits[chunk.commit[:8].rstrip("+") + "+" * chunk.commit.endswith("+")] += chunk.done
            if total:
                lines.append("  " + ", ".join(f"{count:,.0f} {name}" for name, count in total.items()))
            if commits:
                lines.append("  " + ", ".join(f"{count:g} at {commit}" for commit, count in commits.items()))
        return "\n".join(lines)


def _outcome(code: int, folder: Path) -> Outcome | None:
    """What the chunk told; a fault if it ended without a word; None if it was killed."""
    told = (folder / "stdout").read_bytes()
    with suppress(msgspec.MsgspecError):
        if code in (0, 1):
            return msgspec.json.decode(told, type=Outcome)
    if code in FROM_OUTSIDE:
        return None
    text = last_lines((folder / "stderr").read_text(errors="replace"))
    return Outcome(done=0, faults=[f"the chunk ended with code {code}:\n{text}"])


async def _end(process: trio.Process) -> None:
    """The chunk ends what it started, or is killed with it."""
    process.terminate()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GRACE_S):
        await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _not_copied(folder: str, names: list[str]) -> list[str]:
    """Sockets and pipes."""
    return [
        name
        for name in names
        if not os.path.isfile(f"{folder}/{name}") and not os.path.isdir(f"{folder}/{name}")
    ]


def commit_of_the_tree() -> str:
    """The commit, and `+` when the tree is not quite that."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain") else "")
