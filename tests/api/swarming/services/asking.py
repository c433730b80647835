"""Calls of the service `Bots`, with their answers as messages."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory

from swarmd.testing import Lab
from tests.api.swarming.prpc.calls import call, fault, message

BOTS = "swarming.v2.Bots"
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION = (3, 400), (5, 404), (9, 400)


def types_of(name: str) -> tuple[Any, Any]:
    """The classes of the request and the answer of a method."""
    from swarmd.api.swarming.proto import bots_pb2

    assert bots_pb2.DESCRIPTOR.package == "swarming.v2"
    method = descriptor_pool.Default().FindServiceByName(BOTS).methods_by_name[name]
    request, answer = (message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type))
    return request, answer


async def ask(lab: Lab, name: str, *headers: tuple[str, str], **fields: Any) -> Any:
    """The answer of a good call."""
    request, answer = types_of(name)
    return message(await call(lab.url, f"{BOTS}/{name}", request(**fields), *headers), answer)


async def refused(lab: Lab, name: str, code: tuple[int, int] = INVALID_ARGUMENT, **fields: Any) -> str:
    """The text of a call that fails so."""
    request, _ = types_of(name)
    return fault(await call(lab.url, f"{BOTS}/{name}", request(**fields)), *code)


async def ids_of(lab: Lab, **fields: Any) -> list[str]:
    """The bots that are listed."""
    return [bot.bot_id for bot in (await ask(lab, "ListBots", **fields)).items]


def dimensions(**wanted: str | list[str]) -> list[dict[str, str]]:
    """A filter."""
    return [
        {"key": key, "value": value}
        for key, values in wanted.items()
        for value in (values if isinstance(values, list) else [values])
    ]
