"""The reference part of docs/http-api.md, made from the list of routes and their types.

    python -m swarmd.api.reference docs/http-api.md

replaces what stands between the two marks in that file. A test asserts that the file is up to date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Struct
from msgspec import inspect as types

from swarmd.api import calls, edge
from swarmd.api.native import messages as m
from swarmd.api.native import output, routes, sync, tasks
from swarmd.api.routes import Route, Verb
from swarmd.core import dimensions, model, sessions, submitting, world

BEGIN = "<!-- reference: made by python -m swarmd.api.reference -->"
END = "<!-- end of reference -->"

LIMITS: tuple[tuple[str, float, str], ...] = (
    ("MAX_TASKS_PER_REQUEST", m.MAX_TASKS_PER_REQUEST, "tasks of one request as written; ids in one filter"),
    ("MAX_EXPANDED_TASKS", m.MAX_EXPANDED_TASKS, "tasks of one request after arrays and lines are expanded"),
    ("MAX_EDGES", submitting.MAX_EDGES, "dependencies of one request, expanded"),
    ("MAX_DEPENDENCIES", m.MAX_DEPENDENCIES, "entries of one task's `after`"),
    ("MAX_COMMANDS", m.MAX_COMMANDS, "commands of a task"),
    ("MAX_ARGV", m.MAX_ARGV, "words of a command"),
    ("MAX_TEXT", m.MAX_TEXT, "characters of one word, line, variable or path"),
    ("MAX_ENV", m.MAX_ENV, "variables that a task sets"),
    ("MAX_INPUTS", m.MAX_INPUTS, "inputs of a task; files that it leaves behind; digests in one question"),
    ("MAX_OUTPUTS", m.MAX_OUTPUTS, "patterns of `outputs`"),
    ("MAX_TAGS", m.MAX_TAGS, "tags of a task"),
    ("MAX_NAME", m.MAX_NAME, "characters of a name, key, pool or tag"),
    ("MAX_SPAN_S", m.MAX_SPAN_S, "seconds of a limit or expiration: 7 days"),
    ("MAX_WAIT_S", m.MAX_WAIT_S, "seconds that an answer is held at most"),
    ("MAX_TASK_KEYS", dimensions.MAX_TASK_KEYS, "dimensions that a task requires"),
    ("MAX_TASK_VALUES", dimensions.MAX_TASK_VALUES, "values of one such dimension"),
    ("MAX_COMBINATIONS", dimensions.MAX_COMBINATIONS, "combinations that the alternatives `a\\|b` of one slice make"),
    ("MAX_SLICES", dimensions.MAX_SLICES, "slices of a task"),
    ("MAX_BOT_KEYS", dimensions.MAX_BOT_KEYS, "dimensions of a bot"),
    ("MAX_BOT_VALUES", dimensions.MAX_BOT_VALUES, "values of one of them"),
    ("MAX_KEY", dimensions.MAX_KEY, "characters of a dimension's key"),
    ("MAX_VALUE", dimensions.MAX_VALUE, "characters of a dimension's value"),
    ("MAX_SLOTS", m.MAX_SLOTS, "slots of a bot"),
    ("MAX_STATE_BYTES", sync.MAX_STATE_BYTES, "bytes of a bot's `state`, as JSON"),
    ("MAX_NESTING", calls.MAX_NESTING, "lists and objects in one another in a bot's `state`"),
    ("MAX_REASON", sessions.MAX_REASON, "characters of a quarantine's or maintenance's reason; more are cut off"),
    ("MAX_BULK", tasks.MAX_BULK, "operations that one cancel or retry acts on"),
    ("MAX_BLOB_BYTES", routes.MAX_BLOB_BYTES, "bytes of a blob: 64 GiB"),
    ("MAX_OUTPUT_BODY", routes.MAX_OUTPUT_BODY, "bytes of one body of raw output: 64 MiB"),
    ("MAX_UNCOMMITTED_OUTPUT", output.MAX_UNCOMMITTED_OUTPUT, "bytes of output not on disk; above it bodies wait"),
    ("MAX_PATH", edge.MAX_PATH, "bytes of a request's path"),
    ("MAX_QUERY", edge.MAX_QUERY, "bytes of a request's query"),
    ("PIECE_S", edge.PIECE_S, "seconds for the next piece of a body to arrive"),
    ("max_drops", world.Settings().max_drops, "offers of one task that were never started, before it ends as BOT_DIED"),
    ("max_bots", world.Settings().max_bots, "bots that are known"),
)  # fmt: skip
VERBS = {
    Verb.READ: "read", Verb.SUBMIT: "submit", Verb.CHANGE: "change", Verb.OPERATE: "operate",
    Verb.BE_A_BOT: "bot", Verb.BE_IN_A_GROUP: "bot of a group", Verb.OPEN: "open to all",
}  # fmt: skip


def reference() -> str:
    """The text between the marks, without them."""
    parts = [
        "## Limits", "", "| name | limit | of what |", "| --- | --- | --- |",
        *(f"| `{name}` | {_plain(value)} | {about} |" for name, value, about in LIMITS),
        "", "## Routes", "",
        "Body limits are those of the whole body, in MiB. *Held* routes may take that long to answer.",
    ]  # fmt: skip
    for group, members in _groups().items():
        parts += ["", f"### Routes: {group}", ""]
        for route in members:
            parts += _route(route)
    parts += ["", "## Messages", "", "A field without a default must be given."]
    for struct in _structs():
        parts += _message(struct)
    return "\n".join(parts) + "\n"


def _groups() -> dict[str, list[Route]]:
    found: dict[str, list[Route]] = {}
    for route in routes.ROUTES:
        name = [*route.path.split("/"), "", ""][3]
        if route.verb is Verb.BE_A_BOT:
            name = "a bot's calls"
        elif name not in ("tasks", "graphs", "events", "bots", "blobs"):
            name = "the daemon"
        found.setdefault(name, []).append(route)
    return found


def _route(route: Route) -> Iterator[str]:
    yield f"**`{route.method} {route.path}`** ({VERBS[route.verb]})  "
    yield f"{route.about}  "
    takes = _link(route.request) if route.request is not None else "raw bytes" if route.raw_body else ""
    facts = []
    if takes:
        facts.append(f"takes {takes}, at most {route.body_limit >> 20:,} MiB")
    gives = _link(route.answer) if route.answer is not None else f"`{route.produces}`"
    facts.append(f"gives {route.status} with {gives}" if route.method != "HEAD" else "gives headers only")
    if route.held_s:
        facts.append(f"held up to {route.held_s:g} s")
    yield "; ".join(facts)[:1].upper() + "; ".join(facts)[1:] + "."
    yield ""
    for query in route.query:
        default = "" if query.default in (None, "") else f" Default: {query.default}."
        yield f"- `?{query.name}=` {type_text(types.type_info(query.type))}. {query.about}{default}"
    for header in route.headers:
        yield f"- header `{header.name}`: {header.about}"
    for header in route.answer_headers:
        yield f"- answer's header `{header.name}`: {header.about}"
    if route.query or route.headers or route.answer_headers:
        yield ""


def _structs() -> list[type[Struct]]:
    """All message types, in the order in which the routes lead to them."""
    found: dict[type[Struct], None] = {}

    def visit(info: Any) -> None:
        if isinstance(info, types.StructType):
            if info.cls in found:
                return
            found[info.cls] = None
            for field in info.fields:
                visit(field.type)
        for part in ("item_type", "value_type", "type"):
            if hasattr(info, part):
                visit(getattr(info, part))
        for inner in getattr(info, "types", ()):
            visit(inner)

    for route in routes.ROUTES:
        for type in (route.request, route.answer, *route.events.values()):
            if type is not None:
                visit(types.type_info(type))
    visit(types.type_info(m.ErrorAnswer))
    visit(types.type_info(model.Work))
    return list(found)


def _message(struct: type[Struct]) -> Iterator[str]:
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    yield from ("", f"### {struct.__name__}", "")
    about = inspect.cleandoc(struct.__doc__ or "")
    if about:
        yield from (about, "")
    if not info.fields:
        return
    about_field = _comments(struct)
    yield from ("| field | type | default | |", "| --- | --- | --- | --- |")
    for field in info.fields:
        yield (
            f"| `{field.encode_name}` | {type_text(field.type)} | {_default(field)} "
            f"| {about_field.get(field.name, '')} |"
        )


def _comments(struct: type[Struct]) -> dict[str, str]:
    """What the source says behind each field, of the type and of those it is made from."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, Struct) and base is not Struct:
            for name, about in re.findall(r"^    (\w+): .*  # (.+)$", inspect.getsource(base), re.M):
                found[name] = about.replace("|", "\\|")
    return found


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        if field.default is UNSET:
            return "left out"
        return f"`{msgspec.json.encode(field.default).decode()}`"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    return ""


def _link(type: Any) -> str:
    return f"[{type.__name__}](#{type.__name__.lower()})"


def type_text(info: Any) -> str:
    """A type in words, with its bounds."""
    if isinstance(info, types.Metadata):
        return type_text(info.type)
    if isinstance(info, types.StructType):
        return _link(info.cls)
    if isinstance(info, types.UnionType):
        return " or ".join(type_text(t) for t in info.types if not isinstance(t, types.CustomType))
    if isinstance(info, types.LiteralType):
        if set(info.values) == set(get_args(m.StateName)):
            return "[state](glossary.md#task-states)"
        return ", ".join(f"`{v}`" for v in info.values)
    if isinstance(info, types.EnumType):
        return ", ".join(f"`{v.value}`" for v in info.cls)
    if isinstance(info, types.ListType | types.VarTupleType | types.CollectionType):
        many = f" (at most {info.max_length:,})" if getattr(info, "max_length", None) else ""
        return f"list{many} of {type_text(info.item_type)}"
    if isinstance(info, types.DictType):
        many = f" (at most {info.max_length:,})" if info.max_length else ""
        return f"object{many} of {type_text(info.value_type)}"
    if isinstance(info, types.IntType | types.FloatType):
        return _number_text(info)
    if isinstance(info, types.StrType):
        return _string_text(info)
    plain = {
        types.BoolType: "true or false", types.NoneType: "null", types.BytesType: "base64", types.AnyType: "any",
        types.RawType: "object",
    }  # fmt: skip
    return plain[type(info)]


def _number_text(info: Any) -> str:
    name = "integer" if isinstance(info, types.IntType) else "number"
    if info.gt is not None:
        return f"{name} above {_plain(info.gt)}, up to {_plain(info.le)}"
    if info.ge is not None and info.le is not None:
        return f"{name}, {_plain(info.ge)} to {_plain(info.le)}"
    return name if info.ge is None else f"{name} from {_plain(info.ge)}"


def _plain(value: float) -> str:
    return f"{int(value):,}"


def _string_text(info: Any) -> str:
    if info.pattern:
        return f"string `{info.pattern}`"
    if info.min_length is not None and info.min_length == info.max_length:
        return "id" if info.min_length == 13 else f"string of {info.min_length} characters"
    low = info.min_length or 0
    return f"string, {low} to {info.max_length:,} characters" if info.max_length else "string"


def replaced(text: str) -> str:
    """`text` with a new reference between the marks. Raises `ValueError` when a mark is missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no part between {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{reference()}\n{END}{tail}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(replaced(path.read_text(encoding="utf-8")), encoding="utf-8")
