"""Configuration of the daemon: flags over environment over file over defaults.

The file is TOML; unknown keys are refused with the nearest known one. Environment variables are the flags' names in
capitals, `SWARMD_DB` for `serve --db` and so on (the command line reads them).
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from swarmd.config_remoteworkers import RemoteWorkersConfig
from swarmd.config_swarming import SwarmingConfig

if TYPE_CHECKING:
    from swarmd.cli.options import ServeOptions

DEFAULT_LISTEN = "127.0.0.1:8710"
DEFAULT_DB = "./swarmd.db"
MAX_CONFIG_BYTES = 1 << 20
KINDS = {  # the types of settings, the outer one of two first
    list: "a list of texts",
    str: "a text",
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    RemoteWorkersConfig: "a table",
    SwarmingConfig: "a table",
}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConfigError(Exception):
    """A setting that cannot be used; `code` is stable, `message` says what, which, expected; `remedy` what to do."""

    def __init__(self, message: str, remedy: str = "", code: str = "bad_config") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of `swarmd serve`. The names are the keys of the file."""

    db: str = DEFAULT_DB
    listen: list[str] = []  # HOST:PORT each; empty: 127.0.0.1:8710, or nothing when `unix` is given
    unix: str | None = None
    tls_cert: str | None = None  # PEM, the daemon's own first; TCP is then in TLS
    tls_key: str | None = None
    token_file: str | None = None  # one secret in it; callers send it as a bearer token
    allow_network: list[str] = []  # peers of these networks need no token
    allow_host: list[str] = []  # further names that a Host header may carry
    trust_loopback: bool = True  # peers of this machine need no token
    durability: Literal["power", "process"] = "power"
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    retention_days: float = 30.0
    retention_gib: float = 10.0
    session_deadline_s: float = 60.0
    accept_s: float = 30.0
    bot_back_s: float = 60.0
    output_limit_mib: int = 256
    swarming: SwarmingConfig = SwarmingConfig()
    remoteworkers: RemoteWorkersConfig = RemoteWorkersConfig()

    def __post_init__(self) -> None:
        for name in ("retention_days", "retention_gib", "session_deadline_s", "accept_s", "bot_back_s"):
            if not 0 < getattr(self, name) < 1e9:
                raise ConfigError(f"{name} is {getattr(self, name)}", "give a number above 0")
        if not 1 <= self.output_limit_mib <= 16_384:
            raise ConfigError(f"output_limit_mib is {self.output_limit_mib}", "give 1 to 16384")
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_cert else "tls_cert"
            raise ConfigError(
                f"{missing} is missing: TLS needs a certificate and its key", "give both, or neither"
            )
        for what, remedy in [*self.swarming.faults(), *self.remoteworkers.faults()]:
            raise ConfigError(what, remedy)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where to listen for TCP. Raises `ConfigError`."""
        texts = self.listen or ([] if self.unix else [DEFAULT_LISTEN])
        return [parse_address(text) for text in texts]

    @property
    def networks(self) -> list[Network]:
        """Raises `ConfigError`."""
        return [parse_network(text) for text in self.allow_network]

    def check_exposure(self) -> None:
        """Raises `ConfigError` when an address that others can reach is not protected."""
        if self.token_file or self.allow_network:
            return
        for host, port in self.addresses:
            if not is_loopback(host):
                raise ConfigError(
                    f"listening on {host}:{port} would let anybody who can reach it run commands on your bots",
                    "add --token-file FILE or --allow-network CIDR, or listen on 127.0.0.1",
                    "unprotected",
                )


def is_loopback(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, with an IPv6 host in brackets. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    bare = host.strip("[]")
    if (
        not colon
        or not bare
        or not port.isascii()
        or not port.isdigit()
        or int(port) > 65_535
        or (":" in bare) != (host != bare)
    ):
        raise ConfigError(
            f"{text!r} is not an address to listen on",
            "write HOST:PORT, such as 127.0.0.1:8710 or [::1]:8710",
        )
    return bare, int(port)


def parse_network(text: str) -> Network:
    """`10.1.0.0/16`, or one address. Raises `ConfigError`, which names the network around an address in it."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        message = f"allow_network {text!r} is not a network: {error}"
    try:
        around = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(message, "write it as 10.1.0.0/16") from None
    raise ConfigError(message, f"write {around}")


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, checked for their names and types. Raises `ConfigError`."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes", "give a configuration file")
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}", "give --config an existing file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", "mend the line it names") from None
    for key in found:
        if key not in Config.__struct_fields__:
            near = difflib.get_close_matches(key, Config.__struct_fields__, 1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"known keys: {', '.join(sorted(Config.__struct_fields__))}"
            )
            raise ConfigError(f"{path} has an unknown key {key!r}", hint, "unknown_key")
    return found


TABLES = {
    "swarming": "swarming",
    "remoteworkers": "remoteworkers",
}  # whose settings are in a page of their own


def expected(key: str) -> str:
    """What the value of a setting is, in words: "a number", "one of text, json"."""
    hint: Any = get_type_hints(Config)[key]
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    for kind, words in KINDS.items():
        if kind in (hint, get_origin(hint), *get_args(hint)):
            return words
    raise AssertionError(f"no words for the type of {key}")


def wrong_type(source: str, reason: str) -> ConfigError:
    """The error for a value that msgspec refused with `reason`; `source` is the file that it stands in."""
    said, _, path = reason.rpartition(" - at `$.")
    assert path, reason
    name = path.rstrip("`")
    page = TABLES.get(re.split(r"[.\[]", name)[0], "operating")
    remedy = f"docs/{page}.md describes each setting"
    if (unknown := re.search(r"unknown field `(.+)`", said)) is not None:
        return ConfigError(f"{source}: {name} has an unknown key {unknown[1]!r}", remedy, "unknown_key")
    if re.fullmatch(r"\w+(\[[^]]*\])?", name):
        key = name.partition("[")[0]
        return ConfigError(f"{source}: {key} must be {expected(key)} ({said})", remedy)
    return ConfigError(f"{source}: {name}: {said}", remedy)


def config_of(options: ServeOptions) -> Config:
    """The settings that `serve` runs with. Raises `ConfigError`."""
    merged: dict[str, Any] = read_file(Path(options.config)) if options.config else {}
    for name in (
        "db", "listen", "unix", "tls_cert", "tls_key", "token_file", "allow_network", "durability", "log_format",
        "log_level", "retention_days", "retention_gib",
    ):  # fmt: skip
        given = getattr(options, name)
        if given is not None and given != []:
            merged[name] = given
    try:
        config = msgspec.convert(merged, Config, strict=True)
    except msgspec.ValidationError as error:
        raise wrong_type(options.config or "the command line", str(error)) from None
    config.check_exposure()
    _ = config.networks
    return config
