"""How many fields a message in binary has, before anything is built from it.

The parser makes an object of each: 60 MiB of empty messages, two bytes apiece, would take gigabytes of memory and stop
the daemon for seconds. The largest sensible request has some 120,000 fields, however many bytes these are.
"""

from __future__ import annotations

from typing import Any

MAX_FIELDS = 1 << 18
MAX_VARINT = 10  # bytes
VARINT, FIXED64, BYTES, START, END, FIXED32 = range(6)


def has_too_many_fields(data: bytes, descriptor: Any) -> bool:
    """Whether a message of the type, with all inside it, has more than `MAX_FIELDS`.

    O(MAX_FIELDS). Raises `ValueError` for what is no message; it does not find everything that the parser does.
    """
    left = MAX_FIELDS
    todo: list[tuple[int, int, Any]] = [(0, len(data), descriptor)]
    while todo:
        at, end, descriptor = todo.pop()
        fields = descriptor.fields_by_number
        while at < end:
            left -= 1
            if left < 0:
                return True
            key, at = _varint(data, at)
            wire = key & 7
            if wire == BYTES:
                size, at = _varint(data, at)
                known = fields.get(key >> 3)
                if known is not None and known.message_type is not None:
                    todo.append((at, at + size, known.message_type))
                at += size
            elif wire == VARINT:
                _, at = _varint(data, at)
            elif wire in (FIXED32, FIXED64):
                at += 4 if wire == FIXED32 else 8
            elif wire not in (
                START,
                END,
            ):  # of a group, which no message here has: what is in it counts as well
                raise ValueError("a field has no type")
        if at > end:
            raise ValueError("a field is longer than its message")
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = 0
    for number, byte in enumerate(data[at : at + MAX_VARINT]):
        value |= (byte & 127) << 7 * number
        if byte < 128:
            return value, at + number + 1
    raise ValueError("a number has no end")
