"""Odd clients of gRPC beside a well-behaved one that must never notice. `SWARMD_FUZZ_SEED` repeats a run."""

from __future__ import annotations

import math
import random
import time

import pytest
import trio

from swarmd.daemon.server import ServerSettings
from tests.daemon.fuzz import Counts, descriptors, odd_clients, quiet, side_by_side, until_no_more_than
from tests.daemon.odd_calls import ODD_CALLS
from tests.daemon.odd_clients import ODD, Target
from tests.daemon.test_server_fuzz import a_seed, harmed_nobody

from .echo import echoing
from .echo_pb2 import Text
from .raw_client import COUNT, SUM, RawClient, framed
from .test_wire import connect

IMPATIENT = ServerSettings(idle_s=2, header_s=2, send_timeout_s=2, graceful_s=1)


class Caller:
    """Calls on one kept connection, one of each kind at a time. Every answer must be right."""

    def __init__(self, world, seed):
        self.world = world
        self.rng = random.Random(seed)
        self.client = None

    async def __call__(self, number):
        if self.client is None:
            host = self.world.url.removeprefix("http://").encode()
            self.client = RawClient(await connect(self.world), host)
        client = self.client
        sent = [Text(number=number, data=self.rng.randbytes(n)) for n in (0, 100, 20_000)]
        ids = [await client.call(b"/swarmd.tests.Echo/Say", text) for text in sent]
        counted = await client.call(COUNT, Text(number=5, data=b"x"))
        summed = await client.begin(SUM)
        await client.data(summed, framed(sent[0]) + framed(sent[1]), end=True)
        for id, text in zip(ids, sent, strict=True):
            assert (await client.answer(id)).texts == [text]
        assert [t.number for t in (await client.answer(counted)).texts] == [0, 1, 2, 3, 4]
        assert (await client.answer(summed)).texts == [Text(number=2 * number, text="100")]
        return 5

    async def close(self):
        if self.client is not None:
            await trio.aclose_forcefully(self.client.stream)


async def fuzz(seed, kinds, seconds=math.inf, connections=math.inf):
    counts = Counts()
    async with echoing(limits=IMPATIENT) as (world, _):
        host = world.url.removeprefix("http://")
        to = Target(host.encode(), (), (), (), (), ())
        idle = descriptors()
        caller = Caller(world, seed)

        async def odd():
            await odd_clients(
                int(host.rpartition(":")[2]), to, counts,
                seed=seed, seconds=seconds, connections=connections, kinds=kinds,
            )  # fmt: skip

        with quiet():
            await side_by_side(caller, counts, odd)
        await caller.close()
        counts.leaked = await until_no_more_than(idle)
        began = time.monotonic()
    assert time.monotonic() - began < 10, "the stop took long"
    return counts


async def test_odd_calls_harm_nobody():
    assert harmed_nobody(await fuzz(a_seed(), ODD_CALLS, connections=200))


@pytest.mark.nightly
async def test_odd_calls_for_ten_minutes_harm_nobody():
    kinds = [
        *ODD_CALLS,
        *(kind for kind in ODD if kind.__name__ in ("http2_any_frames", "preface_and_garbage")),
    ]
    assert harmed_nobody(await fuzz(a_seed(), kinds, seconds=600))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ODD_CALLS, ids=lambda kind: kind.__name__)
async def test_one_kind_alone(kind):
    """Names the culprit when the mix fails."""
    assert harmed_nobody(await fuzz(1, [kind], connections=30))
