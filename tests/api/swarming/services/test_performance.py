"""Figures of a bot's report, as it may send them: anything."""

from __future__ import annotations

import base64
import zlib

import msgspec
import pytest

from swarmd.api.swarming.context import RESULT
from swarmd.api.swarming.services.performance import cost_of, performance_of, pins_of, report_of, unpacked
from swarmd.core.model import Outcome, Payload


def packed(*deltas: bytes) -> bytes:
    return zlib.compress(b"".join(deltas))


def outcome(**report: object) -> Outcome:
    return Outcome(ok=True, payload=Payload(RESULT, msgspec.json.encode(report)))


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (b"", []),
        (packed(b"\x03", b"\x04"), [3, 7]),
        (packed(b"\x80\x01", b"\x00", b"\xff\x7f"), [128, 128, 128 + 16_383]),
        (b"no list", []),
        (packed(b"\x80" * 20), []),
        (packed(b"\x05\x80"), [5]),
    ],
)
def test_a_list_of_sizes(data, numbers):
    assert unpacked(data) == numbers


def test_a_list_that_inflates_without_end_is_read_so_far_and_no_further():
    assert len(unpacked(zlib.compress(b"\x01" * (64 << 20)))) <= 1 << 20


def test_what_a_report_says_is_told():
    cold = packed(b"\x03", b"\x04")
    report = report_of(
        outcome(
            bot_overhead=0.5, cost_usd=0.25, cleanup_stats={"duration": 1}, cache_trim_stats={"duration": 0},
            isolated_stats={
                "download": {"duration": 2, "initial_number_items": 9, "initial_size": 1 << 40,
                             "items_cold": base64.b64encode(cold).decode()},
                "upload": {},
            },
            cipd_pins={"packages": [{"package_name": "a", "version": "b", "path": "c"}, "nonsense"]},
        )
    )  # fmt: skip
    stats, pins = performance_of(report), pins_of(report)
    assert stats is not None and pins is not None
    assert (stats.bot_overhead, stats.cleanup.duration, cost_of(report)) == (0.5, 1.0, 0.25)
    assert not stats.HasField("cache_trim") and not stats.HasField("isolated_upload")
    download = stats.isolated_download
    assert (download.num_items_cold, download.total_bytes_items_cold, download.items_cold) == (2, 10, cold)
    assert (download.initial_number_items, download.initial_size, download.num_items_hot) == (9, 1 << 40, 0)
    assert [p.package_name for p in pins.packages] == ["a"] and not pins.HasField("client_package")


@pytest.mark.parametrize(
    "report",
    [
        {},
        {
            "bot_overhead": "much",
            "cost_usd": True,
            "cleanup_stats": 5,
            "isolated_stats": [],
            "cipd_pins": "x",
        },
        {
            "isolated_stats": {
                "download": {"items_cold": "!!", "initial_size": -1, "initial_number_items": 1 << 40}
            }
        },
        {"named_caches_stats": {"install": None}, "cipd_pins": {"packages": {}, "client_package": 3}},
        {"cost_usd": -1, "bot_overhead": 1e300},
    ],
)
def test_what_is_not_as_it_should_be_is_left_out(report):
    told = report_of(outcome(**report))
    assert (performance_of(told), pins_of(told), cost_of(told)) == (None, None, 0.0)


def test_other_bots_report_nothing():
    assert report_of(None) == report_of(Outcome(ok=True)) == {}
    assert report_of(Outcome(ok=True, payload=Payload("other", b"{}"))) == {}
