"""The OpenAPI file is what the daemon does, as far as schemathesis can tell. See `run.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmd.api.native.routes import ROUTES

from .run import Report, run_schemas

SEED = 20_261_128


def told(report: Report) -> str:
    return "\n\n".join([f"python -m tests.schemas --seed {report.seed} found:", *report.faults])


def test_the_daemon_does_what_its_openapi_file_says(tmp_path: Path):
    report = run_schemas(tmp_path, seconds=20, seed=SEED)
    assert not report.faults, told(report)
    assert report.calls > 50 and len(report.taken) > len(ROUTES) // 3, report


@pytest.mark.nightly
def test_it_does_so_for_a_quarter_of_an_hour(tmp_path: Path):
    report = run_schemas(tmp_path, seconds=900, seed=SEED + 1)
    assert not report.faults, told(report)
    assert set(report.taken) == {route.handler for route in ROUTES}, report
