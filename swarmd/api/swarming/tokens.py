"""Tokens that the daemon signs and later knows again: a bot's session, a task's access, a bootstrap.

A token is base64 of 32 bytes HMAC-SHA256 and a msgpack array. The key is in the file, so tokens outlive the daemon.
Each purpose has its own name in front of what is signed: a token of one purpose is none for another. Moments in it are
engine time, which no jump of the wall clock moves.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from typing import TypeVar

import msgspec
from msgspec import Struct

from swarmd.api.swarming import tables
from swarmd.daemon.daemon import Daemon
from swarmd.store.writer import Ticket

KEY_BYTES = 32
MAC_BYTES = 32
MAX_TOKEN = 4_096  # characters

T = TypeVar("T", bound="Signed")


class TokenFault(Exception):
    """A token that is none. `expired`: it was a good one."""

    def __init__(self, message: str, *, expired: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.expired = expired


class Signed(Struct, frozen=True, array_like=True):
    """What all tokens say first: until when (engine time) they are good."""

    expires_at: float


class SessionToken(Signed, frozen=True, array_like=True):
    """A bot's session. An older one stays good when a newer one was given: two processes of a bot use them in
    parallel."""

    bot: str
    session_key: str  # chosen by the bot's process when it started
    config: str  # digest of what its handshake delivered
    rbe: str = ""  # the session of its calls for leases, if it has one


class AccessToken(Signed, frozen=True, array_like=True):
    """What a running task may show to the daemon's own API: good while that attempt runs."""

    task: int
    attempt: int
    scopes: tuple[str, ...]


class BootstrapToken(Signed, frozen=True, array_like=True):
    """Lets a machine fetch the bot's code once it has been told to."""

    nonce: str


class Signer:
    """Signs and checks. `load` reads the key; `ready` must have returned once before anything is signed."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._key = b""
        self._made: tuple[bytes, Ticket] | None = (
            None  # on its way to the disk: nothing is signed with it yet
        )

    async def load(self) -> None:
        """Reads the key from the file, if there is one: tokens of an earlier daemon are good again."""
        found = await self._daemon.backend.read(lambda conn: tables.keys(conn, "session"))
        if found:
            self._key = bytes(found[0][2])

    async def ready(self) -> None:
        """There is a key now, and it is on disk. Raises as `Daemon.settled`.

        Whoever comes while the first one waits, waits for the same key, also when the first one has given up.
        """
        if self._key:
            return
        self._daemon.check_space()
        if self._made is None:
            key, wall = secrets.token_bytes(KEY_BYTES), self._daemon.clock.wall()
            ticket = self._daemon.writer.submit(lambda conn: tables.add_key(conn, "session", wall, key))
            self._made = (key, ticket)
        made, ticket = self._made
        await self._daemon.written(ticket)
        self._key = made

    def sign(self, token: Signed) -> str:
        assert self._key, "ready() was not awaited"
        return sign(self._key, token)

    def read(self, text: object, kind: type[T], now: float) -> T:
        """The token in a text. Raises `TokenFault` with what is wrong with it."""
        return read(self._key, text, kind, now)


def sign(key: bytes, token: Signed) -> str:
    payload = msgspec.msgpack.encode(token)
    text = base64.b64encode(_mac(key, type(token), payload) + payload).decode("ascii")
    assert len(text) <= MAX_TOKEN, "what goes into tokens has bounds"
    return text


def read(key: bytes, text: object, kind: type[T], now: float) -> T:
    """The token in a text. Raises `TokenFault` with what is wrong with it. With no key, no token is good."""
    token = _read(key, text, kind)
    if token.expires_at <= now:
        raise TokenFault("the token has expired", expired=True)
    return token


def _read(key: bytes, text: object, kind: type[T]) -> T:
    if text is None or text == "":
        raise TokenFault("no token was given")
    if not isinstance(text, str) or len(text) > MAX_TOKEN:
        raise TokenFault("the token is no token")
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise TokenFault("the token is no base64") from None
    if base64.b64encode(raw).decode("ascii") != text:  # the last letter has unused bits: one token, one text
        raise TokenFault("the token is no base64")
    mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not key or not hmac.compare_digest(mac, _mac(key, kind, payload)):
        raise TokenFault("the token was not signed by this daemon")
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # the latter for a text that is none
        raise TokenFault("the token is of another version") from None


def _mac(key: bytes, kind: type[Signed], payload: bytes) -> bytes:
    return hmac.digest(key, kind.__name__.encode() + b"\0" + payload, "sha256")
