"""A small dose of odd clients; the large one is `python -m tests.doses --only fuzz`.

The seed is printed and can be given as SWARMD_FUZZ_SEED.
"""

from __future__ import annotations

import os
import random

import pytest

from .fuzz import KINDS, Counts, fuzz_daemon, fuzz_server

CONNECTIONS = 400


def a_seed() -> int:
    seed = int(os.environ.get("SWARMD_FUZZ_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"SWARMD_FUZZ_SEED={seed}")
    return seed


def harmed_nobody(counts: Counts) -> bool:
    print(counts)
    return not counts.faults and not counts.failed and not counts.leaked and counts.requests > 0


async def test_odd_clients_of_the_server_harm_nobody():
    assert harmed_nobody(await fuzz_server(seed=a_seed(), connections=CONNECTIONS))


async def test_odd_clients_of_the_whole_daemon_harm_nobody(tmp_path):
    assert harmed_nobody(await fuzz_daemon(tmp_path, seed=a_seed(), connections=CONNECTIONS))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_one_kind_alone(kind, tmp_path):
    """Names the culprit when the mix fails."""
    assert harmed_nobody(await fuzz_server(seed=1, connections=20, kinds=[kind]))
    assert harmed_nobody(await fuzz_daemon(tmp_path, seed=1, connections=20, kinds=[kind]))
