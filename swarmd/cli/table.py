"""Plain tables and lists of facts on standard output."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import click
import msgspec

from swarmd.cli.text import one_line, safe_json, shortened

MAX_CELL = 60
COLOURS = {
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "TIMED_OUT": "red",
    "KILLED": "magenta",
    "CANCELED": "magenta",
    "EXPIRED": "red",
    "NO_RESOURCE": "red",
    "BOT_DIED": "red",
    "CLIENT_ERROR": "red",
    "SKIPPED": "yellow",
    "FAILED": "red",
    "dead": "red",
    "quarantined": "red",
    "busy": "cyan",
    "idle": "green",
}


def print_json(thing: object) -> None:
    """One object on one line of standard output."""
    print(safe_json(msgspec.json.encode(thing).decode()))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as they need to be; on a terminal, lines are cut at its width and states have
    colours.
    """
    on_terminal = sys.stdout.isatty()
    cells = [[shortened("-" if cell is None else str(cell), MAX_CELL) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    limit = shutil.get_terminal_size().columns if on_terminal else sys.maxsize
    for number, row in enumerate([list(heads), *cells]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        line = line if len(line) <= limit else line[: limit - 1] + "…"
        if on_terminal and number == 0:
            line = click.style(line, bold=True)
        elif on_terminal:
            line = _coloured(line, row)
        print(line)


def _coloured(line: str, row: list[str]) -> str:
    for cell in row:
        if cell in COLOURS:
            return line.replace(f" {cell}", " " + click.style(cell, fg=COLOURS[cell]), 1)
    return line


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """`name  value` lines; values that are None, "" or an empty collection are left out."""
    given = [(name, value) for name, value in facts if value not in (None, "", [], {}, ())]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        print(f"{name.ljust(width)}  {one_line(str(value))}")


def age(at: str | None, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 moment was, short: `5s`, `3m`, `2h`, `4d`; `-` for none."""
    if at is None:
        return "-"
    passed = (now or datetime.now(UTC)) - datetime.fromisoformat(at)
    return span(max(0.0, passed.total_seconds()))


def span(seconds: float | None) -> str:
    """A span of time, short: `0.2s`, `5s`, `3m`, `2h`, `4d`; `-` for none."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s" if seconds % 1 else f"{seconds:.0f}s"
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def dimensions_text(dimensions: dict[str, list[str]]) -> str:
    """`os=linux gpu=a,b`."""
    return " ".join(f"{key}={','.join(values)}" for key, values in sorted(dimensions.items()))


def size_text(count: int) -> str:
    """A number of bytes, short: `512 B`, `1.5 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the loop returns at its last unit")
