"""`swarmd serve`: opens the file, listens, lives, and ends without changing anything that is in the file."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio
import trio_asyncio

from swarmd.config import Config, ConfigError, config_of
from swarmd.daemon.daemon import Daemon, open_daemon
from swarmd.daemon.garbage import Collector, quiet_collector
from swarmd.daemon.listeners import (
    Listener,
    ListenError,
    listener_url,
    open_listeners,
    raise_open_files_limit,
    remove_unix_socket,
)
from swarmd.daemon.notify import Notifier
from swarmd.daemon.retention import keep_within
from swarmd.daemon.server import ServerSettings, serve
from swarmd.logs import set_up
from swarmd.store.backend import Backend, open_backend
from swarmd.store.blobs import drop_incomplete
from swarmd.store.errors import StoreError
from swarmd.tls import server_context

if TYPE_CHECKING:
    from swarmd.cli.options import ServeOptions

log = logging.getLogger("swarmd.daemon")

# Settings that a reload cannot change.
FIXED = (
    "db", "listen", "unix", "tls_cert", "tls_key", "durability", "session_deadline_s", "accept_s", "bot_back_s",
    "output_limit_mib",
)  # fmt: skip
GRACEFUL_S = 5.0  # what running requests get when the daemon stops


def serve_from_options(options: ServeOptions) -> int:
    """Runs the daemon until SIGTERM or SIGINT. Returns the exit code: 0, or 1 with a sentence on standard error."""
    try:
        config = config_of(options)
        set_up(config.log_format, config.log_level)
        trio.run(partial(serve_config, config, reload=partial(config_of, options)))
    except BaseException as raised:
        return _end(raised)
    return 0


def _end(raised: BaseException) -> int:
    """Says on standard error why the daemon ended; returns the exit code."""
    errors = _leaves(raised)
    if all(isinstance(error, KeyboardInterrupt) for error in errors):
        return 0
    for error in errors:
        if isinstance(error, (ConfigError, StoreError, ListenError)):
            print(f"swarmd: {_sentence(error)}", file=sys.stderr)
        elif isinstance(error, Exception):
            log.error("daemon.failed", exc_info=error)
            print(f"swarmd: the daemon had to stop: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            raise raised
    return 1


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def _sentence(error: BaseException) -> str:
    remedy = getattr(error, "remedy", "")
    return f"{error}; {remedy}" if remedy else str(error)


class Tls:
    """The daemon's certificate, called for each connection. Raises `ConfigError`."""

    def __init__(self, config: Config) -> None:
        assert config.tls_cert and config.tls_key
        self._context = server_context(Path(config.tls_cert), Path(config.tls_key))

    def become(self, other: Tls) -> None:
        self._context = other._context

    def __call__(self) -> ssl.SSLContext:
        return self._context


async def serve_config(
    config: Config,
    *,
    reload: Callable[[], Config] | None = None,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """The whole daemon. `say` gets the line `swarmd ready …`. Raises what is worth a sentence."""
    from swarmd.api.migrations import MIGRATIONS

    raise_open_files_limit()
    tls = Tls(config) if config.tls_cert else None
    unix = Path(config.unix) if config.unix else None
    # First the addresses: a daemon that cannot listen makes no file. Who calls meanwhile waits in the listener's queue.
    listeners = await open_listeners(config.addresses, unix)
    try:
        async with trio_asyncio.open_loop():
            backend = await open_backend(Path(config.db), durability=config.durability, migrations=MIGRATIONS)
            try:
                daemon = await open_daemon(config, backend)
                with quiet_collector() as collector:
                    await _live(config, backend, daemon, collector, listeners, tls, reload, say)
            finally:
                await backend.close()
    finally:
        for listener in listeners:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await listener.aclose()
        if unix is not None:
            remove_unix_socket(unix)


async def _live(
    config: Config,
    backend: Backend,
    daemon: Daemon,
    collector: Collector,
    listeners: list[Listener],
    tls: Tls | None,
    reload: Callable[[], Config] | None,
    say: Callable[[str], None],
) -> None:
    from swarmd.api.app import open_app

    app = await open_app(daemon)
    served = partial(serve, collector.around(app), listeners, grpc=collector.around(app.grpc), tls=tls)
    notifier = Notifier.from_environ(os.environ)
    shutdown = trio.Event()
    urls = [listener_url(listener, tls=tls is not None) for listener in listeners]
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.run)
        await drop_incomplete(backend, daemon.writer)
        settings = ServerSettings(graceful_s=GRACEFUL_S)
        # The server has a nursery of its own: it ends first, with all its requests, then the scheduler.
        nursery.start_soon(notifier.watchdog)
        nursery.start_soon(keep_within, daemon)
        async with trio.open_nursery() as serving:
            await serving.start(partial(served, shutdown=shutdown, settings=settings))
            # Signals are caught before anybody can know that we are ready: the default would end us hard.
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                say(f"swarmd ready {urls[0]}")
                log.info("ready", extra={"urls": " ".join(urls), "db": config.db})
                notifier.ready()
                await _until_told(signals, partial(_reload, daemon, app.reconfigure, tls, reload, notifier))
            notifier.stopping()
            log.info("stopping")
            daemon.stop_soon()
            shutdown.set()
            if daemon.writer.out_of_space:
                daemon.writer.stop()  # `run` raises the sentence that we end with: nobody waits for room any more
        with trio.move_on_after(GRACEFUL_S):
            if daemon.writer.out_of_space:  # only now
                daemon.writer.stop()
                await trio.sleep_forever()
            await daemon.writer.drain()
        nursery.cancel_scope.cancel()
    log.info("stopped")


async def _until_told(signals: AsyncIterator[int], on_reload: Callable[[], Awaitable[None]]) -> None:
    async for number in signals:
        if number != signal.SIGHUP:
            return
        await on_reload()


async def _reload(
    daemon: Daemon,
    reconfigure: Callable[[Config], Awaitable[None]],
    tls: Tls | None,
    reload: Callable[[], Config] | None,
    notifier: Notifier,
) -> None:
    """SIGHUP: token, certificate, networks, host names, log level, retention and what Swarming bots are told are read
    anew; the rest needs a restart."""
    if reload is None:
        return
    notifier.reloading()
    try:
        config = reload()
        renewed = Tls(daemon.config) if tls is not None else None
        await reconfigure(config)
        if tls is not None and renewed is not None:
            tls.become(renewed)
    except ConfigError as error:
        log.error("reload.refused", extra={"reason": _sentence(error)})
    else:
        old = daemon.config
        fixed = [n for n in FIXED if getattr(old, n) != getattr(config, n)]
        daemon.config = msgspec.structs.replace(config, **{n: getattr(old, n) for n in fixed})
        set_up(config.log_format, config.log_level)
        log.info("reloaded", extra={"needs_restart": ",".join(fixed)} if fixed else {})
    notifier.ready()
