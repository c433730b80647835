"""One chunk, in a process of its own: `python -m tests.doses --chunk PART --seed N --size N` prints its outcome."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys

import msgspec

from .parts import Part
from .results import Outcome

PR_SET_PDEATHSIG = 1


def run_chunk(part: Part, seed: int, size: float) -> int:
    """Exit code 1 when there are faults. What the chunk itself prints goes to standard error."""
    _end_with_the_runner()
    faulthandler.dump_traceback_later(part.limit_s, exit=True)
    with contextlib.redirect_stdout(sys.stderr):
        outcome: Outcome = part.run(seed, size)
    faulthandler.cancel_dump_traceback_later()
    print(msgspec.json.encode(outcome).decode(), flush=True)
    return 1 if outcome.faults else 0


def _end_with_the_runner() -> None:
    """SIGTERM ends a chunk as Ctrl-C does, so that it ends what it started; it comes also when the runner dies."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        signal.raise_signal(signal.SIGTERM)
