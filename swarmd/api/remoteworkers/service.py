"""The service Bots, as the edge of gRPC serves it."""

from __future__ import annotations

from google.protobuf import empty_pb2
from google.rpc import error_details_pb2

from swarmd.api.grpc import Rpc, Service
from swarmd.api.remoteworkers.bots import BotHandlers
from swarmd.api.remoteworkers.context import Context
from swarmd.api.remoteworkers.proto import bots_pb2, command_pb2
from swarmd.api.routes import MIB, Verb

MAX_UPDATE = 16 * MIB  # an update carries the payload and the result of each lease
BOTS = "google.devtools.remoteworkers.v1test2.Bots"


def service(context: Context) -> Service:
    bots = BotHandlers(context)
    session = bots_pb2.BotSession
    rpcs = (
        Rpc(
            name="CreateBotSession", request=bots_pb2.CreateBotSessionRequest, answer=session,
            handler=bots.create_bot_session, verb=Verb.BE_A_BOT,
        ),
        Rpc(
            name="UpdateBotSession", request=bots_pb2.UpdateBotSessionRequest, answer=session,
            handler=bots.update_bot_session, verb=Verb.BE_A_BOT, limit=MAX_UPDATE,
        ),
        Rpc(
            name="PostBotEventTemp", request=bots_pb2.PostBotEventTempRequest, answer=empty_pb2.Empty,
            handler=bots.post_bot_event_temp, verb=Verb.BE_A_BOT,
        ),
    )  # fmt: skip
    carried = (command_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)
    return Service(name=BOTS, rpcs=rpcs, file=bots_pb2.DESCRIPTOR, carried=carried)
