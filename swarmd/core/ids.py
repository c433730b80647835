"""Ids: sortable 63-bit integers of milliseconds and a counter, and their 13-character text form."""

from __future__ import annotations

COUNTER_BITS = 20
MAX_ID = (1 << 63) - 1
TEXT_LENGTH = 13  # 13 × 5 bits hold 63
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_VALUES = {c: n for n, c in enumerate(ALPHABET)} | {c.upper(): n for n, c in enumerate(ALPHABET)}


class IdSource:
    """Gives ids that grow: the millisecond of engine time above a counter, never below the last one given."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self, now: float) -> int:
        id, earliest = self.last + 1, int(now * 1000) << COUNTER_BITS
        if id < earliest:
            id = earliest
        assert 0 < id <= MAX_ID, f"engine time {now} is out of range for ids"
        self.last = id
        return id


_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]  # two characters hold ten bits
_PAIR_VALUES = {pair: n for n, pair in enumerate(_PAIRS)}


def to_text(id: int) -> str:
    """The text form of an id: 13 characters of base 32; texts sort as the ids do."""
    assert 0 <= id <= MAX_ID
    pairs = _PAIRS
    return (
        ALPHABET[id >> 60]
        + pairs[id >> 50 & 1023]
        + pairs[id >> 40 & 1023]
        + pairs[id >> 30 & 1023]
        + pairs[id >> 20 & 1023]
        + pairs[id >> 10 & 1023]
        + pairs[id & 1023]
    )


def from_text(text: str) -> int | None:
    """The id of a text form, in either case, or None when it is not one."""
    if len(text) != TEXT_LENGTH:
        return None
    try:
        id = _VALUES[text[0]]
        for start in range(1, TEXT_LENGTH, 2):
            id = id << 10 | _PAIR_VALUES[text[start : start + 2]]
    except KeyError:
        return from_text(text.lower()) if text.isascii() and text != text.lower() else None
    return id if id <= MAX_ID else None


def made_at(id: int) -> float:
    """The engine time at which an id was made, to the millisecond."""
    return (id >> COUNTER_BITS) / 1000
