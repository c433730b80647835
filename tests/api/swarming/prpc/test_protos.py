"""The messages are the protocol's, and the modules are what the `.proto` files make."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from swarmd.api.swarming.proto import bots_pb2, common_pb2, discovery_pb2, prpc_pb2, server_pb2, tasks_pb2
from tools.protos import ROOT, checked_in, made, sources

FILES = [m.DESCRIPTOR for m in (common_pb2, tasks_pb2, bots_pb2, server_pb2, discovery_pb2, prpc_pb2)]


def test_the_modules_are_what_the_sources_make():
    tools = pytest.importorskip("grpc_tools", reason="needs grpcio-tools, see the extra dev").__name__
    pinned = re.search(r'"grpcio-tools==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    if version(tools.replace("grpc_tools", "grpcio-tools")) != pinned[1]:
        pytest.skip(f"needs grpcio-tools {pinned[1]}")
    assert made() == checked_in(), "run: python -m tools.protos"


def test_every_source_has_its_module():
    modules = checked_in()
    assert all(name.removesuffix(".proto") + "_pb2.py" in modules for name in sources())
    assert {file.name for file in FILES} <= set(sources())


def test_the_services_have_all_methods():
    methods = {
        f"{service.full_name}/{method.name}": (method.input_type.name, method.output_type.name)
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert methods == {
        "swarming.v2.Bots/GetBot": ("BotRequest", "BotInfo"),
        "swarming.v2.Bots/DeleteBot": ("BotRequest", "DeleteResponse"),
        "swarming.v2.Bots/ListBotEvents": ("BotEventsRequest", "BotEventsResponse"),
        "swarming.v2.Bots/TerminateBot": ("TerminateRequest", "TerminateResponse"),
        "swarming.v2.Bots/ListBotTasks": ("BotTasksRequest", "TaskListResponse"),
        "swarming.v2.Bots/ListBots": ("BotsRequest", "BotInfoListResponse"),
        "swarming.v2.Bots/CountBots": ("BotsCountRequest", "BotsCount"),
        "swarming.v2.Bots/GetBotDimensions": ("BotsDimensionsRequest", "BotsDimensions"),
        "swarming.v2.Tasks/GetResult": ("TaskIdWithPerfRequest", "TaskResultResponse"),
        "swarming.v2.Tasks/BatchGetResult": ("BatchGetResultRequest", "BatchGetResultResponse"),
        "swarming.v2.Tasks/GetRequest": ("TaskIdRequest", "TaskRequestResponse"),
        "swarming.v2.Tasks/CancelTask": ("TaskCancelRequest", "CancelResponse"),
        "swarming.v2.Tasks/GetStdout": ("TaskIdWithOffsetRequest", "TaskOutputResponse"),
        "swarming.v2.Tasks/NewTask": ("NewTaskRequest", "TaskRequestMetadataResponse"),
        "swarming.v2.Tasks/ListTasks": ("TasksWithPerfRequest", "TaskListResponse"),
        "swarming.v2.Tasks/ListTaskStates": ("TaskStatesRequest", "TaskStates"),
        "swarming.v2.Tasks/ListTaskRequests": ("TasksRequest", "TaskRequestsResponse"),
        "swarming.v2.Tasks/CancelTasks": ("TasksCancelRequest", "TasksCancelResponse"),
        "swarming.v2.Tasks/CountTasks": ("TasksCountRequest", "TasksCount"),
        "swarming.v2.Swarming/GetDetails": ("Empty", "ServerDetails"),
        "swarming.v2.Swarming/GetToken": ("Empty", "BootstrapToken"),
        "swarming.v2.Swarming/GetPermissions": ("PermissionsRequest", "ClientPermissions"),
        "discovery.Discovery/Describe": ("Void", "DescribeResponse"),
    }


def test_no_field_has_presence_but_messages():
    """proto3 without `optional`: a client that leaves a field at its default sends nothing."""
    for file in FILES:
        for message in file.message_types_by_name.values():
            for field in message.fields:
                if field.message_type is None and field.containing_oneof is None:
                    assert not field.has_presence, field.full_name
    assert tasks_pb2.TaskResultResponse.DESCRIPTOR.fields_by_number.get(7) is None


def test_importing_the_package_imports_no_protobuf():
    """Who never calls the client API does not pay for it."""
    script = "import sys, swarmd.api.app, swarmd.api.swarming.routes; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "swarmd.api.app" in done.stdout.split()
    assert not [name for name in done.stdout.split() if name.startswith("google.protobuf")]
