"""Types of options: spans of time, KEY=VALUE pairs, ranges of an array, dependencies."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


# The limits of `swarmd.api.native.messages`, which is too heavy to be loaded for help.
MAX_SPAN_S = 7 * 86_400.0
MAX_GRACE_S = 3600.0
MAX_NAME = 256
MAX_PRIORITY = 1_000_000


class Span(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """`90`, `90s`, `5m`, `2h`, `1d`, `1h30m`: seconds as a float, at most `max_s`; 0 unless `positive`."""

    name = "span"

    def __init__(self, max_s: float = float("inf"), positive: bool = False) -> None:
        self.max_s = max_s
        self.positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(value) if isinstance(value, (int, float)) else self._seconds(value, param, ctx)
        if seconds > self.max_s:
            most = "7d" if self.max_s == MAX_SPAN_S else f"{self.max_s / 3600:g}h"
            self.fail(f"{value} is too long; it may be at most {most}", param, ctx)
        if self.positive and seconds == 0:
            self.fail(f"{value} is too short; it must be more than 0", param, ctx)
        return seconds

    def _seconds(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = value.strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f'"{value}" is no span of time; write it as 90, 90s, 5m, 2h or 1d', param, ctx)
        if len(parts) > 1 and any(not unit for _, unit in parts):
            self.fail(f'"{value}" has a number without a unit; write it as 1h30m', param, ctx)
        return sum(float(number) * UNITS[unit] for number, unit in parts)


class Pair(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """`KEY=VALUE`: a tuple of both; the key is not empty."""

    name = "pair"

    def __init__(self, form: str = "KEY=VALUE") -> None:
        self.form = form

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, rest = value.partition("=")
        if not key or not equals:
            self.fail(f'"{value}" must have the form {self.form}', param, ctx)
        return key, rest


class Range(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """`1-100` or `0-90:10`: a tuple of first, last and step."""

    name = "range"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int]:
        found = re.fullmatch(r"(\d{1,10})-(\d{1,10})(?::(\d{1,7}))?", value)
        if found is None:
            self.fail(f'"{value}" is no range; write it as 1-100 or 0-90:10', param, ctx)
        first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
        if last < first or step < 1:
            self.fail(
                f'"{value}" is empty; the first number must not be above the last, the step at least 1',
                param,
                ctx,
            )
        return first, last, step


class After(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """`ID`, `ID:failed` or `ID:any`: a tuple of the id and the condition's word."""

    name = "after"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        id, _, condition = value.partition(":")
        if not id or condition not in ("", "succeeded", "failed", "any"):
            self.fail(f'"{value}" must be ID, ID:failed or ID:any', param, ctx)
        return id, condition or "succeeded"


class Word(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """A text that is not empty, of at most MAX_NAME characters."""

    name = "word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("it is empty; leave the option out, or give a value", param, ctx)
        if len(value) > MAX_NAME:
            self.fail(f"{len(value):,} characters are too many; it may have at most {MAX_NAME}", param, ctx)
        return str(value)


class IdText(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no argument
    """The id of a task, in its text form."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from swarmd.core.ids import from_text

        if from_text(value) is None:
            self.fail(f'"{value}" is no id: ids have 13 characters of base 32', param, ctx)
        return str(value)


SPAN, RANGE, AFTER, WORD, ID_TEXT = Span(), Range(), After(), Word(), IdText()
LIMIT, PAUSE, GRACE = Span(MAX_SPAN_S, positive=True), Span(MAX_SPAN_S), Span(MAX_GRACE_S)
