"""A fake daemon for the commands."""

from __future__ import annotations

import pytest

from tests.cli.fake import Fake

ENVIRONMENT = ("SWARMD_URL", "SWARMD_TOKEN_FILE")


@pytest.fixture
def fake(monkeypatch):
    """A fake daemon that SWARMD_URL names."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    fake = Fake()
    with fake.in_thread() as url:
        monkeypatch.setenv("SWARMD_URL", url)
        yield fake
