"""`python -m tests.schemas --seconds 900 --seed 1`: schemathesis against a daemon of its own."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .run import run_schemas


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schemas", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--folder", type=Path, help="where database, logs and reports stay; else they are removed"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarmd-schemas-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = run_schemas(folder, seconds=options.seconds, seed=options.seed)
    for fault in report.faults:
        print(fault, end="\n\n")
    print(
        f"seed {report.seed}: {report.calls} calls of {report.operations} operations in {report.seconds:g} s, "
        f"{len(report.taken)} of them done at least once; answers {dict(sorted(report.answers.items()))}; "
        f"{len(report.faults)} faults"
    )
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
