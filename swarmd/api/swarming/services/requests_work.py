"""What a slice runs, in the neutral form that all bots know, or as a payload that only Swarming bots do; and back.

Source: docs/swarming-clients.md, "What a task becomes".
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.message import Message
from msgspec.structs import replace

from swarmd.api.swarming import manifest
from swarmd.api.swarming.context import PROPERTIES
from swarmd.api.swarming.manifest import NO_ACCOUNT, Cache, Properties
from swarmd.api.swarming.offering import UNREADABLE
from swarmd.api.swarming.proto import common_pb2, tasks_pb2
from swarmd.core.model import Command, Payload, Work

REDACTED = b"<REDACTED>"  # what is shown of a secret
OUTDIR = "${ISOLATED_OUTDIR}"
# What Swarming bots replace in the words of a command and in variables; other bots run it as it stands.
REPLACED = (
    OUTDIR, "${EXECUTABLE_SUFFIX}", "${SWARMING_BOT_FILE}", "${SWARMING_TASK_ID}", "${BUILDBUCKET_AGENT_CONTEXT_FILE}",
)  # fmt: skip
# With which CIPD client a Swarming bot fetches packages when it is left to itself: its runner needs all three.
CIPD_SERVER = "https://chrome-infra-packages.appspot.com"
CIPD_CLIENT = "infra/tools/cipd/${platform}"
CIPD_CLIENT_VERSION = "latest"
MAX_INT32 = (1 << 31) - 1

_Type = tasks_pb2.Containment.ContainmentType


def texts(properties: tasks_pb2.TaskProperties) -> Iterator[str]:
    """Where bots of Swarming replace something."""
    yield from properties.command
    for pair in properties.env:
        yield pair.value


def only_swarming_bots(properties: tasks_pb2.TaskProperties, account: str) -> str:
    """What of a slice only Swarming bots know, or nothing."""
    for field in ("caches", "env_prefixes", "secret_bytes"):
        if getattr(properties, field):
            return field
    if properties.cipd_input.packages:
        return "cipd_input"
    contained = properties.containment
    if contained.containment_type > _Type.NONE or contained.lower_priority or _has_limits(contained):
        return "containment"
    if account not in ("", NO_ACCOUNT):
        return "service_account"
    return next((text for text in REPLACED for word in texts(properties) if text in word), "")


def _has_limits(contained: tasks_pb2.Containment) -> bool:
    return bool(contained.limit_processes or contained.limit_total_committed_memory)


def add_cipd_defaults(asked: tasks_pb2.CipdInput) -> None:
    asked.server = asked.server or CIPD_SERVER
    if not asked.HasField("client_package"):
        asked.client_package.package_name = CIPD_CLIENT
        asked.client_package.version = CIPD_CLIENT_VERSION


def work_of(
    properties: tasks_pb2.TaskProperties,
    *,
    account: str,
    realm: str,
    pools_realm: str,
    ping_tolerance_s: float,
) -> Work:
    """What a bot is told. `properties` as they were asked for, secrets and all, with the defaults of CIPD."""
    command, env = list(properties.command), {pair.key: pair.value for pair in properties.env}
    limits = Work(
        hard_limit_s=float(properties.execution_timeout_secs), io_limit_s=float(properties.io_timeout_secs),
        grace_s=float(properties.grace_period_secs), ping_tolerance_s=ping_tolerance_s,
    )  # fmt: skip
    if only_swarming_bots(properties, account):
        return replace(limits, payload=_payload(properties, command, env, account, realm))
    return replace(
        limits,
        commands=(Command(tuple(command), {}, properties.relative_cwd),),
        env={name: value or None for name, value in env.items()},
        outputs=tuple("**" if path == "." else path for path in properties.outputs),
        # Who has commands runs these; a Swarming bot goes by the payload, which alone can say another realm.
        payload=None if realm == pools_realm else _payload(properties, command, env, account, realm),
    )


def _payload(
    properties: tasks_pb2.TaskProperties, command: list[str], env: dict[str, str], account: str, realm: str
) -> Payload:
    said = Properties(
        command=command,
        env=env,
        env_prefixes={pair.key: list(pair.value) for pair in properties.env_prefixes},
        relative_cwd=properties.relative_cwd,
        caches=[Cache(cache.name, cache.path) for cache in properties.caches],
        secret_bytes=properties.secret_bytes or None,
        realm=realm,
        service_account=account or NO_ACCOUNT,
        containment=_containment(properties.containment),
        cipd_input=_cipd_input(properties.cipd_input) if properties.cipd_input.packages else None,
    )
    return Payload(PROPERTIES, msgspec.json.encode(said))


def _containment(asked: tasks_pb2.Containment) -> dict[str, Any] | None:
    if not (asked.containment_type or asked.lower_priority or _has_limits(asked)):
        return None
    return {
        "containment_type": _Type.Name(asked.containment_type), "lower_priority": asked.lower_priority,
        "limit_processes": asked.limit_processes,
        "limit_total_committed_memory": asked.limit_total_committed_memory,
    }  # fmt: skip


def _cipd_input(asked: tasks_pb2.CipdInput) -> dict[str, Any]:
    client = asked.client_package
    return {
        "server": asked.server,
        "client_package": {"package_name": client.package_name, "version": client.version},
        "packages": [
            {"package_name": package.package_name, "version": package.version, "path": package.path}
            for package in asked.packages
        ],
    }


# --------------------------------------------------------------------- and back


def properties_of(work: Work) -> tasks_pb2.TaskProperties:
    """What a task runs, as clients of Swarming can be told it; without the dimensions, and with secrets redacted.

    Of several commands it is the first that runs a program. A payload that cannot be read shows nothing.
    """
    said = properties_said(work)
    properties = tasks_pb2.TaskProperties(
        command=said.command, relative_cwd=said.relative_cwd, outputs=said.outputs or work.outputs,
        execution_timeout_secs=whole_seconds(work.hard_limit_s), io_timeout_secs=whole_seconds(work.io_limit_s),
        grace_period_secs=whole_seconds(work.grace_s), secret_bytes=REDACTED if said.secret_bytes else b"",
        env=[common_pb2.StringPair(key=key, value=value) for key, value in sorted(said.env.items())],
        env_prefixes=[
            common_pb2.StringListPair(key=key, value=paths) for key, paths in sorted(said.env_prefixes.items())
        ],
        caches=[tasks_pb2.CacheEntry(name=cache.name, path=cache.path) for cache in said.caches],
    )  # fmt: skip
    if said.containment:
        _read(said.containment, properties.containment)
    if not properties.containment.containment_type:
        properties.ClearField("containment")
    if said.cipd_input:
        _read(said.cipd_input, properties.cipd_input)
    if not properties.cipd_input.packages:
        properties.ClearField("cipd_input")
    return properties


def properties_said(work: Work) -> Properties:
    """What bots of Swarming are told of a task; nothing where there is no word for it."""
    if work.payload is not None and work.payload.type == PROPERTIES:
        try:
            return manifest.properties_of(work)
        except UNREADABLE:
            return Properties()
    command = next((command for command in work.commands if command.argv), None)
    if command is None:
        return Properties()
    return manifest.properties_of(replace(work, commands=(command,)))


def whole_seconds(span_s: float) -> int:
    return min(ceil(span_s), MAX_INT32)


def _read(said: dict[str, Any], message: Message) -> None:
    """What whoever made the payload wrote, as far as it has the form of `message`."""
    try:
        json_format.ParseDict(said, message, ignore_unknown_fields=True)
    except Exception:  # the parser lets through whatever its parts raise
        message.Clear()
