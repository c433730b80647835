"""What Google's client does, in a process of its own: `python -m tests.api.grpc.grpcio_client TARGET SCENARIO`.

Each scenario is a function of a channel; what it returns is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.api.grpc.echo_pb2 import Text

SERVICE = "/swarmd.tests.Echo/"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Echo:
    def __init__(self, channel: grpc.Channel) -> None:
        how = {"request_serializer": Text.SerializeToString, "response_deserializer": Text.FromString}
        self.channel = channel
        self.say = channel.unary_unary(SERVICE + "Say", **how)
        self.count = channel.unary_stream(SERVICE + "Count", **how)
        self.sum = channel.stream_unary(SERVICE + "Sum", **how)
        self.chat = channel.stream_stream(SERVICE + "Chat", **how)
        self.missing = channel.unary_unary(SERVICE + "Missing", **how)
        self.raw = channel.unary_unary(SERVICE + "Say")


def told(error: grpc.RpcError) -> dict[str, Any]:
    trailers = {m.key: m.value for m in error.trailing_metadata() or ()}
    return {
        "code": error.code().name,
        "message": error.details(),
        "trailers": {k: v.hex() if isinstance(v, bytes) else v for k, v in trailers.items()},
    }


def attempt(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        call()
    except grpc.RpcError as error:
        return told(error)
    return {"code": "OK"}


# ------------------------------------------------------------------ scenarios


def unary(echo: Echo) -> Any:
    return [echo.say(Text(text=f"hello {n}"), timeout=10).text for n in range(3)]


def many(echo: Echo) -> Any:
    with ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda n: echo.say(Text(number=n), timeout=20).number, range(1_000))
        return sum(answers)


def main() -> None:
    target, name = sys.argv[1:3]
    with grpc.insecure_channel(target, OPTIONS) as channel:
        print(json.dumps(globals()[name](Echo(channel), *sys.argv[3:])))


if __name__ == "__main__":
    main()
