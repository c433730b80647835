"""The bot's own code, which it fetches from the daemon: the operator's copy, with one file that names the daemon.

The version of a zip is a digest over names and contents, computed as the bot does; so is what is served deterministic,
whatever the order or the times of the files it was made from. Source: protocol reference, "Bot code, bootstrap,
self-update".
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import msgspec

from swarmd import __version__
from swarmd.api.calls import Call, Reply
from swarmd.api.guard import Denied
from swarmd.api.swarming.context import Context
from swarmd.config import ConfigError
from swarmd.config_swarming import SwarmingConfig
from swarmd.offthread import in_thread

MAX_FILES = 5_000
MAX_CODE_BYTES = 64 << 20
MAX_URLS = 8  # for so many addresses of the daemon zips are kept
CONFIG = "config/config.json"
MAIN = "__main__.py"
LEFT_OUT = ("__pycache__", ".git")
DAY_ONE = (1980, 1, 1, 0, 0, 0)  # of all members: times are no part of a version
SLOTS = 10_000  # of the hash of a bot's id, for canaries: steps of 0.01 %

BOOTSTRAP = '''#!/usr/bin/env python3
"""Fetches the Swarming bot of {url} into the present folder and starts it. Give the bot's id in SWARMING_BOT_ID."""

import os
import sys
import urllib.request

URL = {url!r}

with urllib.request.urlopen(URL + "/bot_code{query}", timeout=60) as answer:
    code = answer.read()
with open("swarming_bot.zip", "wb") as file:
    file.write(code)
os.environ.setdefault("SWARMING_EXTERNAL_BOT_SETUP", "1")
os.execv(sys.executable, [sys.executable, "swarming_bot.zip", "start_bot"])
'''


class Zip:
    """The bot's code for one address of the daemon."""

    def __init__(self, files: dict[str, bytes]) -> None:
        names = sorted(files)
        digest = hashlib.sha256()
        for name in names:
            for part in (name.encode(), files[name]):
                digest.update(str(len(part)).encode())
                digest.update(part)
        self.digest = digest.hexdigest()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                member = zipfile.ZipInfo(name, DAY_ONE)
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o644 << 16
                archive.writestr(member, files[name])
        self.data = packed.getvalue()


class _Channel:
    """One bot as the operator gave it, and the zips made of it."""

    def __init__(self, path: str) -> None:
        self._files = read_code(Path(path))
        self._zips: OrderedDict[str, Zip] = OrderedDict()

    def at(self, url: str) -> Zip:
        """The zip that names `url`. Made once for each; takes a good part of a second."""
        found = self._zips.get(url)
        if found is None:
            config = {"server": url, "server_version": __version__, "enable_ts_monitoring": False}
            found = self._zips[url] = Zip({**self._files, CONFIG: msgspec.json.encode(config)})
            while len(self._zips) > MAX_URLS:
                self._zips.popitem(last=False)
        self._zips.move_to_end(url)
        return found

    def known(self, digest: str) -> Zip | None:
        return next((zip for zip in self._zips.values() if zip.digest == digest), None)


class BotCode:
    """What is served to bots. Raises `ConfigError` for a folder or zip that is no bot."""

    def __init__(self, config: SwarmingConfig) -> None:
        self._stable = _Channel(config.bot_code) if config.bot_code else None
        self._canary = _Channel(config.bot_code_canary) if config.bot_code_canary else None
        self._percent = config.canary_percent
        if self._canary is not None and self._stable is None:
            raise ConfigError("swarming.bot_code_canary is given without bot_code", "give both")

    def become(self, other: BotCode) -> None:
        """Serves from now on what `other` does."""
        self._stable, self._canary, self._percent = other._stable, other._canary, other._percent

    def wanted(self, bot: str, url: str) -> str | None:
        """The version that a bot should run; None when none is served."""
        channel = self._channel(bot)
        return None if channel is None else channel.at(url).digest

    def stable(self, url: str) -> Zip | None:
        return None if self._stable is None else self._stable.at(url)

    def known(self, digest: str) -> Zip | None:
        channels = [c for c in (self._stable, self._canary) if c is not None]
        return next((found for c in channels if (found := c.known(digest)) is not None), None)

    def _channel(self, bot: str) -> _Channel | None:
        if self._canary is not None and _slot(bot) < self._percent * SLOTS / 100:
            return self._canary
        return self._stable

    async def prepare(self, url: str) -> None:
        """Makes the zips for an address of the daemon, off the trio thread: it takes a while."""
        for channel in (self._stable, self._canary):
            if channel is not None and url not in channel._zips:
                await in_thread(channel.at, url)


def _slot(bot: str) -> int:
    return int.from_bytes(hashlib.sha256(b"canary " + bot.encode()).digest()[:8], "big") % SLOTS


def read_code(path: Path) -> dict[str, bytes]:
    """The files of a bot, by their names in the zip. Raises `ConfigError`."""
    try:
        files = _read_zip(path) if path.is_file() else _read_folder(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"cannot read the bot code {path}: {error}", "give a folder or zip with a Swarming bot"
        ) from None
    if MAIN not in files:
        raise ConfigError(
            f"the bot code {path} has no {MAIN}", "give the folder whose files are the root of the bot's zip"
        )
    files.pop(CONFIG, None)
    return files


def _read_folder(root: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    size = 0
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist")
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".pyc") or not path.is_file():
                continue
            size += path.stat().st_size
            _check_size(root, len(files), size)
            files[path.relative_to(root).as_posix()] = path.read_bytes()
    return files


def _read_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        _check_size(path, len(members), sum(m.file_size for m in members))
        return {member.filename: archive.read(member) for member in members}


def _check_size(path: Path, files: int, size: int) -> None:
    if files > MAX_FILES or size > MAX_CODE_BYTES:
        raise ConfigError(
            f"the bot code {path} has more than {MAX_FILES} files or {MAX_CODE_BYTES >> 20} MiB",
            "give the bot's own files only",
        )


class CodeHandlers:
    def __init__(self, context: Context, code: BotCode) -> None:
        self._context = context
        self._code = code

    async def swarming_ping(self, call: Call) -> Reply:
        return Reply(b"Server up", content_type="text/plain; charset=utf-8")

    async def _stable(self, call: Call) -> Zip:
        url = self._context.server_url(call)
        await self._code.prepare(url)
        stable = self._code.stable(url)
        if stable is None:
            raise Denied(
                404,
                "no_bot_code",
                "this daemon serves no bot code",
                "set bot_code in [swarming] of its configuration to a folder or zip with a Swarming bot",
            )
        return stable

    async def swarming_stable_code(self, call: Call) -> Reply:
        """Where the stable code is: a redirect, so that what is fetched has its version in its name."""
        stable = await self._stable(call)
        return _to(f"/swarming/api/v1/bot/bot_code/{stable.digest}")

    async def swarming_code(self, call: Call) -> Reply:
        found = self._code.known(call.params["digest"])
        if found is None:  # an older one, or a daemon that has just started
            stable = await self._stable(call)
            found = self._code.known(call.params["digest"])
            if found is None:
                return _to(f"/swarming/api/v1/bot/bot_code/{stable.digest}")
        if call.query:
            return _to(f"/swarming/api/v1/bot/bot_code/{found.digest}")
        return Reply(
            found.data,
            content_type="application/octet-stream",
            headers=(
                (b"cache-control", b"public, max-age=3600"),
                (b"etag", b'"' + found.digest.encode() + b'"'),
                (b"content-disposition", b'attachment; filename="swarming_bot.zip"'),
            ),
        )

    async def swarming_bootstrap(self, call: Call) -> Reply:
        await self._stable(call)
        script = BOOTSTRAP.format(url=self._context.server_url(call), query="")
        return Reply(script.encode(), content_type="text/plain; charset=utf-8")


def _to(path: str) -> Reply:
    return Reply(
        b"", status=302, content_type="text/plain; charset=utf-8", headers=((b"location", path.encode()),)
    )
