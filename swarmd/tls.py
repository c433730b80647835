"""TLS on a trio socket, for both sides, and the daemon's certificate.

Not trio's own `SSLStream`: the server ends its half of a connection while it reads on, which that cannot do.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Any

import trio

from swarmd.config import ConfigError

RECEIVE_BYTES = 64 * 1024
PROTOCOLS = ("h2", "http/1.1")
# For TLS 1.2: what HTTP/2 allows (RFC 9113, appendix A).
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks TLS: write https:// in front of the address.\n"
)


class TlsFailed(Exception):
    """The other side does not speak TLS, or has no certificate that counts."""


class TlsStream(trio.abc.HalfCloseableStream):
    """A connection in TLS, with what a `trio.SocketStream` can do; `handshake` comes first."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext, host: str | None = None) -> None:
        """`host`: who the server must be; without it we are the server."""
        self.socket = stream.socket
        self._stream = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=host is None, server_hostname=host)
        self._sending = trio.Lock()

    @property
    def protocol(self) -> str | None:
        """What both sides chose to speak (ALPN), if they did."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> None:
        """Raises `TlsFailed`, `trio.BrokenResourceError`."""
        while True:
            try:
                self._tls.do_handshake()
                await self._flush()
                return
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError as error:
                await self._tell_why(error)
                raise TlsFailed(_reason(error)) from None
            await self._take()

    async def _tell_why(self, error: ssl.SSLError) -> None:
        if self._tls.server_side and error.reason == "HTTP_REQUEST":
            self._out.read()
            await self._stream.send_all(PLAIN_ANSWER)
        else:
            await self._flush()  # an alert

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self._tls.read(max_bytes or RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._take()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(_reason(error)) from error
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data

    async def _take(self) -> None:
        """What came; raises `trio.BrokenResourceError`."""
        data = await self._stream.receive_some(RECEIVE_BYTES)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            if not data:
                return
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(_reason(error)) from error
            await self._stream.send_all(self._out.read())

    async def _flush(self) -> None:
        """Sends what TLS itself has to say."""
        if self._out.pending:
            async with self._sending:
                if data := self._out.read():
                    await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Says in TLS and in TCP that nothing more comes."""
        async with self._sending:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the other side has not said it yet
            if data := self._out.read():
                await self._stream.send_all(data)
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or (error.reason or str(error)).replace("_", " ").lower()


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """For the daemon's certificate. Raises `ConfigError`."""

    def no_password() -> Any:
        raise ConfigError(f"the TLS key {key} is encrypted", f"openssl pkey -in {key} -out plain.pem")

    for path, what in ((cert, "certificate"), (key, "key")):
        try:
            mode = path.stat().st_mode
            with path.open("rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"cannot read the TLS {what} {path}: {error.strerror}",
                "give --tls-cert and --tls-key PEM files",
            ) from None
    if mode & stat.S_IRWXO:
        raise ConfigError(f"everybody may read the TLS key {key}", f"chmod o= {key}", "token_exposed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"the TLS key {key} is not that of the first certificate in {cert}",
                "give the pair that was made together",
            ) from None
        raise ConfigError(
            f"the TLS certificate {cert} or key {key} is no PEM file: {_reason(error)}",
            f"look at them: openssl x509 -in {cert}; openssl pkey -in {key} -noout",
        ) from None
    return context


def client_context() -> ssl.SSLContext:
    """Believes whom the system does; `SSL_CERT_FILE` names others."""
    return ssl.create_default_context()
