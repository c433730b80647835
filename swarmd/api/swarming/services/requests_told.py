"""The request of any task, whoever submitted it: as if it had been one of Swarming's own.

Source: docs/swarming-clients.md, "What readers are told".
"""

from __future__ import annotations

from swarmd.api.swarming.ids import task_id
from swarmd.api.swarming.manifest import NO_ACCOUNT
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.services.common import moment
from swarmd.api.swarming.services.requests import DEFAULT_PING_TOLERANCE_S, by_key, swarming_priority
from swarmd.api.swarming.services.requests_work import properties_of, properties_said, whole_seconds
from swarmd.api.swarming.services.tags import tags_of, user_of
from swarmd.core.dimensions import POOL
from swarmd.core.model import Work
from swarmd.core.submitting import SliceSpec
from swarmd.store.queries import TaskText
from swarmd.store.selecting import OpRow

ANONYMOUS = "anonymous:anonymous"  # an identity: of who shows nothing


def request_of(row: OpRow, text: TaskText, *, pools_realm: str = "") -> tasks_pb2.TaskRequestResponse:
    """As `Checked.record`, with id and moment. What has no word in it is left out."""
    works = text.work if len(text.work) > 1 else text.work * len(text.slices)
    said = properties_said(works[0])
    record = tasks_pb2.TaskRequestResponse(
        task_id=task_id(row.id), created_ts=moment(row.created_wall), name=row.name,
        priority=swarming_priority(row.priority), parent_task_id="" if row.parent is None else task_id(row.parent),
        user=user_of(row), tags=tags_of(row),
        authenticated=row.owner or ANONYMOUS,  # never by a tag: anybody may write that
        service_account=said.service_account or NO_ACCOUNT, realm=said.realm or pools_realm,
        bot_ping_tolerance_secs=whole_seconds(works[0].ping_tolerance_s) or DEFAULT_PING_TOLERANCE_S,
        expiration_secs=whole_seconds(sum(part.expiration_s for part in text.slices)),
    )  # fmt: skip
    for work, part in zip(works, text.slices, strict=True):
        record.task_slices.add(
            expiration_secs=whole_seconds(part.expiration_s), wait_for_capacity=part.wait_for_capacity,
            properties=_properties(row, work, part),
        )  # fmt: skip
    record.properties.CopyFrom(record.task_slices[0].properties)
    record.resultdb.SetInParent()
    return record


def _properties(row: OpRow, work: Work, part: SliceSpec) -> tasks_pb2.TaskProperties:
    """What a slice runs and requires; in its variables, too, what tells tasks of an array apart."""
    properties = properties_of(work)
    required = {**part.dimensions, POOL: [row.pool]} if row.pool else part.dimensions
    for key, values in sorted(required.items()):
        for value in sorted(values):
            properties.dimensions.add(key=key, value=value)
    own = {pair.key for pair in properties.env}
    for name, fact in (("SWARMD_INDEX", row.index), ("SWARMD_LINE", row.line)):
        if fact is not None and name not in own:
            properties.env.add(key=name, value=str(fact))
    properties.env.sort(key=by_key)
    return properties
