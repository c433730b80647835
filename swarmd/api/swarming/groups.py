"""Which bots are configured alike, and what a bot is told of it: dimensions, hooks, mode.

Source: docs/swarming.md, "Bot groups".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from swarmd.api.guard import read_token
from swarmd.config import ConfigError
from swarmd.config_swarming import BotGroup, Mode, PoolRules, SwarmingConfig
from swarmd.core.dimensions import ID, POOL, check_bot
from swarmd.core.errors import Refused
from swarmd.core.model import DEFAULT_POOL

MAX_HOOKS_BYTES = 256 << 10
HOST_SEPARATOR = "--"  # "<host>--<suffix>" is one of several bots of a host, and configured as the host

# Bots fetch a CIPD client before each task unless their runner is told not to; it then wants a file of this name.
NO_CIPD_HOOK = """

# ---- by swarmd: no CIPD client is fetched before a task ----
_swarmd_next = globals().get("on_before_task")


def on_before_task(bot, bot_file=None, command=None, environ=None, *rest):
    import os
    import tempfile

    if command is not None and "--cipd-enabled" not in command:
        command.extend(["--cipd-enabled", "false"])
    if environ is not None and "LUCI_GO_CLIENT_DIR" not in environ:
        folder = os.path.join(tempfile.gettempdir(), "swarmd-no-cas-%s" % getattr(os, "getuid", str)())
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "cas")
        if not os.path.exists(path):
            with open(path, "w") as file:
                file.write("")
            os.chmod(path, 0o755)
        environ["LUCI_GO_CLIENT_DIR"] = folder
    if _swarmd_next is not None:
        return _swarmd_next(bot, bot_file, command, environ, *rest)
"""


class Group(Struct, frozen=True):
    """What the bots of a group share. `config` is a digest of all that a handshake delivers."""

    name: str
    assigned: Mapping[str, tuple[str, ...]]
    owners: tuple[str, ...]
    hooks: str
    hooks_name: str
    hooks_rev: str
    mode: Mode
    token: str
    config: str


class Groups:
    """Made from the configuration. Raises `ConfigError` for hooks, tokens or dimensions that cannot be used."""

    def __init__(self, config: SwarmingConfig) -> None:
        self._exact: dict[str, Group] = {}
        self._prefixes: list[tuple[str, Group]] = []
        self._rest: Group | None = None
        for number, given in enumerate(config.groups):
            group = _group(given, number, config)
            if not given.bots:
                self._rest = group
            for name in given.bots:
                if name.endswith("*"):
                    self._prefixes.append((name[:-1], group))
                elif name in self._exact:
                    raise ConfigError(f"bot {name!r} is in two of swarming.groups", "leave one out")
                else:
                    self._exact[name] = group
        self._default = self._rest or _group(BotGroup(), None, config)

    def of(self, bot: str) -> Group:
        """The group of a bot: the one that names it, or its host; else the first with a fitting prefix; else the
        rest."""
        host = bot.partition(HOST_SEPARATOR)[0]
        found = self._exact.get(bot) or self._exact.get(host)
        if found is not None:
            return found
        return next((group for prefix, group in self._prefixes if host.startswith(prefix)), self._default)

    def with_token(self, shown: str) -> Group | None:
        """The group whose secret was shown."""
        groups = {id(g): g for g in (*self._exact.values(), *(g for _, g in self._prefixes), self._default)}
        return next(
            (
                group
                for group in groups.values()
                if group.token and hmac.compare_digest(shown.encode(), group.token.encode())
            ),
            None,
        )


def _group(given: BotGroup, number: int | None, config: SwarmingConfig) -> Group:
    name = "default" if number is None else (given.bots[0] if given.bots else "the rest")
    assigned = {key: tuple(values) for key, values in given.dimensions.items()}
    assigned.setdefault(POOL, (DEFAULT_POOL,))
    try:
        if ID in assigned:
            raise Refused("bad_dimension", "dimension id is the bot's own", "leave it out")
        check_bot("bot", assigned)
    except Refused as error:
        raise ConfigError(f"swarming.groups[{number}]: {error.message}", error.remedy) from None
    hooks, hooks_name = _hooks(given.hooks)
    if not config.cipd:
        hooks += NO_CIPD_HOOK
    rules = next((config.pools[pool] for pool in assigned[POOL] if pool in config.pools), PoolRules())
    delivered = [sorted(assigned.items()), hooks, hooks_name]
    return Group(
        name, assigned, tuple(given.owners), hooks, hooks_name, hashlib.sha256(hooks.encode()).hexdigest()[:12],
        rules.mode, read_token(Path(given.token_file)) if given.token_file else "",
        hashlib.sha256(msgspec.json.encode(delivered)).hexdigest()[:16],
    )  # fmt: skip


def _hooks(given: str) -> tuple[str, str]:
    if not given:
        return "", "swarmd_hooks.py"
    path = Path(given)
    try:
        if path.stat().st_size > MAX_HOOKS_BYTES:
            raise ConfigError(f"the hooks {path} have more than {MAX_HOOKS_BYTES} bytes", "make them smaller")
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
    except OSError as error:
        raise ConfigError(
            f"cannot read the hooks {path}: {error.strerror}", "name an existing file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"the hooks {path} are not UTF-8", "save them as UTF-8") from None
    except (SyntaxError, ValueError) as error:
        raise ConfigError(
            f"the hooks {path} are not Python: {error}", "a bot would quarantine itself"
        ) from None
    return text, path.name
