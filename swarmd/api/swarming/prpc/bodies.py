"""Bodies of requests and answers: gzip in both directions, with a bound on what a request inflates to."""

from __future__ import annotations

import zlib

from swarmd.api.problems import TooLarge
from swarmd.grpc.framing import deflated as deflated  # the same on both wires

MAX_MEMBERS = 16  # gzip files in a row, as in a file that was appended to: each costs a copy of the rest
GZIP_ABOVE = 1024  # bytes of an answer
_GZIP = 31  # zlib's word for: a gzip header and trailer, the largest window


class BadGzip(ValueError):
    """A body that is not what `Content-Encoding: gzip` says."""


def inflated(data: bytes, limit: int) -> bytes:
    """What was compressed. Raises `TooLarge` before it is more than `limit` bytes, `BadGzip` for what is no gzip."""
    parts: list[bytes] = []
    size = 0
    for _ in range(MAX_MEMBERS):
        inflater = zlib.decompressobj(_GZIP)
        try:
            part = inflater.decompress(data, limit - size + 1)
        except zlib.error as error:
            raise BadGzip(f"the body is no gzip: {error}") from None
        parts.append(part)
        size += len(part)
        if size > limit:
            raise TooLarge(limit)
        if not inflater.eof:
            raise BadGzip("the body is no gzip: it ends early")
        data = inflater.unused_data
        if not data:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise BadGzip(f"the body has more than {MAX_MEMBERS} gzip files in a row")
