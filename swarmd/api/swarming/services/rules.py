"""What a task must be like to be accepted: each rule names the field that breaks it, and what to write instead.

`check` first looks whether the request is well-formed (INVALID_ARGUMENT), then whether it asks for what the daemon does
not have (FAILED_PRECONDITION).

Source: protocols of LUCI Swarming, NewTask; docs/swarming-clients.md, "What a task must be like".
"""

from __future__ import annotations

import re

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.accounts import ACCOUNT
from swarmd.api.swarming.ids import parse
from swarmd.api.swarming.manifest import BOT_ACCOUNT, NO_ACCOUNT
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.services.requests_work import OUTDIR, only_swarming_bots, texts
from swarmd.api.swarming.services.rules_inputs import (
    MAX_PATH,
    bad,
    check_caches,
    check_cas,
    check_cipd,
    check_path,
)
from swarmd.config_swarming import REALM
from swarmd.core.dimensions import ID, MAX_SLICES, MAX_TASK_KEYS, MAX_TASK_VALUES, POOL, canonical
from swarmd.core.errors import Refused

MAX_NAME = 1_024
MAX_USER = 1_024
MAX_UUID = 128
MIN_PRIORITY, MAX_PRIORITY = 1, 255
MIN_EXPIRATION_S, MAX_EXPIRATION_S = 30, 7 * 86_400
MIN_LIMIT_S, MAX_LIMIT_S = 30, 7 * 86_400 - 3_600 - 60
MAX_GRACE_S = 3_600
MIN_PING_TOLERANCE_S, MAX_PING_TOLERANCE_S = 60, 1_200
MAX_COMMAND = 128
MAX_WORD = 65_536
MAX_ENV = 64
MAX_ENV_KEY = 64
MAX_ENV_VALUE = 1_024
MAX_PREFIXES = 128  # paths in front of one variable
MAX_OUTPUTS = 4_096
MAX_OUTPUT = 512
MAX_SECRET_BYTES = 20_480
MAX_DIMENSIONS = MAX_TASK_KEYS * MAX_TASK_VALUES  # pairs; the core has the limits of one key
MAX_TAGS = 256
MAX_TAG_KEY = 64
MAX_TAG_VALUE = 256
MAX_TOPIC = 1_024
MAX_USERDATA = 1_024
TERMINATE_TAG = "swarming.terminate"  # only on the tasks that end a bot

_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOPIC = re.compile(r"projects/[^/\s]+/topics/[^/\s]+")


def pool_of(request: tasks_pb2.NewTaskRequest) -> str:
    """The pool of a task: the one that each of its slices names. Raises `RpcError`."""
    slices = request.task_slices
    if not 1 <= len(slices) <= MAX_SLICES:
        raise bad("task_slices", f"there are {len(slices)}", f"give 1 to {MAX_SLICES}")
    pools: list[str] = []
    for number, slice in enumerate(slices):
        dimensions = slice.properties.dimensions
        if len(dimensions) > MAX_DIMENSIONS:
            raise bad(
                f"task_slices[{number}].properties.dimensions", f"there are {len(dimensions)}",
                f"give at most {MAX_DIMENSIONS}",
            )  # fmt: skip
        found = [pair.value for pair in dimensions if pair.key == POOL]
        if len(found) != 1 or not found[0] or "|" in found[0]:
            raise bad(
                f"task_slices[{number}].properties.dimensions",
                f"pool is {_shown(found)}" if found else "pool is missing",
                "give dimension pool exactly once, with one value",
            )  # fmt: skip
        pools += found
    if len(set(pools)) > 1:
        raise bad("task_slices", f"their pools are {_shown(sorted(set(pools)))}", "give all slices the same")
    return pools[0]


def _shown(values: list[str]) -> list[str]:
    """So much of them that a message stays short."""
    return [value[:80] for value in values[:MAX_SLICES]]


def check(request: tasks_pb2.NewTaskRequest, *, cipd: bool) -> None:
    """Raises `RpcError` for what cannot be accepted. `cipd`: whether bots may install packages."""
    pool = pool_of(request)
    _check_text(request.name, 1, MAX_NAME, "name")
    _check_text(request.user, 0, MAX_USER, "user")
    _check_text(request.request_uuid, 0, MAX_UUID, "request_uuid")
    if request.HasField("properties"):
        raise bad("properties", "they are in the old place", "put them into task_slices")
    if request.expiration_secs:
        raise bad("expiration_secs", "it is in the old place", "put it into each of task_slices")
    _check_within(request.priority, MIN_PRIORITY, MAX_PRIORITY, "priority")
    _check_within(
        request.bot_ping_tolerance_secs, MIN_PING_TOLERANCE_S, MAX_PING_TOLERANCE_S, "bot_ping_tolerance_secs",
        zero="for the usual one",
    )  # fmt: skip
    parent, account, realm = request.parent_task_id, request.service_account, request.realm
    if parent and parse(parent) is None:
        raise bad("parent_task_id", f"{parent[:80]!r} is no id", "give one as the server does, or none")
    if account not in ("", NO_ACCOUNT, BOT_ACCOUNT) and not ACCOUNT.fullmatch(account):
        raise bad(
            "service_account",
            f"{account[:80]!r} is no account",
            "give none, bot, or a name of 1 to 128 characters",
        )
    if realm and not REALM.fullmatch(realm):
        raise bad("realm", f"it is {realm[:80]!r}", "write it as PROJECT:REALM, or leave it out")
    if request.tags:
        _check_tags(request)
    _check_pubsub(request)
    _check_slices(request, pool)
    _check_offered(request, cipd)


def _check_text(text: str, low: int, high: int, field: str) -> None:
    if not low <= len(text) <= high:
        what = f"it has {len(text)} characters" if text else "it is missing"
        raise bad(field, what, f"give {low} to {high} characters")
    if "\0" in text:
        raise bad(field, "it has a NUL character", "take it out")


def _check_within(value: int, low: int, high: int, field: str, zero: str = "") -> None:
    """`zero`: what 0 stands for, where it is allowed."""
    if not low <= value <= high and (value or not zero):
        raise bad(field, f"it is {value}", f"give {low} to {high}" + (f", or 0 {zero}" if zero else ""))


def _check_tags(request: tasks_pb2.NewTaskRequest) -> None:
    if len(request.tags) > MAX_TAGS:
        raise bad("tags", f"there are {len(request.tags)}", f"give at most {MAX_TAGS}")
    for number, tag in enumerate(request.tags):
        key, colon, value = tag.partition(":")
        if not colon or not 1 <= len(key) <= MAX_TAG_KEY or len(value) > MAX_TAG_VALUE or "\0" in tag:
            raise bad(
                f"tags[{number}]", f"it is {tag[:80]!r}",
                f"write KEY:VALUE, KEY of 1 to {MAX_TAG_KEY} characters, VALUE of at most {MAX_TAG_VALUE}, no NUL",
            )  # fmt: skip
        if value != value.strip():
            raise bad(
                f"tags[{number}]", f"the value of {tag[:80]!r} has blanks at its ends", "take them away"
            )
        if key == TERMINATE_TAG:
            raise bad(f"tags[{number}]", f"{key} is for the tasks that end a bot", "call TerminateBot")


def _check_pubsub(request: tasks_pb2.NewTaskRequest) -> None:
    topic = request.pubsub_topic
    if topic and (len(topic) > MAX_TOPIC or not _TOPIC.fullmatch(topic)):
        raise bad(
            "pubsub_topic", f"it is {topic[:80]!r}",
            f"write projects/ID/topics/ID, at most {MAX_TOPIC} characters, or leave it out",
        )  # fmt: skip
    for field in ("pubsub_auth_token", "pubsub_userdata"):
        given = getattr(request, field)
        if given and not topic:
            raise bad(field, "it is given without pubsub_topic", "leave it out")
    if len(request.pubsub_userdata) > MAX_USERDATA:
        raise bad(
            "pubsub_userdata",
            f"it has {len(request.pubsub_userdata)} characters",
            f"give at most {MAX_USERDATA}",
        )


# --------------------------------------------------------------------- slices


def _check_slices(request: tasks_pb2.NewTaskRequest, pool: str) -> None:
    slices = request.task_slices
    secret = b""
    for number, slice in enumerate(slices):
        field = f"task_slices[{number}]"
        _check_within(slice.expiration_secs, MIN_EXPIRATION_S, MAX_EXPIRATION_S, f"{field}.expiration_secs")
        properties, field = slice.properties, f"{field}.properties"
        _check_properties(properties, field)
        _check_dimensions(properties, pool, f"{field}.dimensions")
        own = properties.secret_bytes
        if len(own) > MAX_SECRET_BYTES:
            raise bad(f"{field}.secret_bytes", f"there are {len(own)}", f"give at most {MAX_SECRET_BYTES}")
        if own and secret and own != secret:
            raise bad(f"{field}.secret_bytes", "they are not those of another slice", "give all the same")
        secret = own or secret
    if len(slices) > 1:
        texts = {slice.properties.SerializeToString(deterministic=True) for slice in slices}
        if len(texts) < len(slices):
            raise bad("task_slices", "two of them have the same properties", "leave one out")


def _check_properties(properties: tasks_pb2.TaskProperties, field: str) -> None:
    _check_within(
        properties.execution_timeout_secs, MIN_LIMIT_S, MAX_LIMIT_S, f"{field}.execution_timeout_secs"
    )
    _check_within(
        properties.io_timeout_secs, MIN_LIMIT_S, MAX_LIMIT_S, f"{field}.io_timeout_secs", zero="for none"
    )
    _check_within(properties.grace_period_secs, 0, MAX_GRACE_S, f"{field}.grace_period_secs")
    command = properties.command
    if not 1 <= len(command) <= MAX_COMMAND:
        raise bad(f"{field}.command", f"it has {len(command)} words", f"give 1 to {MAX_COMMAND}")
    for word in command:
        if len(word) > MAX_WORD or "\0" in word:
            raise bad(
                f"{field}.command", "a word of it is too long or has a NUL character",
                f"at most {MAX_WORD} characters; put more into a file",
            )  # fmt: skip
    if properties.relative_cwd:
        check_path(properties.relative_cwd, MAX_PATH, f"{field}.relative_cwd", windows=True)
    _check_env(properties, field)
    if len(properties.outputs) > MAX_OUTPUTS:
        raise bad(f"{field}.outputs", f"there are {len(properties.outputs)}", f"give at most {MAX_OUTPUTS}")
    for number, path in enumerate(properties.outputs):
        check_path(path, MAX_OUTPUT, f"{field}.outputs[{number}]")
    containment = properties.containment
    if containment.containment_type not in tasks_pb2.Containment.ContainmentType.values():
        raise bad(
            f"{field}.containment.containment_type", f"it is {containment.containment_type}",
            "give NONE, AUTO or JOB_OBJECT",
        )  # fmt: skip
    if containment.limit_processes < 0 or containment.limit_total_committed_memory < 0:
        raise bad(f"{field}.containment", "a limit is negative", "give 0 for none")
    check_cipd(properties, field)
    check_caches(properties, field)
    check_cas(properties, field)


def _check_env(properties: tasks_pb2.TaskProperties, field: str) -> None:
    for name in ("env", "env_prefixes"):
        pairs = getattr(properties, name)
        if not pairs:
            continue
        where = f"{field}.{name}"
        if len(pairs) > MAX_ENV:
            raise bad(where, f"there are {len(pairs)} variables", f"give at most {MAX_ENV}")
        keys: set[str] = set()
        for pair in pairs:
            key = pair.key
            if len(key) > MAX_ENV_KEY or not _ENV_KEY.fullmatch(key):
                raise bad(
                    where, f"{key[:80]!r} cannot be the name of a variable",
                    f"use letters, digits and '_', no digit first, at most {MAX_ENV_KEY} of them",
                )  # fmt: skip
            if key in keys:
                raise bad(where, f"{key} is there twice", "give each variable once")
            keys.add(key)
    for pair in properties.env:
        if len(pair.value) > MAX_ENV_VALUE or "\0" in pair.value:
            raise bad(
                f"{field}.env", f"the value of {pair.key} is too long or has a NUL character",
                f"at most {MAX_ENV_VALUE} characters",
            )  # fmt: skip
    for prefix in properties.env_prefixes:
        if not 1 <= len(prefix.value) <= MAX_PREFIXES:
            raise bad(
                f"{field}.env_prefixes",
                f"{prefix.key} has {len(prefix.value)} paths",
                f"give 1 to {MAX_PREFIXES}",
            )
        for path in prefix.value:
            check_path(path, MAX_ENV_VALUE, f"{field}.env_prefixes")


def dimensions_of(properties: tasks_pb2.TaskProperties) -> dict[str, list[str]]:
    """What a slice requires, as the core has it: all values of a key that is there several times."""
    found: dict[str, list[str]] = {}
    for pair in properties.dimensions:
        found.setdefault(pair.key, []).append(pair.value)
    return found


def _check_dimensions(properties: tasks_pb2.TaskProperties, pool: str, field: str) -> None:
    """The core says what can be required at all; the rest is what these clients must not write."""
    found = dimensions_of(properties)
    try:
        canonical(found, pool, ())
    except Refused as error:
        raise bad(field, error.message, error.remedy) from None
    for key, values in found.items():
        if len(values) > 1 and len(set(values)) < len(values):
            raise bad(field, f"{key} has a value twice", "give each value of a key once")
        for value in values:
            if "|" in value and len(set(alternatives := value.split("|"))) < len(alternatives):
                raise bad(field, f"{key} has an alternative twice in {value[:80]!r}", "leave one out")
            if key in (ID, POOL) and ":" in value:
                raise bad(field, f"{key} is {value[:80]!r}", "it cannot have a ':'")


# --------------------------------------------------------------------- what the daemon does not have


def _check_offered(request: tasks_pb2.NewTaskRequest, cipd: bool) -> None:
    if request.resultdb.enable:
        raise _not_here(
            "resultdb.enable", "there is no ResultDB here", "leave it out (flag -enable-resultdb)"
        )
    if request.pubsub_topic:
        raise _not_here("pubsub_topic", "nothing is published from here", "leave it out, and poll GetResult")
    for number, slice in enumerate(request.task_slices):
        properties, field = slice.properties, f"task_slices[{number}].properties"
        if properties.HasField("cas_input_root"):
            raise _not_here(
                f"{field}.cas_input_root", "there is no CAS here",
                "let the command fetch its files, or submit with 'swarmd run --input'",
            )  # fmt: skip
        if any(OUTDIR in text for text in texts(properties)):
            raise _not_here(
                field, f"{OUTDIR} is a folder for CAS, and there is no CAS here", "name the files in outputs"
            )
        if properties.cipd_input.packages and not cipd:
            raise _not_here(
                f"{field}.cipd_input", "bots install no CIPD packages here",
                "leave them out, or let the operator set [swarming] cipd = true",
            )  # fmt: skip
        if properties.outputs:
            why = only_swarming_bots(properties, request.service_account)
            if why:
                raise _not_here(
                    f"{field}.outputs",
                    f"Swarming bots cannot keep files without CAS, and only they know {why}",
                    "leave out one of both",
                )  # fmt: skip


def _not_here(field: str, what: str, remedy: str) -> RpcError:
    return RpcError(Code.FAILED_PRECONDITION, f"{field}: {what}; {remedy}")
