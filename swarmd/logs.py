"""Logging of the daemon and the bot: events with fields, as a line of text or of JSON, on standard error.

An event is a fixed name such as `session.opened`; its fields travel as `extra`. No secrets, no environments.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import IO, Any

import msgspec

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _moment(record: logging.LogRecord) -> str:
    """RFC 3339 UTC with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at`, `level`, `logger`, `event`, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z info session.opened bot=b1`, without control characters from elsewhere."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        line = f"{_moment(record)} {record.levelname.lower()} {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + "\n".join(map(printable, self.formatException(record.exc_info).split("\n")))
        return line


def _plain(value: Any) -> str:
    text = str(value)
    strange = not text or any(c.isspace() or c in "\"'=" or not c.isprintable() for c in text)
    return repr(text) if strange else text


def printable(line: str) -> str:
    """`line` with what is no printable character written as in a Python text: `\\x1b`."""
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def set_up(form: str, level: str, stream: IO[str] | None = None) -> None:
    """Sends the events of all loggers `swarmd…` of `level` ("debug", "info", …) and above to standard error.

    `form`: "text" or "json". Twice is one effect.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger("swarmd")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
