"""Moments, pages and cursors of all services."""

from __future__ import annotations

import math

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.services.common import (
    LAST_SECOND,
    MAX_CURSOR,
    MAX_PAGE,
    cursor_key,
    cursor_text,
    moment,
    page_limit,
    since,
)


@pytest.mark.parametrize(
    ("wall", "text"),
    [
        (1_796_000_000.0, "2026-11-30T00:53:20Z"),
        (1_796_000_000.5, "2026-11-30T00:53:20.500Z"),
        (1_796_000_000.123, "2026-11-30T00:53:20.123Z"),
        (1_796_000_000.000001, "2026-11-30T00:53:20.000001Z"),
        (1_796_000_000.9999999, "2026-11-30T00:53:21Z"),
        (0.0, "1970-01-01T00:00:00Z"),
    ],
)
def test_a_moment_is_told_to_the_microsecond(wall, text):
    told = moment(wall)
    assert told is not None and told.ToJsonString() == text


def test_no_moment_stays_unset():
    assert moment(None) is None


@pytest.mark.parametrize(
    "wall", [1_796_000_000.0, 1_796_000_000.1234561, 1_796_000_000.1234567, 1e9 / 3, 4e9 / 7]
)
def test_a_moment_that_was_told_begins_and_ends_spans(wall):
    """Whatever was rounded away: it is in the span that begins with it, and not in the one that ends with it."""
    for near in (wall, math.nextafter(wall, 0), math.nextafter(wall, math.inf)):
        told = moment(near)
        assert told is not None and since(told) <= near
        told.nanos += 1_000
        assert near < since(told)


@pytest.mark.parametrize(
    ("seconds", "nanos", "wall"),
    [
        (0, 0, 0.0),
        (-1, 0, 0.0),
        (-62_135_596_800, 0, 0.0),
        (7, 1, 7.0000005),
        (7, 999, 7.0000005),
        (7, 1_000, 7.0000005),
        (LAST_SECOND, 999_999_999, LAST_SECOND + 1),
    ],
)  # fmt: skip
def test_a_moment_that_nobody_told_may_begin_a_span(seconds, nanos, wall):
    assert since(Timestamp(seconds=seconds, nanos=nanos)) == pytest.approx(wall, rel=1e-12)


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(1 << 62, 0), (-(1 << 62), 0), (253_402_300_800, 0), (7, -1), (7, 1_000_000_000)]
)
def test_what_is_no_moment(seconds, nanos):
    with pytest.raises(RpcError, match=r"^no moment has ") as raised:
        since(Timestamp(seconds=seconds, nanos=nanos))
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_limits():
    assert [page_limit(n) for n in (0, 1, 100, MAX_PAGE)] == [100, 1, 100, MAX_PAGE]
    for wrong in (-1, MAX_PAGE + 1, -(2**31), 2**31 - 1):
        with pytest.raises(RpcError, match=f"limit is {wrong}, expected 1 to 1000") as raised:
            page_limit(wrong)
        assert raised.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("key", ["b1", "0", "with a blank", "ü/\N{SNOWMAN}?", "x" * 256])
def test_a_cursor_leads_to_its_key(key):
    text = cursor_text("bots", key)
    assert text.isascii() and not set(text) & set("=+/ ") and cursor_key("bots", text) == key
    assert len(text) < MAX_CURSOR


def test_no_cursor_is_the_start():
    assert cursor_key("bots", "") is None


@pytest.mark.parametrize(
    "text",
    [
        cursor_text("tasks", "b1"), cursor_text("bots", "b1")[:-1], cursor_text("bots", "b1") + "=", "b1", "?", "=",
        " ", "\0", "ä", "Ym90cw", "Ym90cyA", "_____w", "A" * (MAX_CURSOR + 1), cursor_text("bots", "x" * MAX_CURSOR),
    ],
)  # fmt: skip
def test_what_is_no_cursor_of_the_kind(text):
    with pytest.raises(RpcError, match=r"^bad pagination cursor$") as raised:
        cursor_key("bots", text)
    assert raised.value.code is Code.INVALID_ARGUMENT
