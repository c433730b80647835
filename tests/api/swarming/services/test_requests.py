"""What is kept of a request for a task, and what it becomes in the core."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format

from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.prpc.codec import decoded
from swarmd.api.swarming.prpc.negotiation import Encoding
from swarmd.api.swarming.services.requests import Checked, checked
from tests.api.swarming.prpc.golden import NEW_TASK, NEW_TASK_BINARY, REQUEST


def golden_requests():
    return {
        "binary": decoded(tasks_pb2.NewTaskRequest, bytes.fromhex(NEW_TASK_BINARY), Encoding.BINARY),
        "json": decoded(tasks_pb2.NewTaskRequest, json.dumps(NEW_TASK).encode(), Encoding.JSON),
    }


def checking(request: tasks_pb2.NewTaskRequest, **others) -> Checked:
    given = {
        "caller": "anonymous:anonymous",
        "pool_realm": "{}:default".format,
        "parent": None,
        "cipd": False,
    }
    return checked(request, **{**given, **others})


@pytest.mark.parametrize("encoding", ["binary", "json"])
def test_a_real_request_is_kept_as_a_real_server_keeps_it(encoding: str):
    kept = checking(golden_requests()[encoding]).record
    wanted = {name: value for name, value in REQUEST.items() if name not in ("taskId", "createdTs")}
    assert json_format.MessageToDict(kept) == wanted
    assert kept.HasField("resultdb")
