"""Runs the benchmarks named, or all."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "start", "noop", "true", "latency", "pending", "blob", "held", "year", "swarming", "prpc", "grpc", "remoteworkers",
    "lists",
)  # fmt: skip

if __name__ == "__main__":
    wanted = sys.argv[1:] or NAMES
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        sys.exit(f"there is no benchmark {unknown[0]}; there are {', '.join(NAMES)}")
    for name in wanted:
        importlib.import_module(f"bench.{name}").main()
