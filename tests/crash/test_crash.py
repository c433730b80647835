"""A small dose of the crash loop; the large one is `python -m tests.crash.loop --kills 1000`."""

from __future__ import annotations

import pytest

from tests.crash.loop import crash_loop

SEED = 20_261_123


def test_ten_kills_under_load_lose_nothing(tmp_path):
    report = crash_loop(tmp_path, kills=10, seed=SEED)
    assert report.faults == []
    assert report.kills == 10
    assert report.tasks >= 1_000


@pytest.mark.nightly
def test_two_hundred_kills_lose_nothing(tmp_path):
    report = crash_loop(tmp_path, kills=200, seed=SEED + 1)
    assert report.faults == []
