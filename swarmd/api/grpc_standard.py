"""The services that every server of gRPC is asked for: health, and reflection for generic tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

from swarmd.api.grpc import Rpc, RpcCall, Service
from swarmd.api.proto import health_pb2, reflection_pb2, reflection_v1alpha_pb2
from swarmd.api.routes import Verb
from swarmd.api.rpc import Code, RpcError
from swarmd.daemon.daemon import Daemon

Serving = health_pb2.HealthCheckResponse


def standard_services(daemon: Daemon, services: Callable[[], tuple[Service, ...]]) -> tuple[Service, ...]:
    """`services` gives all that is served, these too."""
    reflection = [
        _reflection(module, Reflection(module, services))
        for module in (reflection_pb2, reflection_v1alpha_pb2)
    ]
    return (_health(Health(daemon, services)), *reflection)


def _health(health: Health) -> Service:
    check: dict[str, Any] = {"request": health_pb2.HealthCheckRequest, "answer": Serving}
    rpcs = (
        Rpc(name="Check", handler=health.check, verb=Verb.OPEN, **check),
        Rpc(
            name="List", handler=health.list, verb=Verb.OPEN,
            request=health_pb2.HealthListRequest, answer=health_pb2.HealthListResponse,
        ),
        Rpc(name="Watch", handler=health.watch, verb=Verb.READ, kind="server_stream", **check),  # it is held
    )  # fmt: skip
    return Service(name="grpc.health.v1.Health", rpcs=rpcs, file=health_pb2.DESCRIPTOR)


def _reflection(module: ModuleType, reflection: Reflection) -> Service:
    info = Rpc(
        name="ServerReflectionInfo",
        handler=reflection.info,
        verb=Verb.READ,
        kind="both_streams",
        request=module.ServerReflectionRequest,
        answer=module.ServerReflectionResponse,
        limit=1 << 16,
    )
    return Service(name=f"{module.DESCRIPTOR.package}.ServerReflection", rpcs=(info,), file=module.DESCRIPTOR)


class Health:
    """A service can be used as long as the daemon is not stopping; a full disk only refuses new work."""

    def __init__(self, daemon: Daemon, services: Callable[[], tuple[Service, ...]]) -> None:
        self._stopping = daemon.stopping
        self._services = services

    def _now(self) -> Serving:
        return Serving(status=Serving.NOT_SERVING if self._stopping.is_set() else Serving.SERVING)

    def _knows(self, service: str) -> bool:
        return not service or any(s.name == service for s in self._services())

    async def check(self, call: RpcCall, request: health_pb2.HealthCheckRequest) -> Serving:
        if not self._knows(request.service):
            raise RpcError(
                Code.NOT_FOUND, f"there is no service {request.service[:200]!r}; reflection lists them"
            )
        return self._now()

    async def list(
        self, call: RpcCall, request: health_pb2.HealthListRequest
    ) -> health_pb2.HealthListResponse:
        names = ["", *(service.name for service in self._services())]
        return health_pb2.HealthListResponse(statuses={name: self._now() for name in names})

    async def watch(self, call: RpcCall, request: health_pb2.HealthCheckRequest) -> AsyncIterator[Serving]:
        """The status now, and when it changes. Ends when the daemon does."""
        if not self._knows(request.service):
            yield Serving(status=Serving.SERVICE_UNKNOWN)
        elif not self._stopping.is_set():
            yield self._now()
        await self._stopping.wait()
        yield self._now()


class Reflection:
    """Answers about the files of the services, and those that they import. `module`: which version's messages."""

    def __init__(self, module: ModuleType, services: Callable[[], tuple[Service, ...]]) -> None:
        self._m = module
        self._services = services
        self._files: dict[str, Any] = {}
        self._symbols: dict[str, Any] = {}  # to the file that has it

    async def info(self, call: RpcCall, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        self._learn()
        async for request in requests:
            try:
                found = self._found(request)
            except KeyError as error:
                why = f"there is no {error.args[0][:200]!r}"
                found = {
                    "error_response": self._m.ErrorResponse(error_code=Code.NOT_FOUND, error_message=why)
                }
            yield self._m.ServerReflectionResponse(valid_host=request.host, original_request=request, **found)

    def _found(self, request: Any) -> dict[str, Any]:
        """Raises `KeyError` for what is not there."""
        m = self._m
        match request.WhichOneof("message_request"):
            case "list_services":
                names = sorted(service.name for service in self._services())
                listed = [m.ServiceResponse(name=name) for name in names]
                return {"list_services_response": m.ListServiceResponse(service=listed)}
            case "file_by_filename":
                return self._told(self._files[request.file_by_filename])
            case "file_containing_symbol":
                return self._told(self._symbols[request.file_containing_symbol])
            case "file_containing_extension":
                raise KeyError(f"extension of {request.file_containing_extension.containing_type}")
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                _ = self._symbols[name]
                return {"all_extension_numbers_response": m.ExtensionNumberResponse(base_type_name=name)}
        raise KeyError("request of this kind")

    def _told(self, file: Any) -> dict[str, Any]:
        """A file, and all that it imports."""
        files: dict[str, Any] = {}
        _gather(file, files)
        protos = [each.serialized_pb for each in files.values()]
        return {"file_descriptor_response": self._m.FileDescriptorResponse(file_descriptor_proto=protos)}

    def _learn(self) -> None:
        if self._files:
            return
        for service in self._services():
            for file in (service.file, *service.carried):
                _gather(file, self._files)
        for file in self._files.values():
            for symbol in _symbols(file):
                self._symbols[symbol] = file


def _gather(file: Any, into: dict[str, Any]) -> None:
    if file.name not in into:
        into[file.name] = file
        for imported in file.dependencies:
            _gather(imported, into)


def _symbols(file: Any) -> Iterator[str]:
    for service in file.services_by_name.values():
        yield service.full_name
        yield from (method.full_name for method in service.methods)
    yield from (enum.full_name for enum in file.enum_types_by_name.values())
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        yield message.full_name
        yield from (enum.full_name for enum in message.enum_types)
        yield from (field.full_name for field in message.fields)
        waiting += message.nested_types
