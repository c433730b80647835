"""The programs of others, for the tests that run them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.cli import Cli
from tests.interop.go_programs import GRPCURL, PRPC, SWARMING, CannotGet, Program, program
from tests.interop.real_lab import RealLab, open_real_lab


def _get(wanted: Program) -> Path:
    try:
        return program(wanted)
    except CannotGet as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def swarming_program() -> Path:
    """LUCI's `swarming`. Skips, with the reason, where it cannot be had."""
    return _get(SWARMING)


@pytest.fixture(scope="session")
def prpc_program() -> Path:
    """LUCI's `prpc`, which calls any method of any server."""
    return _get(PRPC)


@pytest.fixture
def swarming(swarming_program: Path, tmp_path: Path) -> Callable[[str], Cli]:
    """`swarming(url)` gives the command against the daemon at `url`."""

    def at(url: str) -> Cli:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return Cli(swarming_program, url, home, os.environ)

    return at


@pytest.fixture
def prpc(prpc_program: Path, tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return Cli(prpc_program, "", home, os.environ)


@pytest.fixture(scope="session")
def grpcurl_program() -> Path:
    """Calls any method of any server of gRPC; a client of Go's implementation."""
    return _get(GRPCURL)


@pytest.fixture
def grpcurl(grpcurl_program: Path, tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return Cli(grpcurl_program, "", home, os.environ)


@pytest.fixture(scope="module")
def lab(swarming_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """A daemon with its bots, for all tests of a module."""
    with open_real_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def cli(swarming: Callable[[str], Cli], lab: RealLab) -> Cli:
    """The `swarming` command against `lab`."""
    return swarming(lab.url)
