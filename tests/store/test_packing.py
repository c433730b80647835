"""What is packed comes back; what is damaged is told."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.store.packing import DEFLATED, MIN_DEFLATED, PLAIN, pack, unpack

REPEATED = st.builds(lambda part, times: part * times, st.binary(max_size=20), st.integers(0, 500))


@given(st.binary(max_size=2_000) | REPEATED)
def test_roundtrip(data):
    packed = pack(data)
    assert unpack(packed, len(data)) == data
    assert len(packed) <= len(data) + 1


def test_what_shrinks_is_deflated_and_what_does_not_is_kept_plain():
    assert pack(b"x" * MIN_DEFLATED)[:1] == DEFLATED
    assert pack(b"x" * (MIN_DEFLATED - 1))[:1] == PLAIN
    assert pack(bytes(range(256)))[:1] == PLAIN


@given(st.binary(max_size=300), st.integers(0, 400))
def test_bytes_that_nobody_packed_never_give_another_length(packed, size):
    try:
        data = unpack(packed, size)
    except ValueError:
        return
    assert len(data) == size


@pytest.mark.parametrize(
    ("packed", "size"),
    [
        (b"", 1),
        (PLAIN + b"abc", 2),
        (PLAIN + b"abc", 4),
        (DEFLATED + b"no deflate stream", 5),
        (DEFLATED + zlib.compress(b"a" * 500), 499),
        (DEFLATED + zlib.compress(b"a" * 500), 501),
        (DEFLATED + zlib.compress(bytes(range(250)))[:-10], 250),
        (DEFLATED + zlib.compress(b"a" * 500)[:-1] + b"!", 500),
        (DEFLATED + zlib.compress(b"a" * 500)[:-4], 500),
        (b"\7" + b"abc", 3),
    ],
)
def test_damaged_bytes_are_told(packed, size):
    with pytest.raises(ValueError, match="output"):
        unpack(packed, size)


def test_a_small_piece_that_would_unpack_to_very_much_takes_little_memory():
    with pytest.raises(ValueError, match="101 bytes instead of 100"):
        unpack(DEFLATED + zlib.compress(b"\0" * (64 << 20)), 100)
