"""Log lines: events with fields, safe to read whatever a field holds."""

from __future__ import annotations

import io
import json
import logging

import pytest

from swarmd.logs import set_up


@pytest.fixture(autouse=True)
def logging_as_before():
    root = logging.getLogger("swarmd")
    before = (root.handlers[:], root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def written(form, level="info"):
    stream = io.StringIO()
    set_up(form, level, stream)
    return stream


def test_a_text_line_has_the_event_and_its_fields():
    stream = written("text")
    logging.getLogger("swarmd.bot").info("session.opened", extra={"bot": "b1", "slots": 2})
    [line] = stream.getvalue().splitlines()
    assert line.endswith("Z info session.opened bot=b1 slots=2")


@pytest.mark.parametrize("nasty", ["a b", "\x1b[31mred", "line\nline", "", "k=v", "'quoted'"])
def test_a_strange_field_is_quoted_and_stays_one_line(nasty):
    stream = written("text")
    logging.getLogger("swarmd.edge").warning("call.refused", extra={"path": nasty})
    text = stream.getvalue()
    assert text.count("\n") == 1 and "\x1b" not in text and f"path={nasty!r}" in text


def test_json_is_one_object_a_line_with_every_field():
    stream = written("json")
    logging.getLogger("swarmd.daemon").info("ready", extra={"urls": "http://x", "odd": {1, 2}.__class__})
    found = json.loads(stream.getvalue())
    assert (found["event"], found["logger"], found["level"]) == ("ready", "swarmd.daemon", "info")
    assert found["urls"] == "http://x" and found["at"].endswith("Z")


def test_an_exception_is_told_with_its_traceback():
    stream = written("json")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("swarmd.daemon").exception("engine.failed")
    assert "ValueError: no" in json.loads(stream.getvalue())["traceback"]


def test_a_traceback_has_no_control_characters():
    stream = written("text")
    try:
        raise ValueError("\x1b[2J\x9b6n\u202e\rforged")
    except ValueError:
        logging.getLogger("swarmd.daemon").exception("engine.failed")
    text = stream.getvalue()
    assert all(line.isprintable() for line in text.splitlines()) and "\r" not in text
    assert "ValueError: \\x1b[2J\\x9b6n\\u202e\\rforged" in text


def test_lines_below_the_level_are_left_out_and_twice_is_once():
    stream = written("text", "warning")
    set_up("text", "warning", stream)
    logging.getLogger("swarmd").info("quiet")
    logging.getLogger("swarmd").warning("loud")
    assert stream.getvalue().count("\n") == 1
