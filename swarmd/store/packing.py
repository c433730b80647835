"""How output bytes are kept: deflated when that makes them smaller, with one byte in front that tells which."""

from __future__ import annotations

import zlib

PLAIN, DEFLATED = b"\0", b"\1"
MIN_DEFLATED = 128  # shorter ones do not shrink
LEVEL = 1


def pack(data: bytes) -> bytes:
    if len(data) >= MIN_DEFLATED:
        packed = zlib.compress(data, LEVEL)
        if len(packed) < len(data):
            return DEFLATED + packed
    return PLAIN + data


def unpack(packed: bytes, size: int) -> bytes:
    """The bytes that were packed. Raises ValueError when they are not `size` bytes or damaged."""
    if packed[:1] == DEFLATED:
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(packed[1:], size + 1)
        except zlib.error as error:
            raise ValueError(f"damaged output: {error}") from None
        if len(data) == size and not unpacker.eof:
            raise ValueError("damaged output: it is cut off")
    elif packed[:1] == PLAIN:
        data = packed[1:]
    else:
        raise ValueError("damaged output: it is packed in an unknown way")
    if len(data) != size:
        raise ValueError(f"output has {len(data)} bytes instead of {size}")
    return data
