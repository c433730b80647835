"""Messages of real conversations: what clients of LUCI Swarming send and are answered, in JSON and in binary.

The names are those of the methods; `binary` is empty where it was not recorded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from swarmd.api.swarming.proto import bots_pb2, server_pb2, tasks_pb2


class Golden(NamedTuple):
    name: str
    type: type
    json: dict[str, Any]
    binary: str | None = None


PROPERTIES = {
    "command": ["/bin/sh", "-c", "echo hi"],
    "dimensions": [{"key": "os", "value": "Linux"}, {"key": "pool", "value": "lab"}],
    "env": [{"key": "FOO", "value": "bar"}],
    "executionTimeoutSecs": 3600,
    "gracePeriodSecs": 30,
    "ioTimeoutSecs": 1200,
    "containment": {"containmentType": "NONE"},
}
SLICE = {"expirationSecs": 21600, "properties": PROPERTIES}
TAGS = [
    "authenticated:anonymous:anonymous", "os:Linux", "pool:lab", "priority:200", "purpose:smoke", "realm:lab:default",
    "service_account:none", "swarming.pool.task_template:none", "swarming.pool.version:1", "user:alice",
]  # fmt: skip
NEW_TASK = {
    "name": "alice/os=Linux_pool=lab", "priority": 200, "tags": ["purpose:smoke"], "user": "alice",
    "requestUuid": "7d0c5b0e-6a5e-4c2f-9a55-2f0c3f0f5b11", "resultdb": {}, "taskSlices": [SLICE],
}  # fmt: skip
NEW_TASK_BINARY = """
    1217616c6963652f6f733d4c696e75785f706f6f6c3d6c616220c801324e0a481a072f62696e2f73681a022d631a0765
    63686f2068692a0b0a026f7312054c696e75782a0b0a04706f6f6c12036c6162320a0a03464f4f120362617240901c48
    1e60b0097a02100110e0a8013a0d707572706f73653a736d6f6b654205616c69636582012437643063356230652d3661
    35652d346332662d396135352d3266306333663066356231318a0100
"""
REQUEST = {
    "taskId": "7b24c0ea00abcd10", "expirationSecs": 21600, "name": "alice/os=Linux_pool=lab", "priority": 200,
    "properties": PROPERTIES, "tags": TAGS, "createdTs": "2026-10-05T12:00:00Z", "user": "alice",
    "authenticated": "anonymous:anonymous", "taskSlices": [SLICE], "serviceAccount": "none", "realm": "lab:default",
    "resultdb": {}, "botPingToleranceSecs": 1200,
}  # fmt: skip
PENDING = {
    "taskId": "7b24c0ea00abcd10", "createdTs": "2026-10-05T12:00:00Z", "modifiedTs": "2026-10-05T12:00:00Z",
    "serverVersions": ["1"], "state": "PENDING", "name": "alice/os=Linux_pool=lab", "tags": TAGS, "user": "alice",
}  # fmt: skip
BOT_DIMENSIONS = [
    {"key": "id", "value": ["bench-01"]},
    {"key": "os", "value": ["Linux", "Ubuntu"]},
    {"key": "pool", "value": ["lab"]},
]
COMPLETED = {
    "taskId": "7b24c0ea00abcd10", "botDimensions": BOT_DIMENSIONS, "botId": "bench-01", "botVersion": "abc123",
    "createdTs": "2026-10-05T12:00:00Z", "startedTs": "2026-10-05T12:00:01.500Z",
    "completedTs": "2026-10-05T12:00:03Z", "modifiedTs": "2026-10-05T12:00:03Z", "duration": 1.25, "exitCode": "1",
    "failure": True, "serverVersions": ["1"], "state": "COMPLETED", "name": "alice/os=Linux_pool=lab", "tags": TAGS,
    "user": "alice", "runId": "7b24c0ea00abcd11",
}  # fmt: skip
NOW = "2026-10-05T12:00:05Z"
BOT = {
    "botId": "bench-01", "externalIp": "127.0.0.1", "authenticatedAs": "bot:bench-01",
    "firstSeenTs": "2026-10-01T08:00:00Z", "lastSeenTs": "2026-10-05T12:00:00Z", "dimensions": BOT_DIMENSIONS,
    "version": "abc123", "state": '{"cost_usd_hour":0.1}', "sessionId": "s1",
}  # fmt: skip

GOLDEN = (
    Golden("NewTask request", tasks_pb2.NewTaskRequest, NEW_TASK, NEW_TASK_BINARY),
    Golden(
        "NewTask", tasks_pb2.TaskRequestMetadataResponse,
        {"taskId": "7b24c0ea00abcd10", "request": REQUEST, "taskResult": PENDING},
    ),
    Golden(
        "BatchGetResult request", tasks_pb2.BatchGetResultRequest,
        {"taskIds": ["7b24c0ea00abcd10", "7b24c0ea00ffff10"]},
    ),
    Golden(
        "BatchGetResult", tasks_pb2.BatchGetResultResponse,
        {"results": [
            {"taskId": "7b24c0ea00abcd10", "result": COMPLETED},
            {"taskId": "7b24c0ea00ffff10", "error": {"code": 5, "message": "no such task"}},
        ]},
    ),
    Golden(
        "GetStdout request", tasks_pb2.TaskIdWithOffsetRequest,
        {"taskId": "7b24c0ea00abcd10", "length": "16384000"}, "0a1037623234633065613030616263643130188080e807",
    ),
    Golden("GetStdout", tasks_pb2.TaskOutputResponse, {"output": "aGkK", "state": "COMPLETED"}, "0a0368690a1070"),
    Golden(
        "CancelTask request", tasks_pb2.TaskCancelRequest,
        {"taskId": "7b24c0ea00abcd10", "killRunning": True}, "0a10376232346330656130306162636431301001",
    ),
    Golden("CancelTask, pending", tasks_pb2.CancelResponse, {"canceled": True}, "0801"),
    Golden("CancelTask, running", tasks_pb2.CancelResponse, {"canceled": True, "wasRunning": True}, "08011001"),
    Golden("CancelTask, too late", tasks_pb2.CancelResponse, {}, ""),
    Golden("CancelTasks request", tasks_pb2.TasksCancelRequest, {"limit": 200, "tags": ["purpose:smoke"]}),
    Golden("CancelTasks", tasks_pb2.TasksCancelResponse, {"now": NOW, "matched": 2}),
    Golden(
        "ListTasks request", tasks_pb2.TasksWithPerfRequest,
        {"limit": 200, "state": "QUERY_ALL", "tags": ["pool:lab"]},
    ),
    Golden("ListTasks", tasks_pb2.TaskListResponse, {"items": [COMPLETED, PENDING], "now": NOW, "cursor": "c"}),
    Golden(
        "CountTasks request", tasks_pb2.TasksCountRequest, {"start": "2026-10-01T00:00:00Z", "state": "QUERY_ALL"},
    ),
    Golden("CountTasks", tasks_pb2.TasksCount, {"count": 12, "now": NOW}),
    Golden("GetRequest request", tasks_pb2.TaskIdRequest, {"taskId": "7b24c0ea00abcd10"}),
    Golden("GetRequest", tasks_pb2.TaskRequestResponse, REQUEST),
    Golden("GetResult", tasks_pb2.TaskResultResponse, COMPLETED),
    Golden(
        "ListBots request", bots_pb2.BotsRequest, {"limit": 1000, "dimensions": [{"key": "pool", "value": "lab"}]},
    ),
    Golden("ListBots", bots_pb2.BotInfoListResponse, {"items": [BOT], "now": NOW, "deathTimeout": 600}),
    Golden("CountBots request", bots_pb2.BotsCountRequest, {}, ""),
    Golden("CountBots", bots_pb2.BotsCount, {"now": NOW, "count": 3, "dead": 1, "busy": 1}),
    Golden("TerminateBot request", bots_pb2.TerminateRequest, {"botId": "bench-01", "reason": "swap disk"}),
    Golden("TerminateBot", bots_pb2.TerminateResponse, {"taskId": "7b24c0ff00123410"}),
    Golden("DeleteBot request", bots_pb2.BotRequest, {"botId": "bench-01"}),
    Golden("DeleteBot", bots_pb2.DeleteResponse, {"deleted": True}),
    Golden("GetPermissions request", server_pb2.PermissionsRequest, {"tags": ["pool:lab"]}),
    Golden(
        "GetPermissions", server_pb2.ClientPermissions,
        {"deleteBot": True, "deleteBots": True, "terminateBot": True, "cancelTask": True, "getBootstrapToken": True,
         "cancelTasks": True, "listBots": ["lab"], "listTasks": ["lab"]},
    ),
)  # fmt: skip
