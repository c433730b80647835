"""The bundled bot: wires session, slots and runner together, and obeys signals.

The first SIGTERM or SIGINT: nothing more is taken, what waits for a slot is given back, what runs may finish. The
second: what runs is stopped with its grace. The third: it is killed at once.

Work that nobody has heard of yet is not thrown away: after the first signal the bot waits without limit for a daemon
that is away, and says so at once and then each minute.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from swarmd import __version__
from swarmd.api.native.messages import MAX_SLOTS
from swarmd.bot import events
from swarmd.bot.attempt import BY_A_PERSON, Attempts, Surroundings
from swarmd.bot.cache import Cache
from swarmd.bot.folders import Folders
from swarmd.bot.lookahead import GIVE_BACK_S
from swarmd.bot.machine import machine_dimensions, parse_dimension
from swarmd.bot.process import PosixRunner, Runner
from swarmd.bot.reexec import own_command, replace_bot
from swarmd.bot.session import Conversation, Denied, Introduction
from swarmd.bot.slots import Slots
from swarmd.bot.uploads import Outputs
from swarmd.bot.wire import ClientWire, Wire
from swarmd.bot.workdir import WorkFolder, WorkFolderError
from swarmd.client.address import (
    Address,
    address_from_environment,
    parse_address,
    read_token,
    token_from_environment,
)
from swarmd.client.errors import BadSetting
from swarmd.logs import set_up

if TYPE_CHECKING:
    from swarmd.cli.options import BotOptions

MIB = 1 << 20
CLOSE_S = 5.0  # for the goodbye to the daemon
ORDERED_CLOSE_S = 60.0  # for the same when the daemon ordered it; after so long the session ends by itself
DELIVER_S = 15.0  # for the last reports, after a person stopped the bot
LOOK_S = 1.0  # between looks at what a bot that leaves is waiting for
TELL_S = 60.0  # between lines of the log about it
DEFAULT_CACHE_MIB = 4_096
DEFAULT_OUTPUT_MIB = 1_024
TOKEN_VARIABLE = "SWARMD_TOKEN_FILE"
BOT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED = 0, 1, 2, 3


class BotConfig(NamedTuple):
    """Everything that one bot needs to know."""

    bot: str
    url: str
    slots: int
    dimensions: dict[str, list[str]]
    pass_env: tuple[str, ...] = ()
    output_limit_bytes: int = DEFAULT_OUTPUT_MIB * MIB  # of one stream
    cache_bytes: int = DEFAULT_CACHE_MIB * MIB


class Ending(NamedTuple):
    """How a bot ended; `restarts`: it was ordered to, so another one takes its place."""

    exit_code: int
    restarts: bool


class Bot:
    """One bot: its slots, its conversation, and how it ends."""

    def __init__(
        self, config: BotConfig, folder: WorkFolder, runner: Runner, wire: Wire, rng: random.Random
    ) -> None:
        self.config = config
        self.slots = Slots(config.slots)
        state = {"pid": os.getpid(), "host": socket.gethostname(), "work_dir": str(folder.path)}
        introduction = Introduction(config.bot, folder.bot_key, config.dimensions, __version__, state)
        self.talk = Conversation(introduction, wire, self.slots, rng)
        self.outputs = Outputs(wire, rng, config.output_limit_bytes, self.talk.news)
        self.talk.outputs = self.outputs
        cache = Cache(folder.path / "cache", config.cache_bytes, wire, rng)
        self._folders = Folders(folder, config.slots)
        self._folders.clear()
        around = Surroundings(config.bot, config.url, os.environ, config.pass_env)
        self._attempts = Attempts(around, self._folders, runner, wire, cache, self.outputs, rng)
        self._scope = trio.CancelScope()
        self._wishes = 0
        self._leaving = trio.Event()

    async def run(self) -> Ending:
        """Works until an order or a person ends it."""
        code = EXIT_OK
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.outputs.run)
                nursery.start_soon(self._look_ahead)
                nursery.start_soon(self._tell_what_is_waited_for)
                for _ in range(self.config.slots):
                    nursery.start_soon(self._work_slot)
                try:
                    await self.talk.run()
                except Denied as denied:
                    events.error("bot.denied", bot=self.config.bot, reason=str(denied))
                    code = EXIT_REFUSED
                nursery.cancel_scope.cancel()
        if self._scope.cancelled_caught:
            events.error("bot.gave_up", bot=self.config.bot, unreported=len(self.slots.all_held()))
            code = EXIT_FAILED
        restarts = (
            code == EXIT_OK and not self.talk.wants_end and self.talk.end_order in ("restart", "update")
        )
        self._folders.clear()
        if not restarts:  # a new session of the same bot replaces the old one
            await self.talk.close(CLOSE_S, ORDERED_CLOSE_S)
        return Ending(code, restarts)

    def leave(self) -> None:
        """A person's wish to end it; each further one is more urgent."""
        self._wishes += 1
        running = self.slots.running.values()
        events.info("bot.leaving", wish=self._wishes, running=len(running))
        self.talk.leave()
        self._leaving.set()
        if self._wishes == 2:
            for held in running:
                held.stop.request(BY_A_PERSON)
            self._give_up_after_reports()
        elif self._wishes >= 3:
            self._scope.cancel()

    def _give_up_after_reports(self) -> None:
        """From the moment when nothing runs any more, the last reports have DELIVER_S to get through."""
        if self._wishes >= 2 and not self.slots.running:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + DELIVER_S)

    async def _tell_what_is_waited_for(self) -> None:
        """A bot that leaves and cannot report says so at once, then every TELL_S."""
        await self._leaving.wait()
        while True:
            if not self.slots.reports or not self.talk.is_cut_off:
                await trio.sleep(LOOK_S)
                continue
            events.warning(
                "bot.waits_to_report",
                unreported=len(self.slots.reports),
                server=self.config.url,
                hint="a further SIGTERM stops running work, a third one gives up"
                if self._wishes == 1
                else "a further SIGTERM gives up",
            )
            await trio.sleep(TELL_S)

    async def _look_ahead(self) -> None:
        while True:
            await self.slots.until_stuck()
            if self.talk.is_cut_off:  # nobody could be given what is queued here
                await trio.sleep(GIVE_BACK_S)
                continue
            self.slots.look_ahead_again()
            if self.slots.changed:
                self.talk.news()

    async def _work_slot(self) -> None:
        slots = self.slots
        while True:
            held = await slots.next()
            slots.end(held, await self._attempts.run(held))
            self._give_up_after_reports()
            self.talk.news()


async def run_bot(
    config: BotConfig,
    *,
    folder: WorkFolder,
    runner: Runner,
    wire: Wire,
    rng: random.Random | None = None,
    task_status: trio.TaskStatus[Bot] = trio.TASK_STATUS_IGNORED,
) -> Ending:
    """Runs a bot to its end in a locked work folder. `task_status` gives the bot as soon as it can be told to leave.

    First ends what a crashed bot left there; the daemon learns that those attempts are lost, because the new session
    does not keep them. Raises `WorkFolderError`.
    """
    leftovers = await folder.kill_leftovers()
    for attempt in leftovers:
        await folder.remove(attempt)
    await folder.empty_trash()
    if leftovers:
        events.warning("bot.leftovers_killed", attempts=len(leftovers))
    bot = Bot(config, folder, runner, wire, rng or random.Random())
    task_status.started(bot)
    return await bot.run()


def run_bot_from_options(options: BotOptions) -> int:
    """`swarmd bot`: runs until an order or a signal ends it; gives the exit code.

    0: ended as told; 1: could not work in its folder, or was killed; 2: usage; 3: the server refused it. What keeps
    it from starting is said on standard error, in one line.
    """
    set_up(options.log_format or "text", options.log_level or "info")
    host = socket.gethostname()
    name = options.id or host
    try:
        config = _config(options, name)
        wire = ClientWire(*_address(options))
    except (ValueError, BadSetting) as error:
        return _not_started(error, EXIT_USAGE)
    path = Path(options.work_dir) if options.work_dir else Path(f"./swarmd-bot-{name}")
    try:
        with WorkFolder(path) as folder:
            ending = trio.run(_run_with_signals, config, folder, wire)
    except WorkFolderError as error:
        return _not_started(error, EXIT_FAILED)
    if ending.restarts:
        events.info("bot.restarting", bot=name)
        replace_bot(own_command())
    return ending.exit_code


def _not_started(error: Exception, code: int) -> int:
    """Says why, as every command does; gives `code`."""
    from swarmd.cli.text import one_line

    print(f"swarmd: {one_line(str(error))}", file=sys.stderr)
    return code


async def _run_with_signals(config: BotConfig, folder: WorkFolder, wire: ClientWire) -> Ending:
    ending = Ending(EXIT_FAILED, restarts=False)

    async def run(task_status: trio.TaskStatus[Bot]) -> None:
        nonlocal ending
        ending = await run_bot(
            config, folder=folder, runner=PosixRunner(), wire=wire, task_status=task_status
        )
        nursery.cancel_scope.cancel()

    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                bot = await nursery.start(run)
                async for _ in signals:
                    bot.leave()
    except* WorkFolderError as group:
        raise group.exceptions[0] from None
    await wire.close()
    return ending


def _config(options: BotOptions, name: str) -> BotConfig:
    """Raises `ValueError`, with a sentence, for options that no bot can have."""
    if not BOT_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a bot's id; give --id with 1 to 128 letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    slots = 1 if options.slots is None else options.slots
    if not 1 <= slots <= MAX_SLOTS:
        raise ValueError(f"--slots {slots} is out of range; give 1 to {MAX_SLOTS}")
    dimensions = machine_dimensions()
    chosen: dict[str, list[str]] = {}
    for text in options.dimensions or ():
        key, value = parse_dimension(text)
        chosen.setdefault(key, []).append(value)
    cache_mib = DEFAULT_CACHE_MIB if options.cache_mib is None else options.cache_mib
    output_mib = DEFAULT_OUTPUT_MIB if options.output_limit_mib is None else options.output_limit_mib
    return BotConfig(
        name,
        _address(options)[0].url,
        slots,
        dimensions | chosen,
        tuple(options.pass_env or ()),
        output_mib * MIB,
        cache_mib * MIB,
    )


def _address(options: BotOptions) -> tuple[Address, str | None]:
    """Where the server is, and the token for it. Raises `BadSetting`."""
    address = parse_address(options.server) if options.server else address_from_environment()
    if not options.token_file or options.token_file == os.environ.get(TOKEN_VARIABLE):
        return address, token_from_environment()
    try:
        return address, read_token(options.token_file)
    except BadSetting as error:  # the file was named by the flag: so is the remedy
        raise BadSetting(error.message, error.remedy.replace(TOKEN_VARIABLE, "--token-file")) from None
