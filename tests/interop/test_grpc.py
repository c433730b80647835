"""`grpcurl`, on Go's implementation of gRPC, talks to a daemon. Real processes, so real time."""

from __future__ import annotations

import json

from swarmd.tls import server_context
from tests.api.grpc.echo import echoing
from tests.certificates import make_pair


def texts(out: str) -> list[dict[str, object]]:
    """The messages that it printed, one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(out.rstrip()):
        one, at = decoder.raw_decode(out, at + len(out[at:]) - len(out[at:].lstrip()))
        found.append(one)
    return found


async def test_it_finds_out_what_there_is(grpcurl):
    async with echoing() as (world, _):
        server = world.url.removeprefix("http://")
        listed = await grpcurl("-plaintext", server, "list")
        assert listed.code == 0, listed
        assert {"grpc.health.v1.Health", "swarmd.tests.Echo"} <= set(listed.out.split())
        shown = await grpcurl("-plaintext", server, "describe", "swarmd.tests.Echo.Chat")
        assert "rpc Chat ( stream .swarmd.tests.Text ) returns ( stream .swarmd.tests.Text );" in shown.out, (
            shown
        )


async def test_it_calls_methods_of_all_kinds(grpcurl):
    async with echoing() as (world, echo):
        server = world.url.removeprefix("http://")

        async def call(method: str, *messages: dict[str, object], more: tuple[str, ...] = ()):
            asked = "".join(json.dumps(message) for message in messages)
            return await grpcurl(
                "-plaintext", *more, "-d", "@", server, f"swarmd.tests.Echo/{method}", input=asked
            )

        assert texts((await call("Say", {"text": "größer"})).out) == [{"text": "größer"}]
        assert len(texts((await call("Count", {"number": 300})).out)) == 300
        assert texts((await call("Sum", *({"number": n} for n in range(5)))).out) == [
            {"text": "0", "number": "10"}
        ]
        chat = [{"text": str(n)} for n in range(4)]
        assert texts((await call("Chat", *chat)).out) == chat
        big = await call("Say", {"text": "size", "number": 3 << 20}, more=("-max-msg-sz", str(8 << 20)))
        assert len(texts(big.out)[0]["data"]) == 4 << 20  # base64

        refused = await call("Say", {"text": "fail 100% größer", "number": 9})
        assert (
            refused.code == 64 + 9 and "Message: 100% größer" in refused.err and "a detail" in refused.err
        ), refused
        late = await call("Say", {"text": "hold"}, more=("-max-time", "0.5"))
        assert late.code != 0 and "DeadlineExceeded" in late.err, late
        assert echo.cancelled == ["hold"]


async def test_it_speaks_tls(grpcurl, tmp_path):
    pair = make_pair(tmp_path)
    context = server_context(*pair)
    async with echoing(tls=lambda: context) as (world, _):
        server = world.url.removeprefix("https://")
        health = await grpcurl("-cacert", str(pair.cert), server, "grpc.health.v1.Health/Check")
        assert health.json == {"status": "SERVING"}
        refused = await grpcurl("-plaintext", "-connect-timeout", "3", server, "grpc.health.v1.Health/Check")
        assert refused.code != 0
