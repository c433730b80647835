"""Python packages of others, as their authors publish them, and kept for the next run: not installed beside swarmd.

Each version is unpacked once for a user, below `$XDG_CACHE_HOME/swarmd-interop`, without what it needs itself. Nothing
of a package is part of swarmd.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.interop.go_programs import CannotGet, cache

FETCH_S = 120.0


def package(name: str, version: str) -> Path:
    """The folder to put into PYTHONPATH. Raises `CannotGet`."""
    folder = cache() / f"{name}-{version}"
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / f"{name}-{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fresh = folder.with_suffix(".new")
            pip = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--target",
                str(fresh),
                f"{name}=={version}",
            ]
            try:
                done = subprocess.run(pip, capture_output=True, text=True, timeout=FETCH_S)
            except subprocess.TimeoutExpired:
                raise CannotGet(f"{name} {version} could not be fetched within {FETCH_S:g} s") from None
            if done.returncode != 0:
                raise CannotGet(
                    f"{name} {version} cannot be fetched: {' / '.join(done.stderr.splitlines()[-2:])}"
                )
            fresh.rename(folder)
    return folder
