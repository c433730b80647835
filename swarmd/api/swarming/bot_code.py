"""The bot's own code, which it fetches from the daemon: the operator's copy, with one file that names the daemon.

A version belongs to an address of the daemon: a bot that calls it by another name has another file in its code. So
there is one for each address that bots use, made when the first of them calls, in a thread.

Source: docs/swarming.md, "Bot code and versions".
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
import trio

from swarmd import __version__
from swarmd.api.calls import Call, Reply
from swarmd.api.guard import Denied
from swarmd.api.swarming.archive import Archive
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.routes import TOK
from swarmd.config import ConfigError
from swarmd.config_swarming import SwarmingConfig
from swarmd.offthread import in_thread

MAX_VERSIONS = 1_000  # addresses of the daemon whose version is known
MAX_ZIPS = 8  # kept in memory, of each code
SLOTS = 10_000  # of the hash of a bot's id, for canaries: steps of 0.01 %
CODE = "/swarming/api/v1/bot/bot_code/"

T = TypeVar("T")


class _Channel:
    """One bot, in a version for each address of the daemon. What is missing is made in a thread, once."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._versions: OrderedDict[str, str] = OrderedDict()  # by URL
        self._zips: OrderedDict[str, bytes] = OrderedDict()  # by version
        self._making = trio.Lock()

    @property
    def urls(self) -> list[str]:
        return list(self._versions)

    async def version(self, url: str) -> str:
        if url not in self._versions:
            async with self._making:
                if url not in self._versions:
                    version = await in_thread(self._archive.version, _config(url))
                    return _keep(self._versions, url, version, MAX_VERSIONS)
        self._versions.move_to_end(url)
        return self._versions[url]

    async def packed(self, version: str) -> bytes | None:
        """The zip of a version; None for one that is not known."""
        if version not in self._zips:
            async with self._making:
                url = next((url for url, known in self._versions.items() if known == version), None)
                if url is None:
                    return None
                if version not in self._zips:
                    packed = await in_thread(self._archive.packed, _config(url))
                    return _keep(self._zips, version, packed, MAX_ZIPS)
        self._zips.move_to_end(version)
        return self._zips[version]


def _keep(kept: OrderedDict[str, T], key: str, value: T, most: int) -> T:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
    return value


def _config(url: str) -> bytes:
    """The one file that differs."""
    return msgspec.json.encode({"server": url, "server_version": __version__, "enable_ts_monitoring": False})


class BotCode:
    """What is served to bots. Reads it, which takes a while. Raises `ConfigError` for what is no bot."""

    def __init__(self, config: SwarmingConfig) -> None:
        if config.bot_code_canary and not config.bot_code:
            raise ConfigError("swarming.bot_code_canary is given without bot_code", "give both")
        self._stable = _Channel(Archive(Path(config.bot_code))) if config.bot_code else None
        self._canary = _Channel(Archive(Path(config.bot_code_canary))) if config.bot_code_canary else None
        self._percent = config.canary_percent

    def become(self, other: BotCode) -> None:
        """Serves from now on what `other` does."""
        self._stable, self._canary, self._percent = other._stable, other._canary, other._percent

    async def prepare_as(self, other: BotCode) -> None:
        """Makes the versions of all addresses that `other` was asked for, so that no bot waits for them."""
        for theirs in other._channels():
            for url in theirs.urls:
                for mine in self._channels():
                    await mine.version(url)

    async def wanted(self, bot: str, url: str) -> str | None:
        """The version that a bot should run; None when none is served."""
        is_canary = self._canary is not None and _slot(bot) < self._percent * SLOTS / 100
        channel = self._canary if is_canary else self._stable
        return None if channel is None else await channel.version(url)

    @property
    def is_served(self) -> bool:
        return self._stable is not None

    async def stable(self, url: str) -> str:
        """The version for bots that are no canaries. Raises `Denied` when none is served."""
        if self._stable is None:
            raise Denied(
                404,
                "no_bot_code",
                "this daemon serves no bot code",
                "set bot_code in [swarming] of its configuration to a folder or zip with a Swarming bot",
            )
        return await self._stable.version(url)

    async def packed(self, version: str, url: str) -> bytes | None:
        """The zip of a version; None for one that is not served (any more). `url`: where the caller reaches the daemon,
        which may be the first that a new daemon hears of the address."""
        for channel in self._channels():
            await channel.version(url)
            found = await channel.packed(version)
            if found is not None:
                return found
        return None

    def _channels(self) -> list[_Channel]:
        return [channel for channel in (self._stable, self._canary) if channel is not None]


def _slot(bot: str) -> int:
    return int.from_bytes(hashlib.sha256(b"canary " + bot.encode()).digest()[:8], "big") % SLOTS


class CodeHandlers:
    def __init__(self, context: Context, code: BotCode) -> None:
        self._context = context
        self._code = code

    async def swarming_ping(self, call: Call) -> Reply:
        return Reply(b"Server up", content_type="text/plain; charset=utf-8")

    async def swarming_stable_code(self, call: Call) -> Reply:
        """Where the stable code is: a redirect, so that what is fetched has its version in its name."""
        return self._to(call, await self._code.stable(self._context.server_url(call)))

    async def swarming_code(self, call: Call) -> Reply:
        url, version = self._context.server_url(call), call.params["digest"]
        packed = await self._code.packed(version, url)
        if packed is None:
            return self._to(call, await self._code.stable(url))
        ticket = call.query.get(TOK)
        if call.query != ({TOK: ticket} if ticket else {}):
            return self._to(call, version)  # so that caches keep one of it
        return Reply(
            packed,
            content_type="application/octet-stream",
            headers=(
                (b"cache-control", b"no-store" if ticket else b"public, max-age=3600"),
                (b"etag", b'"' + version.encode() + b'"'),
                (b"content-disposition", b'attachment; filename="swarming_bot.zip"'),
            ),
        )

    def _to(self, call: Call, version: str) -> Reply:
        """A redirect to the code of a version, as the caller reaches it and is let in."""
        location = self._context.path_before(call) + CODE + version + ticket_query(call)
        return Reply(
            b"",
            status=302,
            content_type="text/plain; charset=utf-8",
            headers=((b"location", location.encode()),),
        )


def ticket_query(call: Call) -> str:
    """The query that shows the ticket that this call showed."""
    ticket = call.query.get(TOK)
    return f"?{TOK}={quote(ticket, safe='')}" if ticket else ""
