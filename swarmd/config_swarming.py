"""The `[swarming]` table of the configuration: bots and clients of LUCI Swarming. Source: docs/swarming.md."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

Mode = Literal["native", "rbe", "hybrid"]
READ_LIMIT_S = 60.0  # a Swarming bot gives up on an answer after this long without a byte
REALM = re.compile(r"[a-z0-9_-]{1,100}:([a-z0-9_./-]{1,400}|@root|@legacy|@project)")
MAX_HOLD_S = 50.0  # so a held call is answered well before


class BotGroup(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bots that are configured alike. The group that names a bot is its own; one without `bots` takes the rest."""

    bots: list[str] = []  # ids; "gpu-*" is every id that begins so
    dimensions: dict[
        str, list[str]
    ] = {}  # replace the bot's own of these names; pool is "default" unless given
    owners: list[str] = []  # whom to ask, for people
    hooks: str = ""  # a file with Python hooks for these bots, delivered with the handshake
    token_file: str = ""  # these bots must show this secret, wherever they call from


class PoolRules(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How Swarming bots of a pool are given work, and what tasks of Swarming clients in it are."""

    mode: Mode = "native"
    realm: str = ""  # of tasks that name none; empty: the pool's own name, and "default"


class SwarmingConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What Swarming bots and clients are told. Spans are in seconds."""

    server_url: str = ""  # where bots reach the daemon; empty: as each bot's own Host header says
    bot_code: str = ""  # a folder or zip with a Swarming bot, the operator's own copy
    bot_code_canary: str = ""  # another one, for some of the bots
    canary_percent: float = 0.0  # of the bots, by their ids
    cipd: bool = False  # let bots fetch a CIPD client before each task, as they do by themselves
    death_timeout_s: float = 300.0  # a silent bot is dead; its own patience with a daemon that is away is 240
    session_s: float = 3_600.0  # how long a session token is good; each answer brings a fresh one
    poll_s: float = 1.0  # pause of an idle bot
    poll_max_s: float = 1.0  # up to which it grows while there is no work
    poll_hold_s: float = 0.0  # hold an idle bot's poll for so long instead; up to 50
    rbe_hold_s: float = 40.0  # hold an idle bot's call for a lease; up to 50
    task_account: str = "none"  # name of the account of tasks that name none: none, or a name
    system_account: str = "none"
    token_command: list[str] = []  # mints access tokens instead of the daemon: JSON in, JSON out
    groups: list[BotGroup] = []
    pools: dict[str, PoolRules] = {}

    def faults(self) -> list[tuple[str, str]]:
        """Values that cannot be: what, and what to do."""
        found = [
            (f"swarming.{name} is {getattr(self, name)}", f"give {low:g} to {high:g}")
            for name, low, high in (
                ("canary_percent", 0, 100), ("death_timeout_s", 1, 86_400), ("session_s", 60, 604_800),
                ("poll_s", 0.01, 300), ("poll_max_s", 0.01, 300), ("poll_hold_s", 0, MAX_HOLD_S),
                ("rbe_hold_s", 0, MAX_HOLD_S),
            )
            if not low <= getattr(self, name) <= high
        ]  # fmt: skip
        if self.server_url and not _is_base_url(self.server_url):
            found.append(
                (
                    f"swarming.server_url is {self.server_url!r}",
                    "write it as http://lab.example:8710, no '/' at the end",
                )
            )
        for pool, rules in self.pools.items():
            if rules.realm and not REALM.fullmatch(rules.realm):
                found.append((f"swarming.pools.{pool}.realm is {rules.realm!r}", "write it as project:realm"))
        if self.token_command and not self.token_command[0]:
            found.append(("swarming.token_command begins with an empty text", "begin with the program"))
        if sum(not group.bots for group in self.groups) > 1:
            found.append(("two of swarming.groups have no bots", "only one of them can take the rest"))
        return found


def _is_base_url(text: str) -> bool:
    """Whether paths can be put behind it."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    printable = text.isascii() and text.isprintable() and " " not in text
    plain = not ("?" in text or "#" in text or text.endswith("/"))
    return parts.scheme in ("http", "https") and bool(parts.hostname) and printable and plain
