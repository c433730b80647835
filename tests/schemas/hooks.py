"""What schemathesis is told beside the OpenAPI file; it loads this module itself.

Requests are bounded, so that a run ends in time, and made likelier to be taken, so that it comes further
than the door. A refusal of a request that fits the schema is a failure, unless a rule refuses it that no
schema can say: those are named one by one in `RULES`.
"""

from __future__ import annotations

import atexit
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

FRESH = "fresh.json"  # in the folder of the run: ids of things that were made a moment ago
EVERY = 3  # of so many calls one goes to such a thing
HELD_S = 0.1  # what a call is held at most
MOST_OF_AN_ARRAY = 50
WAYS = ("argv", "commands", "noop", "marker", "payload")

# Codes of 400 that a request may get which fits the schema, and the rule behind it.
RULES = {
    "bad_dimension": "values are printable, `id` and `pool` have one, alternatives are few",
    "bad_path": "paths stay inside the work folder",
    "bad_slices": "slices and what goes with them exclude each other",
    "bad_task": "fields of a task exclude each other; no NUL in what becomes an argument",
    "cycle": "nothing waits for itself",
    "digest_mismatch": "a blob is put under its own digest",
    "doubled_key": "a key names one task",
    "empty_command": "exactly one way to say what runs",
    "empty_filter": "a filter with nothing but defaults would match everything",
    "empty_graph": "a closed graph has tasks",
    "not_final": "only what is final is submitted anew",
    "nothing_to_do": "an order has at least one field",
    "too_many_edges": "counted over all tasks of a request",
    "too_many_tasks": "counted over all arrays of a request",
    "unknown_attempt": "the attempt is one of that task",
    "unknown_dependency": "`after` names a key of the request, or an id",
}


@schemathesis.hook
def filter_failure(context: HookContext, failure: Any, case: Case, response: Response) -> bool:
    """False for what is no failure: a rule of `RULES` at work."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    return _code(response) not in RULES


def _code(response: Response) -> str:
    try:
        return json.loads(response.content)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return ""


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Bounds the call, and sends some to what is there. What is wrong on purpose stays wrong."""
    _go_to_something_fresh(case)
    if isinstance(case.query, dict):
        _hold_shortly(case.query)
    if not isinstance(case.body, dict):
        return
    if _operation(case) in ("sync", "wait_tasks"):
        case.body.setdefault("wait_s", HELD_S)
        _hold_shortly(case.body)
    tasks = case.body.get("tasks")
    for task in tasks if isinstance(tasks, list) else []:
        if isinstance(task, dict):
            _mend(task)


ANSWERS = "answers.json"  # in the folder of the run: how often each operation answered with each status
answers: Counter[str] = Counter()


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    answers[f"{_operation(case)} {response.status_code}"] += 1


@atexit.register
def _write_answers() -> None:
    Path(ANSWERS).write_text(json.dumps(answers))


def _operation(case: Case) -> str:
    return case.operation.definition.raw["operationId"]


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    """Whole numbers are written without a fraction: JSON Schema takes 1.0 for an integer, swarmd does not."""
    if isinstance(body, dict):
        return {key: map_body(context, value) for key, value in body.items()}
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body


def _go_to_something_fresh(case: Case) -> None:
    meta, path = case.meta, case.path_parameters
    if meta is None or not path or meta.is_negative_at(ParameterLocation.PATH):
        return
    if meta.phase.name is TestPhase.STATEFUL or answers.total() % EVERY:
        return  # a sequence of calls has ids of its own
    try:
        fresh = json.loads(Path(FRESH).read_text())
    except FileNotFoundError:
        return
    kinds = {"id": "graph" if "/graphs/" in case.operation.path else "task", "sha256": "digest"}
    for name in path:
        if ids := fresh.get(kinds.get(name, name)):
            path[name] = ids[answers.total() // EVERY % len(ids)]
    body = getattr(case.body, "data", case.body)
    if _operation(case) == "put_named_blob" and isinstance(body, bytes):
        path["sha256"] = hashlib.sha256(body).hexdigest()


def _hold_shortly(fields: dict[str, Any]) -> None:
    try:
        if float(fields["wait_s"]) > HELD_S and float(fields["wait_s"]) <= 50:
            fields["wait_s"] = HELD_S
    except (KeyError, ValueError, TypeError):
        pass


def _mend(task: dict[str, Any]) -> None:
    """Takes out fields that exclude each other, and the size of arrays. Only whole optional fields go."""
    said = [way for way in WAYS if task.get(way)]
    for way in said[1:]:
        del task[way]
    if not said:
        task["noop"] = True
    if task.get("slices") and "dimensions" in task:
        del task["dimensions"]
    if task.get("lines") == [] or (task.get("array") is not None and "lines" in task):
        del task["lines"]
    array = task.get("array")
    if isinstance(array, dict) and all(type(array.get(end)) is int for end in ("first", "last")):
        array["last"] = min(max(array["first"], array["last"]), array["first"] + MOST_OF_AN_ARRAY)
