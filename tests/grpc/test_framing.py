"""Messages in a body, and what a few bytes may inflate to."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from swarmd.grpc.codes import Code, WireFault
from swarmd.grpc.framing import Deframer, deflated, inflated, prefix

MIB = 1 << 20


@pytest.mark.parametrize("size", [1, 3, 5, 7, 100])
def test_messages_may_come_in_any_pieces(size):
    messages = [b"", b"a", b"b" * 300, b"", b"c" * 7]
    body = b"".join(prefix(m, n % 2 == 1) + m for n, m in enumerate(messages))
    held: list[int] = []
    deframer, found = Deframer(300, True, held.append), []
    for at in range(0, len(body), size):
        deframer.feed(body[at : at + size])
        while (one := deframer.next()) is not None:
            found.append(one)
    assert found == [(n % 2 == 1, m) for n, m in enumerate(messages)] and not deframer.begun
    assert list(dict.fromkeys(held)) == [0, 1, 300, 7], "the length of each is told before it is there"


def test_a_message_that_is_too_long_is_refused_by_its_head():
    deframer = Deframer(10, False, lambda length: None)
    deframer.feed(prefix(b"x" * 10, False) + b"x" * 10 + prefix(b"x" * 11, False))
    assert deframer.next() == (False, b"x" * 10)
    with pytest.raises(WireFault) as caught:
        deframer.next()
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("coding", "make"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_bomb_is_stopped_at_the_limit(coding, make):
    bomb = make(bytes(100 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(WireFault) as caught:
            inflated(bomb, coding, MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code is Code.RESOURCE_EXHAUSTED and peak < 4 * MIB
    assert inflated(make(bytes(MIB)), coding, MIB) == bytes(MIB)


def test_what_we_compress_others_read():
    assert gzip.decompress(deflated(b"x" * 10_000)) == b"x" * 10_000
