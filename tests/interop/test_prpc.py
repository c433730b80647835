"""The programs of LUCI talk to a daemon. Real processes, so real time."""

from __future__ import annotations

import json

from swarmd.api.swarming.methods import METHODS
from swarmd.testing.harness import running
from tests.interop.cli import QUICKLY_S


async def test_its_version(swarming):
    done = await swarming("")("version")
    assert (done.code, done.out.strip()) == (0, "swarming 0.5.3"), done


async def test_a_method_that_is_not_there_fails_at_once(swarming):
    """The code in the header makes it final; without one the command would try ten times."""
    async with running(tcp=True) as daemon:
        daemon.app._exact.pop("/prpc/swarming.v2.Bots/CountBots", None)
        done = await swarming(daemon.url)("bots", "-count")
    assert done.code == 1 and done.out == "" and done.took_s < QUICKLY_S, done
    assert "Unimplemented" in done.err and done.repeats == 0


async def test_it_refuses_what_is_not_loopback_without_tls(swarming):
    done = await swarming("http://lab.example:8710")("bots", "-count")
    assert done.code == 1 and "localhost" in done.err, done


async def test_a_generic_tool_finds_and_calls_the_methods(prpc):
    async with running(tcp=True) as daemon:
        server = daemon.url.removeprefix("http://")
        listed = await prpc("show", server)
        assert listed.code == 0 and listed.out.split() == sorted({method.service for method in METHODS}), (
            listed
        )
        shown = await prpc("show", server, "swarming.v2.Swarming")
        assert "rpc GetPermissions(PermissionsRequest) returns (ClientPermissions)" in shown.out, shown
        called = await prpc("call", server, "swarming.v2.Swarming.GetDetails", input="{}")
        assert called.code == 0 and json.loads(called.out)["serverVersion"], called
