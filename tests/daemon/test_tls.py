"""TLS: the stream, the certificate's files, and the daemon behind it."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import sys

import pytest
import trio

from swarmd.client import Unreachable, open_client, task
from swarmd.config import Config, ConfigError
from swarmd.daemon.server import ServerSettings
from swarmd.testing.harness import running
from swarmd.tls import TlsFailed, TlsStream, server_context
from tests.api.grpc.echo import echoing
from tests.api.grpc.raw_client import RawClient
from tests.api.grpc.test_grpcio import client as grpcio
from tests.certificates import make_pair

from .test_main import eventually, serving

MIB = 1 << 20


@pytest.fixture
def pair(tmp_path, monkeypatch):
    pair = make_pair(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pair.cert))
    return pair


def believing(pair):
    return ssl.create_default_context(cafile=pair.cert)


async def both_ends(pair, context=None):
    one, other = socket.socketpair()
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(s)) for s in (one, other)]
    server = TlsStream(streams[0], server_context(*pair))
    return server, TlsStream(streams[1], context or believing(pair), "localhost")


async def shaken(pair):
    server, client = await both_ends(pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handshake)
        await client.handshake()
    return server, client


# ------------------------------------------------------------------ the stream


async def test_much_in_both_directions_at_once(pair):
    server, client = await shaken(pair)
    there, back = random.Random(1).randbytes(5 * MIB), random.Random(2).randbytes(5 * MIB)

    async def read(stream, size):
        data = bytearray()
        while len(data) < size:
            data += await stream.receive_some()
        got.append(bytes(data))

    got = []
    async with server, client, trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, back)
        nursery.start_soon(client.send_all, there)
        nursery.start_soon(read, server, len(there))
        nursery.start_soon(read, client, len(back))
    assert sorted(got) == sorted([there, back])


async def test_one_half_ends_before_the_other(pair):
    server, client = await shaken(pair)
    async with server, client:
        await server.send_all(b"last words")
        await server.send_eof()
        assert await client.receive_some() == b"last words"
        assert await client.receive_some() == b""
        await client.send_all(b"still here")
        assert await server.receive_some() == b"still here"
        await client.send_eof()
        assert await server.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"too late")


async def test_an_end_without_a_word_is_an_end(pair):
    server, client = await shaken(pair)
    async with server:
        await client._stream.send_eof()
        assert await server.receive_some() == b""
        await client.aclose()


async def test_what_is_no_tls_breaks_the_stream(pair):
    server, client = await shaken(pair)
    async with server, client:
        await client._stream.send_all(b"\x17\x03\x03\0\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()


async def test_who_is_not_believed(pair):
    server, client = await both_ends(
        pair, ssl.create_default_context(cafile=make_pair(pair.cert.parent, "b").cert)
    )

    async def serve():
        with pytest.raises(TlsFailed):
            await server.handshake()

    async with server, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(TlsFailed, match=r"self.signed certificate|unable to get local issuer"):
            await client.handshake()
        await client.aclose()


# ------------------------------------------------------------------ the files


def test_a_certificate_needs_its_key():
    with pytest.raises(ConfigError, match="tls_key is missing"):
        Config(tls_cert="a.pem")
    with pytest.raises(ConfigError, match="tls_cert is missing"):
        Config(tls_key="a.pem")


@pytest.mark.parametrize(
    ("wrong", "says", "does"),
    [
        ("missing", "cannot read the TLS certificate .*none.pem: No such file", "give --tls-cert"),
        ("exposed", "everybody may read the TLS key", "chmod o= "),
        ("other", "is not that of the first certificate", "made together"),
        ("none", "is no PEM file", "openssl x509 -in"),
        ("encrypted", "is encrypted", "openssl pkey"),
        ("swapped", "is no PEM file", "openssl"),
    ],
)
def test_files_that_cannot_be_used(pair, tmp_path, wrong, says, does):
    cert, key = pair
    match wrong:
        case "missing":
            cert = tmp_path / "none.pem"
        case "exposed":
            key.chmod(0o644)
        case "other":
            key = make_pair(tmp_path, "other").key
        case "none":
            cert.write_text("hello")
        case "encrypted":
            cert, key = make_pair(tmp_path, "secret", b"a password")
        case "swapped":
            cert, key = key, cert
            key.chmod(0o600)
    with pytest.raises(ConfigError, match=says) as caught:
        server_context(cert, key)
    assert does in caught.value.remedy


# ------------------------------------------------------------------ the daemon


def over_tls(pair, **how):
    context = server_context(*pair)
    return {"tcp": True, "tls": lambda: context, **how}


async def connected(world, pair, protocols=("http/1.1",)):
    context = believing(pair)
    context.set_alpn_protocols(protocols)
    stream = TlsStream(
        await trio.open_tcp_stream("127.0.0.1", int(world.url.rpartition(":")[2])), context, "localhost"
    )
    await stream.handshake()
    return stream


async def test_our_own_client(pair, autojump_clock):
    async with running(**over_tls(pair)) as world:
        assert world.url.startswith("https://127.0.0.1:")
        blob = random.Random(3).randbytes(3 * MIB)
        digest = (await world.client.upload_bytes(blob)).sha256
        found = bytearray()
        await world.client.save_blob(digest, found.extend)
        assert found == blob
        [id] = await world.client.submit([task(argv=["a"])])
        assert (await world.client.get(id)).state == "PENDING"


async def test_a_client_that_believes_somebody_else_is_told(pair, tmp_path, monkeypatch, autojump_clock):
    async with running(**over_tls(pair)) as world:
        monkeypatch.setenv("SSL_CERT_FILE", str(make_pair(tmp_path, "other").cert))
        async with open_client(world.url, patience_s=0) as client:
            with pytest.raises(Unreachable, match="SSL_CERT_FILE"):
                await client.health()


async def test_the_protocol_is_chosen_in_the_handshake(pair, autojump_clock):
    async with echoing(**over_tls(pair)) as (world, _):
        async with await connected(world, pair, ["h2", "http/1.1"]) as stream:
            assert stream.protocol == "h2"
            assert (await RawClient(stream, b"localhost").say("a")).status == 0
        for protocols in (["http/1.1"], ["other", "http/1.1"]):
            async with await connected(world, pair, protocols) as stream:
                assert stream.protocol == "http/1.1"
                request = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                await stream.send_all(request)
                data = b""
                while more := await stream.receive_some():
                    data += more
                assert data.startswith(b"HTTP/1.1 200") and data.endswith(b"}")


async def test_googles_client(pair):
    async with echoing(**over_tls(pair)) as (world, _):
        assert await grpcio(world.url, "unary") == ["hello 0", "hello 1", "hello 2"]
        assert (await grpcio(world.url, "sizes"))[-1] == "RESOURCE_EXHAUSTED"


async def test_who_speaks_no_tls_is_told_so_in_plain(pair, autojump_clock):
    async with running(**over_tls(pair)) as world:
        stream = await trio.open_tcp_stream("127.0.0.1", int(world.url.rpartition(":")[2]))
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"https://" in await stream.receive_some()
            assert await stream.receive_some() == b""


async def test_a_handshake_must_come_in_time_and_may_be_anything(pair, autojump_clock):
    limits = ServerSettings(header_s=30)
    async with running(**over_tls(pair, limits=limits)) as world:
        rng = random.Random(4)
        for data in (b"", b"\x16\x03\x01\x02", *(rng.randbytes(rng.randrange(1, 300)) for _ in range(50))):
            stream = await trio.open_tcp_stream("127.0.0.1", int(world.url.rpartition(":")[2]))
            since = trio.current_time()
            async with stream:
                await stream.send_all(data)
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
            assert trio.current_time() - since <= 30.001
        assert (await world.client.health()).status == "ok"


def test_a_certificate_is_renewed_without_a_restart(tmp_path):
    pair, newer = make_pair(tmp_path, "one"), make_pair(tmp_path, "two")
    log = tmp_path / "log"
    flags = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    with serving(tmp_path, *flags, log=log) as (process, url):
        assert url.startswith("https://")
        port = int(url.rpartition(":")[2])
        assert ssl.get_server_certificate(("127.0.0.1", port)).strip() == pair.cert.read_text().strip()
        old = pair.cert.read_text()
        pair.cert.write_text("broken")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "reload.refused" in log.read_text())
        assert ssl.get_server_certificate(("127.0.0.1", port)).strip() == old.strip()
        os.replace(newer.cert, pair.cert)
        os.replace(newer.key, pair.key)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in log.read_text())
        assert ssl.get_server_certificate(("127.0.0.1", port)).strip() == pair.cert.read_text().strip()
        command = [sys.executable, "-m", "swarmd", "tasks", "--server", url]
        env = {**os.environ, "SSL_CERT_FILE": str(pair.cert)}
        assert subprocess.run(command, env=env, capture_output=True).returncode == 0
