"""What is served, for generic tools: the service `discovery.Discovery`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pool

from swarmd.api.calls import Call
from swarmd.api.swarming.proto import discovery_pb2
from swarmd.api.swarming.prpc.layer import Method


class Discovery:
    def __init__(self, methods: Iterable[Method]) -> None:
        self._services = sorted({method.service for method in methods})

    async def describe(self, call: Call, request: discovery_pb2.Void) -> discovery_pb2.DescribeResponse:
        answer = discovery_pb2.DescribeResponse(services=self._services)
        told: set[str] = set()
        for service in self._services:
            _tell(descriptor_pool.Default().FindServiceByName(service).file, answer.description, told)
        return answer


def _tell(file: Any, into: Any, told: set[str]) -> None:
    """Adds a file after those that it needs: readers build one from the other."""
    if file.name in told:
        return
    told.add(file.name)
    for needed in file.dependencies:
        _tell(needed, into, told)
    file.CopyToProto(into.file.add())
