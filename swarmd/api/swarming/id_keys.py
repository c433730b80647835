"""The keys that ID tokens are signed with, which anybody may verify: RS256, published as JSON Web Keys.

A key signs for 30 days; then a new one does, and the old one stays published until nothing that it signed can be alive.
All of that is wall time, for it is what those see who verify. A key signs nothing before it is in the file, so that no
token is left behind that nobody could verify. Making a key and reading one take a tenth of a second each, and PyJWT
longer to import: all of it is done on another thread, when the first token is asked for.

Source: docs/swarming.md, "Tokens inside tasks"; RFC 7517 (keys), RFC 7519 (tokens), RFC 7638 (their ids).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import trio
from msgspec import Struct

from swarmd.api.swarming import tables
from swarmd.daemon.daemon import Daemon
from swarmd.offthread import in_thread
from swarmd.store.writer import Ticket

KIND = "id"
KEY_BITS = 2048
ALGORITHM = "RS256"
SIGNS_S = 30 * 86_400.0
# After its successor was made: an hour for its tokens, the rest for a wall clock that was set back meanwhile.
KEPT_S = 86_400.0
SKEW_S = 3_600.0  # a key from further in the future signs nothing


class _Stored(Struct, frozen=True):
    """What the file has of a key."""

    jwk: dict[str, str]  # the public half, as it is published
    private: bytes  # PKCS 8, DER

    @property
    def kid(self) -> str:
        return self.jwk["kid"]


class _Key(Struct, frozen=True):
    number: int
    made_wall: float
    stored: _Stored


class IdKeys:
    """`load` reads them from the file; `sign` makes one when there is none, or the newest is too old."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._keys: list[_Key] = []  # newest first
        self._lock = trio.Lock()  # one is made at a time
        self._coming: tuple[_Stored, float, list[int], Ticket] | None = None  # on its way to the disk
        self._ready: tuple[str, Any] | None = None  # the id of the newest, and what PyJWT signs with

    async def load(self) -> None:
        rows = await self._daemon.backend.read(lambda conn: tables.keys(conn, KIND))
        self._keys = [_Key(n, made, msgspec.msgpack.decode(raw, type=_Stored)) for n, made, raw in rows]

    def published(self) -> list[dict[str, str]]:
        """The public halves of the newest key and of those whose tokens may be alive."""
        return [key.stored.jwk for key in self._keys[: self._living()]]

    def _living(self) -> int:
        """How many keys, from the newest on, are still needed."""
        now = self._daemon.clock.wall()
        for number in range(1, len(self._keys)):
            if now >= self._keys[number - 1].made_wall + KEPT_S:
                return number
        return len(self._keys)

    async def sign(self, claims: dict[str, Any]) -> str:
        """A signed token. Raises as `Daemon.settled`."""
        newest = await self._newest()
        if self._ready is None or self._ready[0] != newest.kid:
            self._ready = (newest.kid, await in_thread(_private, newest.private))
        kid, private = self._ready
        import jwt  # imported already by `_private`, on another thread

        return jwt.encode(claims, private, algorithm=ALGORITHM, headers={"kid": kid})

    async def _newest(self) -> _Stored:
        if not self._is_fresh():
            async with self._lock:
                if not self._is_fresh():
                    await self._renew()
        self._drop_old()
        return self._keys[0].stored

    def _is_fresh(self) -> bool:
        """A key from the future was made while the wall clock was wrong: it would sign for too long."""
        if not self._keys:
            return False
        return -SKEW_S <= self._daemon.clock.wall() - self._keys[0].made_wall < SIGNS_S

    async def _renew(self) -> None:
        """Makes a key, and returns when it is in the file. Whoever gives up meanwhile leaves it to the next."""
        self._daemon.check_space()
        if self._coming is None:
            stored, number = await in_thread(_make), list[int]()
            made, raw = self._daemon.clock.wall(), msgspec.msgpack.encode(stored)

            def add(conn: Any) -> None:
                number[:] = [tables.add_key(conn, KIND, made, raw)]

            self._coming = (stored, made, number, self._daemon.writer.submit(add))
        stored, made, number, ticket = self._coming
        await self._daemon.written(ticket)
        self._keys.insert(0, _Key(number[0], made, stored))
        self._coming = None

    def _drop_old(self) -> None:
        """What is not published any more leaves the file, too. Nobody waits for it."""
        living = self._living()
        if living < len(self._keys):
            number = self._keys[living].number
            del self._keys[living:]
            self._daemon.writer.submit(lambda conn: tables.drop_keys(conn, KIND, number))


def _make() -> _Stored:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
    numbers = key.public_key().public_numbers()
    jwk = {"e": _base64_of(numbers.e), "kty": "RSA", "n": _base64_of(numbers.n)}
    # RFC 7638: the digest of just these three, sorted, without blanks.
    digest = hashlib.sha256(msgspec.json.encode(jwk)).digest()
    jwk |= {"kid": _base64(digest), "use": "sig", "alg": ALGORITHM}
    return _Stored(jwk, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def _private(raw: bytes) -> Any:
    import jwt  # so that `sign` need not wait for it
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    assert jwt.algorithms.has_crypto
    return load_der_private_key(raw, password=None)


def _base64_of(number: int) -> str:
    return _base64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
