"""Programs of others, built from the Go modules that their authors publish, and kept for the next run.

Each version of a program is built once for a user, below `$XDG_CACHE_HOME/swarmd-interop`. Builds of several test runs
wait for each other. Nothing of a program is part of swarmd.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

FETCH_S = 300.0  # the modules, where they have never been fetched: 830 MB, some 55 s
BUILD_S = 600.0  # where nothing has ever been built, 75 s of CPU time: 140 to 210 s on two busy cores


class Program(NamedTuple):
    module: str
    version: str
    package: str

    @property
    def name(self) -> str:
        return self.package.rpartition("/")[2]


LUCI = ("go.chromium.org/luci", "v0.0.0-20260822014153-22eba00a8fe4")
SWARMING = Program(*LUCI, "go.chromium.org/luci/client/cmd/swarming")
PRPC = Program(*LUCI, "go.chromium.org/luci/grpc/cmd/prpc")
GRPCURL = Program("github.com/fullstorydev/grpcurl", "v1.9.3", "github.com/fullstorydev/grpcurl/cmd/grpcurl")


class CannotGet(Exception):
    """There is no Go here, or the modules cannot be fetched. The text says which."""


def program(wanted: Program) -> Path:
    """The path of a built program. Raises `CannotGet`; a program that does not compile is a `RuntimeError`."""
    folder = cache() / f"{wanted.module.replace('/', '-')}@{wanted.version}"
    built = folder / wanted.name
    if built.exists():
        return built
    go = shutil.which("go")
    if go is None:
        raise CannotGet("there is no 'go' in PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            _build(go, folder, wanted, built)
    return built


def _build(go: str, folder: Path, wanted: Program, built: Path) -> None:
    # A module of our own that needs exactly this version: `go install PACKAGE@VERSION` would also ask which versions
    # there are, and not every mirror tells.
    (folder / "go.mod").write_text(f"module interop\n\ngo 1.25\n\nrequire {wanted.module} {wanted.version}\n")
    done = _go(folder, FETCH_S, go, "list", "-mod=mod", "-deps", wanted.package)
    if done.returncode != 0:
        raise CannotGet(f"{wanted.package} cannot be fetched: {_last_lines(done)}")
    fresh = folder / f"{wanted.name}.new"
    done = _go(folder, BUILD_S, go, "build", "-mod=mod", "-o", str(fresh), wanted.package)
    if done.returncode != 0:
        raise RuntimeError(f"{wanted.package} cannot be built: {_last_lines(done)}")
    fresh.rename(built)


def _go(folder: Path, limit_s: float, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    try:
        return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise CannotGet(f"'{' '.join(argv)}' took more than {limit_s:g} s") from None


def _last_lines(done: subprocess.CompletedProcess[str]) -> str:
    return " / ".join(done.stderr.strip().splitlines()[-3:])


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "swarmd-interop"
