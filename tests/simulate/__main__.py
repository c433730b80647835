"""Simulated runs by seed: `python -m tests.simulate --seeds 100 --seed 1 --results FILE`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from .run import FEWEST_TASKS, MOST_TASKS, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many runs")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of the first run; the next has one more"
    )
    parser.add_argument(
        "--tasks", type=int, default=MOST_TASKS, help=f"of one run, at most; at least {FEWEST_TASKS}"
    )
    parser.add_argument("--results", type=Path, help="a file to which a JSON line is added for each run")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="no new run begins after this long"
    )
    options = parser.parse_args()
    started, bad, injected, total = time.monotonic(), 0, Counter[str](), Counter[str]()
    for seed in range(options.seed, options.seed + options.seeds):
        if time.monotonic() - started > options.seconds:
            break
        with tempfile.TemporaryDirectory(prefix="swarmd-simulate-") as folder:
            report = simulate(seed, Path(folder), options.tasks)
        bad += bool(report.faults)
        injected.update(report.injected)
        total.update(runs=1, tasks=report.tasks, events=report.events, starts=report.starts)
        total["virtual_s"] += int(report.virtual_s)
        print(
            f"seed {seed}: {report.backend}, {report.tasks} tasks, {report.events} events, "
            f"{report.starts} starts, {report.virtual_s:.0f} s in {report.real_s:.1f} s, "
            f"{len(report.faults)} faults",
            flush=True,
        )
        for fault in report.faults[:10]:
            print(f"  {fault}", flush=True)
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(report)) + "\n")
    total["real_s"] = int(time.monotonic() - started)
    print(json.dumps({"bad": bad, **total, "injected": dict(sorted(injected.items()))}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
