"""The bot's log: events with fields, as a line of text or of JSON."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec

LOGGER = logging.getLogger("swarmd.bot")


def log(level: int, event: str, **fields: Any) -> None:
    """Logs `event` (a fixed name like `session.opened`) with its fields."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, event, extra={"fields": fields})


def debug(event: str, **fields: Any) -> None:
    log(logging.DEBUG, event, **fields)


def info(event: str, **fields: Any) -> None:
    log(logging.INFO, event, **fields)


def warning(event: str, **fields: Any) -> None:
    log(logging.WARNING, event, **fields)


def error(event: str, **fields: Any) -> None:
    log(logging.ERROR, event, **fields)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _moment(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class TextFormat(logging.Formatter):
    """`2026-01-02T03:04:05.678Z info session.opened bot=b1 session=…`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        line = f"{_moment(record)} {record.levelname.lower()} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormat(logging.Formatter):
    """One JSON object a line: `at`, `level`, `event`, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"at": _moment(record), "level": record.levelname.lower(), "event": record.getMessage()}
        entry |= _fields(record)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


def _plain(value: Any) -> str:
    text = str(value)
    return (
        repr(text)
        if not text or any(c.isspace() or c in "\"'=" or not c.isprintable() for c in text)
        else text
    )


def write_to_stderr(form: str, level: str) -> None:
    """Sends the bot's events of `level` ("debug", "info", …) and above to standard error, as "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormat() if form == "json" else TextFormat())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(level.upper())
