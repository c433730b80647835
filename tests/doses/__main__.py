"""Runs the large doses of what proves swarmd's promises, until each part has reached its goal:

    python -m tests.doses --results doses.jsonl --jobs 2

What was done adds up in the file of results. Ended in between by whatever, the same command goes on where it stopped.
Exit code 0: every goal is reached, and there was no fault. `--seconds 0` only shows how far it is, also
while another run is at it.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import trio

from .chunk import run_chunk
from .parts import PARTS, Part
from .results import Anew, Results
from .run import Runner, commit_of_the_tree


def _parts(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"no part {name!r}; there are {', '.join(PARTS)}")
    return names


def options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.doses",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=Path("doses.jsonl"), help="the file (%(default)s)")
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART,…", help=", ".join(PARTS))
    parser.add_argument("--jobs", type=int, default=1, help="chunks at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no chunk begins after this long")
    parser.add_argument("--first-seed", type=int, default=1, help="of each part (%(default)s)")
    parser.add_argument(
        "--anew", type=_parts, default=[], metavar="PART,…",
        help="begin these again: what the file has of them counts no more, after a change of the code",
    )  # fmt: skip
    for part in PARTS.values():
        parser.add_argument(
            f"--{part.name}", type=float, default=part.goal, metavar="N", help=f"{part.unit} (%(default)g)"
        )
        parser.add_argument(
            f"--{part.name}-chunk",
            type=float,
            default=part.size,
            metavar="N",
            help="of one chunk (%(default)g)",
        )
    one = parser.add_argument_group("one chunk alone, whose outcome is printed and not counted")
    one.add_argument("--chunk", choices=PARTS)
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--size", type=float)
    return parser.parse_args(words)


def main() -> int:
    given = options()
    if given.chunk:
        part = PARTS[given.chunk]
        return run_chunk(part, given.seed, given.size or part.size)
    parts: list[Part] = [
        replace(PARTS[name], goal=getattr(given, name), size=getattr(given, f"{name}_chunk"))
        for name in given.only
    ]
    try:
        with Results(given.results, look=given.seconds == 0 and not given.anew) as results:
            for name in given.anew:
                results.add(Anew(anew=name, commit=commit_of_the_tree()))
            runner = Runner(
                parts, results, jobs=given.jobs, seconds=given.seconds, first_seed=given.first_seed,
                commit=commit_of_the_tree, say=lambda line: print(line, flush=True),
            )  # fmt: skip
            trio.run(runner.run_until_told)
            print(runner.table())
            return 0 if runner.reached() else 1
    except BlockingIOError:
        print(f"doses: another run writes to {given.results}", file=sys.stderr)
    except ValueError as error:
        print(f"doses: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
