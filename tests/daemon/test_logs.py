"""Logs: one line an event, for people or for machines, and no line can be forged from outside."""

from __future__ import annotations

import io
import json
import logging

import pytest

from swarmd.logs import set_up


@pytest.fixture
def restored():
    root = logging.getLogger("swarmd")
    before = (root.handlers[:], root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def logged(format: str, level: str = "info", **fields) -> str:
    stream = io.StringIO()
    set_up(format, level, stream)
    set_up(format, level, stream)  # twice is one effect
    logging.getLogger("swarmd.daemon").info("session.opened", extra=fields)
    return stream.getvalue()


def test_json_is_one_object_a_line(restored):
    line = logged("json", bot="b1\nforged", count=3, path=object)
    found = json.loads(line)
    assert line.count("\n") == 1
    assert (found["event"], found["level"], found["bot"], found["count"]) == (
        "session.opened",
        "info",
        "b1\nforged",
        3,
    )
    assert found["at"].endswith("Z") and found["logger"] == "swarmd.daemon"


@pytest.mark.parametrize("nasty", ["b1\n12:00:00 error   forged", "\x1b[31mred", "a b", "\r"])
def test_text_has_no_control_characters_from_outside(nasty, restored):
    line = logged("text", bot=nasty)
    assert line.count("\n") == 1 and line.rstrip("\n").isprintable() and f"bot={nasty!r}" in line


def test_below_the_level_nothing_is_written(restored):
    assert logged("text", "warning", bot="b1") == ""


def test_an_exception_is_told_with_its_place(restored):
    for format in ("text", "json"):
        stream = io.StringIO()
        set_up(format, "error", stream)
        try:
            raise ValueError("why")
        except ValueError as error:
            logging.getLogger("swarmd.x").error("call.failed", exc_info=error)
        assert "ValueError: why" in stream.getvalue() and "test_logs.py" in stream.getvalue()
