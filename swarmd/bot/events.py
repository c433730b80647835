"""The bot's events, for its log (`swarmd.logs`): `events.info("session.opened", bot=id)`."""

from __future__ import annotations

import logging
from typing import Any

LOGGER = logging.getLogger("swarmd.bot")


def log(level: int, event: str, **fields: Any) -> None:
    """Logs `event` (a fixed name like `session.opened`) with its fields."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, event, extra=fields)


def debug(event: str, **fields: Any) -> None:
    log(logging.DEBUG, event, **fields)


def info(event: str, **fields: Any) -> None:
    log(logging.INFO, event, **fields)


def warning(event: str, **fields: Any) -> None:
    log(logging.WARNING, event, **fields)


def error(event: str, **fields: Any) -> None:
    log(logging.ERROR, event, **fields)
