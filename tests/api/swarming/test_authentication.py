"""Whose call it is: the tokens of groups, of the daemon and of sessions, on every route of the bots."""

from __future__ import annotations

from swarmd.api.native.routes import ROUTES as NATIVE
from swarmd.api.routes import Verb
from swarmd.config import Config
from swarmd.config_swarming import BotGroup, PoolRules, SwarmingConfig
from swarmd.testing.harness import running
from tests.api.swarming.token_bots import bearer, token_file
from tests.api.test_edge import target
from tests.api.wire import JSON, send

RED, BLUE = "the-token-of-the-red-ones", "the-token-of-the-blue-ones"


def lab(tmp_path, *, trusting: bool = False) -> Config:
    """Two groups with tokens, the rest without; two pools that give work by leases, too."""
    groups = [
        BotGroup(bots=["red*"], token_file=token_file(tmp_path / "red", RED), dimensions={"pool": ["red"]}),
        BotGroup(
            bots=["blue*"], token_file=token_file(tmp_path / "blue", BLUE), dimensions={"pool": ["blue"]}
        ),
        BotGroup(),
    ]
    pools = {pool: PoolRules(mode="hybrid") for pool in ("red", "blue", "default")}
    return Config(
        token_file=token_file(tmp_path / "own"),
        trust_loopback=trusting,
        swarming=SwarmingConfig(groups=groups, pools=pools, session_s=600.0),
    )


# --------------------------------------------------------------------- groups


async def test_a_group_token_opens_nothing_but_the_calls_of_its_bots(autojump_clock, tmp_path):
    """It opened sessions of our own bots, too: a machine of one pool could take the tasks of all others."""
    async with running(tcp=True, config=lab(tmp_path)) as world:
        for route in NATIVE:
            if route.verb is Verb.OPEN:
                continue
            answer = await send(world.url, route.method, target(route.path), b"{}", (*bearer(RED), JSON))
            assert answer.status == 401, (route, answer)
