"""Compression, and what it may cost."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from swarmd.api.problems import TooLarge
from swarmd.api.swarming.prpc.bodies import MAX_MEMBERS, BadGzip, deflated, inflated

MIB = 1 << 20


def test_what_was_deflated_comes_back():
    for data in (b"", b"x", bytes(MIB), bytes(range(256)) * 999):
        assert inflated(deflated(data), len(data)) == data
        assert gzip.decompress(deflated(data)) == data
    assert deflated(b"x") == deflated(b"x")  # no time of day in it


def test_the_limit_is_exact():
    data = gzip.compress(bytes(1_000))
    assert len(inflated(data, 1_000)) == 1_000
    with pytest.raises(TooLarge):
        inflated(data, 999)
    twice = gzip.compress(bytes(600)) * 2
    assert len(inflated(twice, 1_200)) == 1_200
    with pytest.raises(TooLarge):
        inflated(twice, 1_199)


def test_a_bomb_takes_no_more_memory_than_the_limit():
    bomb = gzip.compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflated(bomb, MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_files_in_a_row_are_one_up_to_a_bound():
    piece = gzip.compress(b"x")
    assert inflated(piece * MAX_MEMBERS, 99) == b"x" * MAX_MEMBERS
    with pytest.raises(BadGzip):
        inflated(piece * (MAX_MEMBERS + 1), 99)
