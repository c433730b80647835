"""Whose call it is: the tokens of groups, of the daemon and of sessions, on every route of the bots."""

from __future__ import annotations

import pytest
import trio

from swarmd.api.native.routes import ROUTES as NATIVE
from swarmd.api.routes import Verb
from swarmd.api.swarming.routes import ROUTES
from swarmd.config import Config
from swarmd.config_swarming import BotGroup, PoolRules, SwarmingConfig
from swarmd.testing.harness import running
from tests.api.swarming.token_bots import API, DAEMON_TOKEN, TokenBot, bearer, token_file
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


# What a bot of the red group may show, and whether it may then call.
SHOWN = {
    "its group's": (RED, True),
    "another group's": (BLUE, False),
    "the daemon's": (DAEMON_TOKEN, False),
    "none": (None, False),
    "one that is none": ("the-token-of-the-green-ones", False),
    "one that begins like its group's": (RED[:-1], False),
    "one that goes on after its group's": (RED + "x", False),
}


@pytest.mark.parametrize("trusting", [False, True], ids=["", "on a trusted machine"])
@pytest.mark.parametrize("shown", SHOWN)
async def test_a_bot_of_a_group_must_show_the_token_of_its_group(shown, trusting, autojump_clock, tmp_path):
    token, is_good = SHOWN[shown]
    headers = bearer(token) if token is not None else ()
    async with running(tcp=True, config=lab(tmp_path, trusting=trusting)) as world:
        bot = TokenBot(world.url, "red1", headers=bearer(RED))
        calls = await bodies_of(bot)
        events = len(world.daemon.engine.bots["red1"].state)
        for path, body in calls.items():
            answer = await bot.call(path, body, headers)
            if is_good:
                assert answer.status == 200, (path, answer)
            else:
                assert (answer.status, answer.error.code) == (401, "token_needed"), (path, answer)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert events == len(world.daemon.engine.bots["red1"].state)


@pytest.mark.parametrize(("shown", "status"), [(RED, 401), (BLUE, 401), (None, 401), (DAEMON_TOKEN, 200)])
async def test_a_bot_of_no_group_with_a_token_needs_the_daemon_s(shown, status, autojump_clock, tmp_path):
    headers = bearer(shown) if shown is not None else ()
    async with running(tcp=True, config=lab(tmp_path)) as world:
        bot = TokenBot(world.url, "grey1", headers=bearer(DAEMON_TOKEN))
        for path, body in (await bodies_of(bot)).items():
            answer = await bot.call(path, body, headers)
            assert answer.status == status, (path, answer)


async def test_a_bot_of_no_group_with_a_token_needs_nothing_on_a_trusted_machine(autojump_clock, tmp_path):
    async with running(tcp=True, config=lab(tmp_path, trusting=True)) as world:
        for path, body in (await bodies_of(bot := TokenBot(world.url, "grey1"))).items():
            assert (await bot.call(path, body)).status == 200, path


async def test_a_composite_bot_shows_the_token_of_its_host(autojump_clock, tmp_path):
    async with running(tcp=True, config=lab(tmp_path)) as world:
        await TokenBot(world.url, "red1--2", headers=bearer(RED)).handshake()
        body = {"dimensions": {"id": ["red1--3"]}, "state": {}, "version": "v", "session_id": "p/1"}
        assert (
            await TokenBot(world.url, "red1--3", headers=bearer(BLUE)).call("handshake", body)
        ).status == 401


async def test_the_token_of_a_group_changes_with_the_configuration(autojump_clock, tmp_path):
    old = lab(tmp_path)
    async with running(tcp=True, config=old) as world:
        bot = await TokenBot(world.url, "red1", headers=bearer(RED)).handshake()
        token_file(tmp_path / "red", "another-token-of-the-red-ones")
        await world.app.reconfigure(old)
        event = {"session": bot.session, "event": "bot_log", "message": "m"}
        assert (await bot.call("event", event)).status == 401
        assert (await bot.call("event", event, bearer("another-token-of-the-red-ones"))).status == 200


# --------------------------------------------------------------------- sessions

WITH_SESSION = sorted(
    {
        route.path.removeprefix(f"{API}/")
        for route in ROUTES
        if route.request is not None and "session" in route.request.__struct_fields__
    }
)


async def bodies_of(bot: TokenBot) -> dict[str, dict]:
    """A call of each route that the bot of a hybrid pool may make; it has connected, and runs nothing."""
    await bot.handshake()
    described = {"dimensions": bot.dimensions, "state": {}, "version": "v1"}
    task = {"id": bot.id, "task_id": "7add21f400000081"}
    rbe = (await bot.call("rbe/session/create", {"session": bot.session})).json()["session"]
    bodies = {
        "handshake": {**described, "session_id": bot.process},
        "poll": {**described, "request_uuid": "u"},
        "claim": {"claim_id": "c", "task_id": task["task_id"]},
        "event": {"event": "bot_log", "message": "m"},
        "task_update": task,
        "task_update/7add21f400000081": task,
        "task_error": task,
        "task_error/7add21f400000081": task,
        "rbe/session/create": {},
        "rbe/session/update": {"status": "OK", "nonblocking": True, "session": rbe},
    }
    return {path: {"session": bot.session, **body} for path, body in bodies.items()}


async def test_every_route_with_a_session_is_tried_here(autojump_clock, tmp_path):
    async with running(config=lab(tmp_path)) as world:
        tried = {
            path.replace("7add21f400000081", "{task}") for path in await bodies_of(TokenBot(world.url, "g"))
        }
    assert tried - {"handshake"} | {"oauth_token", "id_token"} == set(WITH_SESSION)


async def wrong_sessions(world, bot: TokenBot) -> dict[str, object]:
    other = await TokenBot(world.url, "other").handshake()
    text = bot.session or ""
    swapped = text[:10] + ("A" if text[10] != "A" else "B") + text[11:]
    return {
        "none": None, "empty": "", "a number": 7, "an object": {"session": text}, "no base64": "säße",
        "cut off": text[:-4], "one letter": swapped, "another bot's": other.session,
    }  # fmt: skip


async def test_without_a_good_session_every_route_but_poll_answers_401_as_json(autojump_clock, tmp_path):
    async with running(config=lab(tmp_path)) as world:
        bot = TokenBot(world.url, "grey1")
        calls = await bodies_of(bot)
        calls |= {f"{kind}_token": {"id": bot.id} for kind in ("oauth", "id")}
        before = world.daemon.engine.version
        wrong = await wrong_sessions(world, bot)
        after = world.daemon.engine.version
        assert after > before, "the other bot has connected"
        for path in calls.keys() - {"handshake", "poll"}:
            for name, session in wrong.items():
                answer = await bot.call(path, {**calls[path], "session": session})
                assert (answer.status, answer.error.code) == (401, "bad_session"), (path, name, answer)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert world.daemon.engine.version == after, "a refused call changed something"
        for name, session in wrong.items():
            answer = await bot.call("poll", {**calls["poll"], "session": session})
            assert answer.status == 200 and answer.json()["cmd"] == "bot_restart", (name, answer)
        await trio.sleep(600)
        answer = await bot.call("poll", calls["poll"])
        assert answer.json()["cmd"] == "bot_restart" and "expired" in answer.json()["message"]
        for path in calls.keys() - {"handshake", "poll"}:
            answer = await bot.call(path, {"session": bot.session, **calls[path]})
            assert (answer.status, answer.error.code) == (401, "bad_session"), (path, answer)
            assert "expired" in answer.error.message


async def test_a_bot_that_nobody_knows_any_more_is_refused_with_403(autojump_clock, tmp_path):
    async with running(config=lab(tmp_path)) as world:
        bot = TokenBot(world.url, "grey1")
        calls = await bodies_of(bot)
        calls |= {f"{kind}_token": {"id": bot.id} for kind in ("oauth", "id")}
        await bot.ask("event", event="bot_shutdown", message="bye")
        await world.client.delete_bot("grey1")
        for path in calls.keys() - {"handshake", "poll"}:
            answer = await bot.call(path, {"session": bot.session, **calls[path]})
            assert (answer.status, answer.error.code) == (403, "unknown_bot"), (path, answer)
        assert world.daemon.engine.bots == {}


async def test_a_session_of_the_daemon_before_is_good_and_of_another_daemon_is_none(autojump_clock, tmp_path):
    async with running(tmp_path / "one") as world:
        bot = await TokenBot(world.url).handshake()
    event = {"session": bot.session, "event": "bot_log", "message": "m"}
    async with running(tmp_path / "one") as world:
        bot.url = world.url
        assert (await bot.call("event", event)).status == 200
    async with running(tmp_path / "two") as world:
        bot.url = world.url
        await TokenBot(world.url, "b2").handshake()
        assert (await bot.call("event", event)).status == 401
