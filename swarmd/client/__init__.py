"""The async client of swarmd's native API.

async with swarmd.client.open_client() as client:
    ids = await client.submit([task(argv=["make", "test"])])
    for done in await client.wait(ids):
        print(done.id, done.state)
"""

from swarmd.api.native.messages import ArrayRange as array
from swarmd.api.native.messages import BotOrderRequest, Filter, GraphRequest, SubmitRequest
from swarmd.api.native.messages import Dependency as dependency
from swarmd.api.native.messages import TaskRequest as task
from swarmd.client.calls import Client, open_client
from swarmd.client.errors import ApiError, BadSetting, ClientError, StrangeAnswer, Unreachable
from swarmd.client.reading import OutputEvent, OutputSlice, StateEvent

__all__ = [
    "ApiError",
    "BadSetting",
    "BotOrderRequest",
    "Client",
    "ClientError",
    "Filter",
    "GraphRequest",
    "OutputEvent",
    "OutputSlice",
    "StateEvent",
    "StrangeAnswer",
    "SubmitRequest",
    "Unreachable",
    "array",
    "dependency",
    "open_client",
    "task",
]
