"""A request for a task: what is kept of it for its readers, and what it becomes in the core.

Source: protocols of LUCI Swarming, NewTask and GetRequest; docs/swarming-clients.md, "What a task becomes".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from swarmd.api.swarming.manifest import NO_ACCOUNT
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.services.requests_work import (
    REDACTED,
    add_cipd_defaults,
    work_of,
)
from swarmd.api.swarming.services.rules import check, dimensions_of, pool_of
from swarmd.api.swarming.services.rules_inputs import bad
from swarmd.core.dimensions import POOL
from swarmd.core.model import OpId
from swarmd.core.submitting import SliceSpec, TaskSpec

USUAL_PRIORITY = 200  # of these clients; it is the core's 0
MAX_PRIORITY = 255
HIGHEST_PRIORITY = 20  # more is for those whom a pool allows it, and no pool does
DEFAULT_PING_TOLERANCE_S = 1_200
POOL_VERSION = "1"


class Parent(Struct, frozen=True):
    """The task that another one was asked for by: its children end with it, and are its user's."""

    op: OpId
    user: str


class Checked(Struct, frozen=True):
    """A request that was found to be in order.

    `record` is what its readers get, but for the id and the moment; no secret is in it. `hashes`: for each slice that
    is idempotent, what equal ones have in common.
    """

    record: tasks_pb2.TaskRequestResponse
    spec: TaskSpec
    hashes: tuple[str | None, ...]


def core_priority(priority: int) -> int:
    """Of Swarming's 0 to 255: lower runs first in both."""
    return priority - USUAL_PRIORITY


def swarming_priority(priority: int) -> int:
    """Of the core's, which has no ends."""
    return min(max(priority + USUAL_PRIORITY, 0), MAX_PRIORITY)


def checked(
    request: tasks_pb2.NewTaskRequest,
    *,
    caller: str,
    pool_realm: Callable[[str], str],
    parent: Parent | None,
    cipd: bool,
) -> Checked:
    """Raises `RpcError`. `pool_realm`: the realm of tasks of a pool that name none, or nothing.

    `parent` is the task that the request names, if it names one.
    """
    assert (parent is not None) == bool(request.parent_task_id)
    check(request, cipd=cipd)
    pool = pool_of(request)
    pools_realm = pool_realm(pool)
    realm = request.realm or pools_realm
    if not realm:
        raise bad("realm", "task realm is required", f"give one: pool {pool} has no default")
    asked = [_with_defaults(slice.properties) for slice in request.task_slices]
    account = request.service_account or NO_ACCOUNT
    works = [
        work_of(
            properties, account=account, realm=realm, pools_realm=pools_realm,
            # Without one its bot's own patience counts, which is shorter than what readers are told.
            ping_tolerance_s=float(request.bot_ping_tolerance_secs),
        )
        for properties in asked
    ]  # fmt: skip
    requires = [dimensions_of(properties) for properties in asked]
    record = _record(request, asked, caller, realm, account, parent, requires)
    slices = []
    for slice, required in zip(request.task_slices, requires, strict=True):
        del required[POOL]  # of the spec
        slices.append(SliceSpec(required, float(slice.expiration_secs), slice.wait_for_capacity))
    spec = TaskSpec(
        work=tuple(works) if any(work != works[0] for work in works) else (works[0],),
        slices=tuple(slices), pool=pool, name=request.name, priority=core_priority(record.priority), bot_retries=0,
        tags=tuple(record.tags), parent=None if parent is None else parent.op, owner=caller,
    )  # fmt: skip
    hashes = tuple(canonical_hash(properties) if properties.idempotent else None for properties in asked)
    return Checked(record, spec, hashes)


def _with_defaults(given: tasks_pb2.TaskProperties) -> tasks_pb2.TaskProperties:
    """What is asked for: lists of pairs by their keys, and nothing that says nothing."""
    properties = tasks_pb2.TaskProperties()
    properties.CopyFrom(given)
    properties.DiscardUnknownFields()
    properties.dimensions.sort(key=_by_key_and_value)
    properties.env.sort(key=by_key)
    properties.env_prefixes.sort(key=by_key)
    if properties.HasField("cipd_input"):
        if properties.cipd_input.packages:
            add_cipd_defaults(properties.cipd_input)
        else:
            properties.ClearField("cipd_input")
    return properties


def by_key(pair: object) -> str:
    return pair.key  # type: ignore[attr-defined, no-any-return]


def _by_key_and_value(pair: object) -> tuple[str, str]:
    return pair.key, pair.value  # type: ignore[attr-defined]


# --------------------------------------------------------------------- what readers get


def _record(
    request: tasks_pb2.NewTaskRequest,
    asked: list[tasks_pb2.TaskProperties],
    caller: str,
    realm: str,
    account: str,
    parent: Parent | None,
    requires: list[dict[str, list[str]]],
) -> tasks_pb2.TaskRequestResponse:
    priority = max(request.priority, HIGHEST_PRIORITY)
    user = request.user if parent is None else parent.user
    automatic = [
        f"priority:{priority}", f"realm:{realm}", f"service_account:{account}", f"user:{user or 'none'}",
        f"authenticated:{caller}", f"swarming.pool.version:{POOL_VERSION}", "swarming.pool.task_template:none",
    ]  # fmt: skip
    if parent is not None:
        automatic.append(f"parent_task_id:{request.parent_task_id}")
    for required in requires:
        automatic += dimension_tags(required)
    record = tasks_pb2.TaskRequestResponse(
        expiration_secs=sum(slice.expiration_secs for slice in request.task_slices), name=request.name,
        parent_task_id=request.parent_task_id, priority=priority, tags=sorted({*request.tags, *automatic}),
        user=user, authenticated=caller, service_account=account, realm=realm,
        bot_ping_tolerance_secs=request.bot_ping_tolerance_secs or DEFAULT_PING_TOLERANCE_S,
    )  # fmt: skip
    for slice, properties in zip(request.task_slices, asked, strict=True):
        shown = record.task_slices.add(
            expiration_secs=slice.expiration_secs, wait_for_capacity=slice.wait_for_capacity
        ).properties
        shown.CopyFrom(properties)
        if properties.secret_bytes:
            shown.secret_bytes = REDACTED
        if not properties.containment.containment_type:
            shown.ClearField("containment")
    record.properties.CopyFrom(record.task_slices[0].properties)
    record.resultdb.SetInParent()
    return record


def dimension_tags(required: dict[str, list[str]]) -> Iterable[str]:
    """One for each value and alternative that a task may end up with."""
    for key, values in required.items():
        for value in values:
            for alternative in value.split("|"):
                yield f"{key}:{alternative}"


# --------------------------------------------------------------------- which slices are equal


def canonical_hash(properties: tasks_pb2.TaskProperties) -> str:
    """SHA-256 in hex of all that decides what a slice's run comes to; of lists whose order does not matter, sorted.

    It stays in the file for days: the form changes only with its number.
    """
    cipd, root, contained = properties.cipd_input, properties.cas_input_root, properties.containment
    form = (
        1, properties.idempotent, properties.relative_cwd, properties.execution_timeout_secs,
        properties.io_timeout_secs, properties.grace_period_secs, list(properties.command),
        sorted(set(properties.outputs)), sorted((pair.key, pair.value) for pair in properties.env),
        sorted((pair.key, list(pair.value)) for pair in properties.env_prefixes),
        sorted((pair.key, sorted(pair.value.split("|"))) for pair in properties.dimensions),
        sorted((cache.name, cache.path) for cache in properties.caches),
        (root.cas_instance, root.digest.hash, root.digest.size_bytes),
        (cipd.server, _package(cipd.client_package), sorted(_package(package) for package in cipd.packages)),
        (
            contained.containment_type, contained.lower_priority, contained.limit_processes,
            contained.limit_total_committed_memory,
        ),
        properties.secret_bytes,
    )  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(form)).hexdigest()


def _package(package: tasks_pb2.CipdPackage) -> tuple[str, str, str]:
    return package.path, package.package_name, package.version
