"""A daemon whose every text is an attack on the terminal: no command obeys one.

The texts come from whoever submits tasks or runs a bot: names, tags, reasons, keys, versions, messages of errors.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import msgspec
import pytest
from msgspec import inspect as types

from swarmd.api.native.messages import ErrorAnswer, ErrorBody, OutputEvent, StateEvent
from swarmd.api.native.routes import ROUTES
from swarmd.cli import main
from swarmd.cli.group import COMMANDS
from tests.cli.fake import ID, Fake, Reply, sse

# Clear the screen, set the title, the same by C1, ask for an answer, turn the text around, begin a line, be a page.
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b6n\x9d0;x\x9c\u202e\u2066\r\n\x00\x7f<script>alert(1)</script>"
MOMENT = "2026-01-02T03:04:05.678Z"
BOT = "b1"
OWN = {  # the daemon's own words; an open graph, or a task that is pending, would be waited for
    "id": ID, "ids": [ID], "counts": {"COMPLETED": 1}, "open": False, "pending": 0, "next": None,
}  # fmt: skip
COLOURS = re.compile("\x1b\\[[0-9;]*m")


def hostile(info: Any, field: str = "") -> Any:
    """A value of a message type, as JSON, with an attack in every text that may hold one."""
    if isinstance(info, types.Metadata):
        return hostile(info.type, field)
    if isinstance(info, types.StructType):
        names = {f.encode_name: f.type for f in info.fields}
        return {name: OWN[name] if name in OWN else hostile(type, name) for name, type in names.items()}
    if isinstance(info, types.UnionType):
        return hostile(next(t for t in info.types if not isinstance(t, types.NoneType)), field)
    if isinstance(info, types.LiteralType):
        return "COMPLETED" if "COMPLETED" in info.values else info.values[0]
    if isinstance(info, types.EnumType):
        return next(iter(info.cls)).value
    if isinstance(info, types.ListType | types.VarTupleType | types.CollectionType):
        return [hostile(info.item_type, field)]
    if isinstance(info, types.DictType):
        return {EVIL: hostile(info.value_type, field)}
    if isinstance(info, types.StrType):
        return MOMENT if field.endswith("_at") or field == "at" else EVIL
    simple = {
        types.IntType: 1, types.FloatType: 1.5, types.BoolType: True, types.NoneType: None, types.AnyType: EVIL,
        types.BytesType: "", types.RawType: {},
    }  # fmt: skip
    return simple[type(info)]


def answers() -> dict[tuple[str, str], Reply]:
    table = {}
    for route in ROUTES:
        path = route.path.format(id=ID, bot=BOT, session=ID, attempt=ID, stream="stdout", sha256="0" * 64)
        if route.answer is not None:
            table[route.method, path] = Reply(hostile(types.type_info(route.answer)), route.status)
    head = {"swarmd-offset": "0", "swarmd-end": "2", "swarmd-final": "true", "swarmd-attempt": ID}
    table["GET", f"/api/v1/tasks/{ID}/output/stdout"] = Reply(b"hi", headers=head)
    table["GET", f"/api/v1/tasks/{ID}/output/stderr"] = Reply(b"hi", headers=head)
    end = hostile(types.type_info(StateEvent)) | {"ok": False, "exit_code": 1, "reason": EVIL}
    output = hostile(types.type_info(OutputEvent)) | {"offset": 0}
    table["GET", f"/api/v1/tasks/{ID}/follow"] = sse(("1", "output", output), ("2", "end", end))
    return table


LINES = [
    "tasks", f"show {ID}", f"explain {ID}", "events", f"outputs {ID}", f"wait {ID}", f"wait --graph {ID}",
    f"cancel {ID}", f"retry {ID}", "graphs", f"close {ID}", "bots", f"bots {BOT}", f"drain {BOT}",
    f"quarantine {BOT} why", f"restart {BOT}", f"terminate {BOT}", f"delete-bot {BOT}", "submit -- x", "run -- x",
    f"logs {ID}", "swarming-bot",
]  # fmt: skip
IDS_ONLY = {"cancel", "retry", "submit", "delete-bot"}  # what they print as JSON
WITHOUT_TEXT_OF_OTHERS = {
    "serve",
    "bot",
    "demo",
    "backup",
    "check",
    "openapi",
}  # of a daemon they are told none


def controls(text: str) -> set[str]:
    """What a terminal might obey; line ends and tabs are harmless."""
    return {c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}


def texts(thing: Any) -> list[str]:
    """All texts in a decoded JSON value."""
    if isinstance(thing, dict):
        return [text for pair in thing.items() for part in pair for text in texts(part)]
    if isinstance(thing, list):
        return [text for item in thing for text in texts(item)]
    return [thing] if isinstance(thing, str) else []


def said(line: str, capsys) -> tuple[str, str]:
    main(line.split())
    told = capsys.readouterr()
    return COLOURS.sub("", told.out), COLOURS.sub("", told.err)


def test_every_command_is_here():
    assert {line.split()[0] for line in LINES} | WITHOUT_TEXT_OF_OTHERS == set(COMMANDS)


@pytest.mark.parametrize("line", LINES)
def test_no_text_of_a_daemon_controls_the_terminal(line, fake, capsys):
    fake.table.update(answers())
    out, err = said(line, capsys)
    assert controls(out) == controls(err) == set()
    assert "Traceback" not in err and (out or err)


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(("logs", "run"))])
def test_nor_does_json(line, fake, capsys):
    """Such characters are escaped, and mean the same to whoever reads it."""
    fake.table.update(answers())
    command, _, rest = line.partition(" ")
    out, err = said(f"{command} --json {rest}", capsys)
    assert controls(out) == controls(err) == set()
    told = [msgspec.json.decode(text) for text in out.splitlines()]
    assert told, err
    assert EVIL in texts(told) or command in IDS_ONLY


@pytest.mark.parametrize("line", LINES)
def test_no_error_of_a_daemon_does(line, fake: Fake, capsys):
    refusal = Reply(ErrorAnswer(error=ErrorBody(code=EVIL, message=EVIL, remedy=EVIL)), 409)
    fake.table.update(dict.fromkeys(answers(), refusal))
    out, err = said(line, capsys)
    assert controls(out) == controls(err) == set()
    assert err.count("\n") == 1 and "<script>" in err and "Traceback" not in err
