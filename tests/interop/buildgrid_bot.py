"""A bot made of BuildGrid's own modules, in a process of its own: `python -m tests.interop.buildgrid_bot TARGET`.

It opens a session in the instance `builds`, takes one lease, unpacks the Action in it, reports an ActionResult, and
prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from buildgrid._protos.google.devtools.remoteworkers.v1test2 import (
    bots_pb2,
    bots_pb2_grpc,
    command_pb2,
    worker_pb2,
)


def shapes(*modules: Any) -> dict[str, list[list[Any]]]:
    """The fields and values of all messages and enumerations, by full name."""
    found: dict[str, list[list[Any]]] = {}

    def look(message: Any) -> None:
        found[message.full_name] = [
            [f.number, f.name, f.type, (f.message_type or f.enum_type or f).full_name] for f in message.fields
        ]
        for enum in message.enum_types:
            found[enum.full_name] = [[value.number, value.name] for value in enum.values]
        for inner in message.nested_types:
            look(inner)

    for module in modules:
        for message in module.DESCRIPTOR.message_types_by_name.values():
            look(message)
        for enum in module.DESCRIPTOR.enum_types_by_name.values():
            found[enum.full_name] = [[value.number, value.name] for value in enum.values]
    return found


def main() -> None:
    with grpc.insecure_channel(sys.argv[1]) as channel:
        stub = bots_pb2_grpc.BotsStub(channel)
        session = bots_pb2.BotSession(bot_id="bg-1", status=bots_pb2.OK)
        device = session.worker.devices.add(handle="primary")
        device.properties.add(key="OSFamily", value="linux")
        request = bots_pb2.CreateBotSessionRequest(parent="builds", bot_session=session)
        session = stub.CreateBotSession(request, timeout=30)
        [lease] = session.leases
        action = re.Action()
        told = {
            "name": session.name, "version": session.version, "lease": lease.state,
            "is_action": lease.payload.Unpack(action), "do_not_cache": action.do_not_cache,
        }  # fmt: skip
        metadata = [
            (
                f"partial-execution-metadata-{lease.id}-bin",
                re.ExecutedActionMetadata(worker="bg-1").SerializeToString(),
            )
        ]
        update = bots_pb2.UpdateBotSessionRequest(name=session.name, bot_session=session)
        session = stub.UpdateBotSession(update, timeout=30, metadata=metadata)
        [lease] = session.leases
        lease.state = bots_pb2.COMPLETED
        lease.result.Pack(re.ActionResult(exit_code=3, stdout_raw=b"from an action\n"))
        update = bots_pb2.UpdateBotSessionRequest(name=session.name, bot_session=session)
        session = stub.UpdateBotSession(update, timeout=30)
        told |= {"left": len(session.leases), "shapes": shapes(bots_pb2, worker_pb2, command_pb2)}
        print(json.dumps(told))


if __name__ == "__main__":
    main()
