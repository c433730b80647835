"""One chunk, in a process of its own: `python -m tests.doses --chunk PART --seed N --size N` prints its outcome."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time

import msgspec

from .parts import RUNNER, Part
from .results import Outcome

LOOK_S = 0.5  # how often a chunk looks whether its runner lives


def run_chunk(part: Part, seed: int, size: float) -> int:
    """Exit code 1 when there are faults. What the chunk itself prints goes to standard error.

    SIGTERM ends it as Ctrl-C does, so that it ends what it started; then its exit code tells the signal.
    """
    told = threading.Event()

    def tell(*_: object) -> None:
        told.set()
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, tell)
    if RUNNER in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[RUNNER]),), daemon=True).start()
    faulthandler.dump_traceback_later(part.limit_s, exit=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            outcome: Outcome = part.run(seed, size)
    except BaseException:  # the interrupt, or a group that has it
        if told.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        raise
    faulthandler.cancel_dump_traceback_later()
    print(msgspec.json.encode(outcome).decode(), flush=True)
    return 1 if outcome.faults else 0


def _end_with(runner: int) -> None:
    """A runner that is killed leaves no chunk behind. (PR_SET_PDEATHSIG would tell the end of the thread that started
    the chunk, which is not the runner's only one.)"""
    while os.getppid() == runner:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
