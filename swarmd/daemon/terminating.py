"""How a bot is told to end by a task: an id that can be waited for.

Source: docs/architecture.md, "Termination tasks".
"""

from __future__ import annotations

from swarmd.core.model import BotId, OpId, Work
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.daemon.daemon import Daemon

EXPIRATION_S = 432_000.0  # five days, as in the Swarming API
END_LIMIT_S = 600.0  # a bot that was told to end, says that it lives and does not end is given up then


async def terminate_bot(
    daemon: Daemon, bot: BotId, *, name: str, tags: tuple[str, ...], owner: str, priority: int
) -> OpId:
    """The task that ends `bot`, in the file: the unfinished one if there is one, else a new one.

    It comes before all other tasks, whatever its `priority`. For a bot that is not connected it waits until it
    comes back. Raises `Unknown` for a bot that is not known.
    """
    daemon.check_space()
    with daemon.step() as (engine, now):
        engine.bot_named(bot)
        task = engine.termination_of(bot)
        if task is not None:
            op = engine.ops_of(task)[0]
        else:
            spec = termination(bot, name=name, tags=tags, owner=owner, priority=priority)
            op = engine.submit(now, [spec])[0].id
    await daemon.settled()
    return op


def termination(bot: BotId, *, name: str, tags: tuple[str, ...], owner: str, priority: int) -> TaskSpec:
    """A termination task of `bot`. It is not tried again on a bot that vanished when it had been told to end: that
    would end the bot's next life."""
    return TaskSpec(
        work=(Work(terminate=True, hard_limit_s=END_LIMIT_S, grace_s=0.0),),
        slices=(SliceSpec({"id": [bot]}, EXPIRATION_S, wait_for_capacity=True),),
        pool="", name=name, tags=tags, owner=owner, priority=priority, retries=0, bot_retries=0,
    )  # fmt: skip
