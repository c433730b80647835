"""What `swarmd serve` and `swarmd bot` were asked to do. None, or for a bot an empty list: not given.

Who runs them fills in what is not given, from the configuration file and then from the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Flags of `swarmd serve`, with the environment (`SWARMD_…`) already taken into account."""

    db: str | None = None
    listen: list[str] | None = None  # HOST:PORT each
    unix: str | None = None
    config: str | None = None  # a TOML file
    tls_cert: str | None = None  # PEM files
    tls_key: str | None = None
    token_file: str | None = None
    allow_network: list[str] | None = None  # CIDR each
    durability: Literal["power", "process"] | None = None
    log_format: Literal["text", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    retention_days: float | None = None
    retention_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class BotOptions:
    """Flags of `swarmd bot`, with the environment (`SWARMD_…`) already taken into account."""

    server: str | None = None
    id: str | None = None
    slots: int | None = None
    work_dir: str | None = None
    dimensions: list[str] = field(default_factory=list)  # KEY=VALUE each
    token_file: str | None = None
    pass_env: list[str] = field(default_factory=list)  # names of variables that tasks may see
    output_limit_mib: int | None = None
    cache_mib: int | None = None
    log_format: Literal["text", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None
