"""What Google's client does, in a process of its own: `python -m tests.api.grpc.grpcio_client TARGET SCENARIO`.

Each scenario is a function of a channel; what it returns is printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
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
        answers = pool.map(lambda n: echo.say(Text(number=n), timeout=20).number, range(1_500))
        return sum(answers)


def statuses(echo: Echo) -> Any:
    asked = [(code, f"100% größer {code}\n") for code in range(1, 17)]
    found = [attempt(partial(echo.say, Text(text=f"fail {text}", number=code))) for code, text in asked]
    return [*found, attempt(partial(echo.missing, Text())), attempt(partial(echo.raw, b"\xff\xff"))]


def core_errors(echo: Echo) -> Any:
    return [attempt(partial(echo.say, Text(text=text))) for text in ("unknown", "busy", "broken")]


def metadata(echo: Echo) -> Any:
    asked = (("asked", "a text"), ("asked-bin", b"\0\xff"), ("long", "x" * 7_000))
    answer, call = echo.say.with_call(Text(text="metadata"), metadata=asked)
    fields = {m.key: m.value for m in (*call.initial_metadata(), *call.trailing_metadata())}
    found = {
        k: v.hex() if isinstance(v, bytes) else v for k, v in fields.items() if k[:4] in ("firs", "last")
    }
    return [answer.text, answer.data.hex(), found]


def deadlines(echo: Echo) -> Any:
    began = time.monotonic()
    found = [
        attempt(partial(echo.say, Text(text="hold"), timeout=0.3)),
        attempt(lambda: list(echo.count(Text(text="hold", number=3), timeout=0.3))),
    ]
    assert time.monotonic() - began < 10
    return found


def cancels(echo: Echo) -> Any:
    held = echo.say.future(Text(text="hold"))
    streamed = echo.count(Text(text="hold", number=3))
    assert next(streamed).number == 0
    held.cancel()
    streamed.cancel()
    return [
        attempt(held.result) if not held.cancelled() else {"code": held.code().name},
        attempt(lambda: next(streamed)),
    ]


def sizes(echo: Echo) -> Any:
    big = echo.say(Text(text="size", number=6 << 20, data=b"x" * (6 << 20)))
    up = echo.sum(Text(number=1, data=b"x" * (1 << 20)) for _ in range(64))
    down = list(echo.count(Text(number=50, data=b"x" * (1 << 20))))
    over = attempt(partial(echo.say, Text(data=b"x" * (17 << 20))))
    return [len(big.data), big.number, up.number, up.text, sum(len(t.data) for t in down), over["code"]]


def streams(echo: Echo) -> Any:
    down = [t.number for t in echo.count(Text(number=4))]
    up = echo.sum(Text(number=n) for n in range(5)).number
    both = [t.text for t in echo.chat(Text(text=str(n)) for n in range(6))]
    turns, answers = SimpleQueue[Text | None](), []
    talk = echo.chat(iter(turns.get, None))
    for n in range(3):  # one question, one answer
        turns.put(Text(number=n))
        answers.append(next(talk).number)
    turns.put(None)
    broken = echo.count(Text(text="fail", number=2))
    seen = [next(broken).number, next(broken).number]
    early = echo.sum(Text(text="enough") for _ in range(10_000))
    return [down, up, both, answers, list(talk), seen, attempt(lambda: next(broken))["code"], early.text]


def compressed(echo: Echo) -> Any:
    found = []
    for coding in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        answer = echo.say(Text(text="a", data=b"x" * 100_000), compression=coding)
        found.append(len(answer.data))
        found.append(echo.sum((Text(data=b"y" * 5_000) for _ in range(3)), compression=coding).text)
    return found


def held(echo: Echo, count: str) -> Any:
    """Says when all are sent, and how they ended."""
    futures = [echo.say.future(Text(text="hold", number=n), timeout=60) for n in range(int(count))]
    print("sent", flush=True)
    codes = [future.code().name for future in futures]
    after = attempt(partial(echo.say, Text(text="after"), timeout=2))
    return [{name: codes.count(name) for name in set(codes)}, after["code"]]


def _channel(target: str) -> grpc.Channel:
    if not target.startswith("https://"):
        return grpc.insecure_channel(target, OPTIONS)
    believed = grpc.ssl_channel_credentials(Path(os.environ["SSL_CERT_FILE"]).read_bytes())
    return grpc.secure_channel(target.removeprefix("https://"), believed, OPTIONS)


def main() -> None:
    target, name = sys.argv[1:3]
    with _channel(target) as channel:
        print(json.dumps(globals()[name](Echo(channel), *sys.argv[3:])))


if __name__ == "__main__":
    main()
