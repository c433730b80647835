"""Health and reflection, as generic tools ask for them."""

from __future__ import annotations

import msgspec
import pytest
import trio
from google.protobuf import descriptor_pb2, descriptor_pool

from swarmd.api.proto import health_pb2, reflection_pb2, reflection_v1alpha_pb2
from swarmd.config import Config

from .echo import echoing
from .raw_client import RawClient, framed
from .test_wire import connect, connected

HEALTH = b"/grpc.health.v1.Health/"
Request, Response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse


async def test_check_and_list(autojump_clock):
    async with connected() as (_, _, client):
        for name in ("", "swarmd.tests.Echo", "grpc.health.v1.Health"):
            answer = await client.answer(
                await client.call(HEALTH + b"Check", Request(service=name).SerializeToString())
            )
            assert Response.FromString(answer.messages[0]).status == Response.SERVING
        answer = await client.answer(
            await client.call(HEALTH + b"Check", Request(service="no").SerializeToString())
        )
        assert answer.status == 5
        answer = await client.answer(await client.call(HEALTH + b"List", b""))
        statuses = health_pb2.HealthListResponse.FromString(answer.messages[0]).statuses
        assert {"", "swarmd.tests.Echo", "grpc.reflection.v1.ServerReflection"} <= set(statuses)


@pytest.mark.parametrize(
    ("service", "statuses"),
    [
        ("", [Response.SERVING, Response.NOT_SERVING]),
        ("no", [Response.SERVICE_UNKNOWN, Response.NOT_SERVING]),
    ],
)
async def test_watch_tells_of_the_stop(service, statuses, autojump_clock):
    async with trio.open_nursery() as nursery, echoing() as (world, _):
        stream = await connect(world)
        client = RawClient(stream, world.url.removeprefix("http://").encode())
        call = await client.call(HEALTH + b"Watch", Request(service=service).SerializeToString())
        await trio.sleep(100)
        found = []

        async def read():
            answer = await client.answer(call)
            found.extend(Response.FromString(m).status for m in answer.messages)
            assert answer.status == 0
            await stream.aclose()

        nursery.start_soon(read)
    assert found == statuses


async def test_only_check_and_list_need_no_token(autojump_clock, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    config = msgspec.structs.replace(Config(), token_file=str(token), trust_loopback=False)
    async with connected(config=config) as (_, _, client):
        paths = (b"Check", b"List", b"Watch")
        statuses = [(await client.answer(await client.call(HEALTH + path, b""))).status for path in paths]
        assert statuses == [0, 0, 16]
        reflection = await client.call(b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"")
        assert (await client.answer(reflection)).status == 16


@pytest.mark.parametrize("m", [reflection_pb2, reflection_v1alpha_pb2])
async def test_reflection(m, autojump_clock):
    async with connected() as (_, _, client):
        call = await client.begin(f"/{m.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo".encode())
        asks = [
            {"list_services": "*"},
            {"file_containing_symbol": "swarmd.tests.Echo"},
            {"file_containing_symbol": "swarmd.tests.Echo.Say"},
            {"file_containing_symbol": "swarmd.tests.Text.number"},
            {"file_by_filename": "tests/api/grpc/echo.proto"},
            {"file_containing_symbol": "swarmd.tests.Nothing"},
            {"file_by_filename": "etc/passwd"},
            {"file_containing_extension": {"containing_type": "swarmd.tests.Text", "extension_number": 3}},
            {"all_extension_numbers_of_type": "swarmd.tests.Text"},
            {"all_extension_numbers_of_type": "swarmd.tests.Nothing"},
            {},
        ]
        for ask in asks:
            await client.data(call, framed(m.ServerReflectionRequest(host="h", **ask).SerializeToString()))
        await client.data(call, b"", end=True)
        answers = [m.ServerReflectionResponse.FromString(a) for a in (await client.answer(call)).messages]
        assert len(answers) == len(asks) and all(a.valid_host == "h" for a in answers)
        listed, *files = answers[:5]
        names = [s.name for s in listed.list_services_response.service]
        assert "swarmd.tests.Echo" in names and f"{m.DESCRIPTOR.package}.ServerReflection" in names
        for answer in files:
            pool = descriptor_pool.DescriptorPool()
            for raw in reversed(answer.file_descriptor_response.file_descriptor_proto):
                pool.Add(descriptor_pb2.FileDescriptorProto.FromString(raw))
            assert pool.FindServiceByName("swarmd.tests.Echo").methods_by_name["Chat"].server_streaming
        codes = [a.error_response.error_code for a in answers[5:]]
        assert codes == [5, 5, 5, 0, 5, 5]
        assert answers[8].all_extension_numbers_response.base_type_name == "swarmd.tests.Text"
