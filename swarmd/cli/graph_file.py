"""Graph files, and what is wrong with one, in the words of the file."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from typing import Any, get_args, get_origin

import click
import msgspec

from swarmd.api.native.messages import GraphRequest, TaskRequest

_PLACE = re.compile(r" - at (?:`key` in )?`\$(?P<path>[^`]*)`\Z")

# What other programs call these fields.
OTHER_WORDS = {
    "args": "argv", "cmd": "argv", "command": "argv", "depends_on": "after", "needs": "after",
    "requires": "after", "timeout": "hard_limit_s", "id": "key",
}  # fmt: skip


def read_graph(file: Any) -> GraphRequest:
    """A graph from JSON (a name that ends in `.json`, or a text that begins as JSON does), else from TOML.

    Raises `click.UsageError` that names the file, the task and the field.
    """
    raw: bytes = file.read()
    try:
        found = msgspec.json.decode(raw) if _is_json(file.name, raw) else tomllib.loads(raw.decode())
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file.name} is not a graph: {error}") from None
    try:
        return msgspec.convert(found, GraphRequest)
    except msgspec.ValidationError as error:
        raise click.UsageError(f"{file.name} is not a graph: {_fault_of_graph(found) or error}") from None


def _is_json(name: str, raw: bytes) -> bool:
    text = raw.lstrip()
    return name.endswith(".json") or text.startswith(b"{") or re.match(rb"\[\s*[{\]]", text) is not None


def _fault_of_graph(graph: Any) -> str:
    """What is wrong with a graph, "" when that is not found."""
    if isinstance(graph, list):
        return 'the top level is a list; write {"tasks": […]}'
    if not isinstance(graph, dict):
        return 'the top level is no object; write {"tasks": […]}'
    if fault := _unknown_key(graph, GraphRequest):
        return fault
    tasks = graph.get("tasks", [])
    for number, task in enumerate(tasks if isinstance(tasks, list) else [], 1):
        if fault := fault_of_task(task):
            name = (task.get("key") or task.get("name")) if isinstance(task, dict) else None
            return f"task {number}{f' ({name})' if isinstance(name, str) else ''}: {fault}"
    return _wrong_value(graph, GraphRequest)


def fault_of_task(task: Any) -> str:
    """What is wrong with one task, "" when nothing is."""
    if not isinstance(task, dict):
        return "it must be a table of fields, as argv and key"
    return _unknown_key(task, TaskRequest) or _wrong_value(task, TaskRequest)


def _unknown_key(given: dict[str, Any], type: Any) -> str:
    """The first key that is no field of `type`, and which one may be meant; "" when there is none."""
    names = [field.encode_name for field in msgspec.structs.fields(type)]
    for key in given:
        if key not in names:
            near = (
                [OTHER_WORDS[key]]
                if OTHER_WORDS.get(key) in names
                else difflib.get_close_matches(key, names, 1)
            )
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            return f"there is no field {key}; {hint}"
    return ""


def _wrong_value(given: dict[str, Any], type: Any) -> str:
    """The first value that a field of `type` cannot have; "" when there is none."""
    for field in msgspec.structs.fields(type):
        if field.encode_name not in given:
            continue
        value = given[field.encode_name]
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            return _in_words(field.encode_name, value, field.type, str(error))
    return ""


def _in_words(name: str, value: Any, type: Any, error: str) -> str:
    """`dimensions.gpu needs a list: ["a100"]`, or what msgspec says, behind the name of the field."""
    if isinstance(value, dict) and get_origin(_plain(type)) is dict:
        inner = get_args(_plain(type))[1]
        for key, one in value.items():
            try:
                msgspec.convert(one, inner)
            except msgspec.ValidationError as found:
                return _in_words(f"{name}.{key}", one, inner, str(found))
    if error.startswith("Expected `array`, got") and not _PLACE.search(error):
        return f"{name} needs a list: {json.dumps([value], ensure_ascii=False)}"
    place = _PLACE.search(error)
    words = _PLACE.sub("", error)
    return f"{name}{place['path'] if place else ''}: {words[:1].lower()}{words[1:]}"


def _plain(type: Any) -> Any:
    """A type without the limits that `Annotated` adds."""
    return getattr(type, "__origin__", type) if hasattr(type, "__metadata__") else type
