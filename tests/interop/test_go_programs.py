"""A program is built once, and its absence is a reason to skip, not a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.go_programs import CannotGet, Program, program

WANTED = Program("example.org/tools", "v0.0.0-20260101000000-000000000000", "example.org/tools/cmd/saw")


def pretend_go(folder: Path, monkeypatch, listing: int = 0, building: int = 0) -> Path:
    """A `go` that writes down its calls, and ends as told."""
    (folder / "bin").mkdir()
    calls = folder / "calls"
    script = folder / "bin" / "go"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {calls}\n'
        "echo 'the last line' >&2\n"
        f'[ "$1" = list ] && exit {listing}\n'
        f"[ {building} = 0 ] || exit {building}\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'echo "$GOTOOLCHAIN $CGO_ENABLED" > "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return calls


def test_it_is_built_once(tmp_path, monkeypatch):
    calls = pretend_go(tmp_path, monkeypatch)
    built = program(WANTED)
    assert built.read_text() == "local 0\n" and built.is_relative_to(tmp_path / "cache")
    assert program(WANTED) == built
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["list", "build"]
    newer = program(WANTED._replace(version="v0.0.0-20260202000000-111111111111"))
    assert newer != built and len(calls.read_text().splitlines()) == 4


def test_without_go_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CannotGet, match="no 'go' in PATH"):
        program(WANTED)


def test_what_cannot_be_fetched_is_told(tmp_path, monkeypatch):
    pretend_go(tmp_path, monkeypatch, listing=1)
    with pytest.raises(CannotGet, match=r"cmd/saw cannot be fetched: the last line"):
        program(WANTED)


def test_what_cannot_be_built_is_a_failure(tmp_path, monkeypatch):
    pretend_go(tmp_path, monkeypatch, building=1)
    with pytest.raises(RuntimeError, match="cannot be built: the last line"):
        program(WANTED)
    assert not (tmp_path / "cache" / "swarmd-interop" / "example.org-tools" / "saw").exists()
