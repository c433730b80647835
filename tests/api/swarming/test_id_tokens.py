"""ID tokens: whoever gets one can verify it with nothing but what the daemon publishes, as long as it is good."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from functools import partial

import jwt
import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from swarmd.api.swarming import id_keys, tables
from swarmd.api.swarming.id_keys import KEPT_S, SIGNS_S
from swarmd.client import task
from swarmd.config import Config
from swarmd.config_swarming import SwarmingConfig
from swarmd.offthread import in_thread
from swarmd.testing.harness import running, virtual_wall
from tests.api.swarming.token_bots import TokenBot, token_file, working
from tests.api.wire import send

LAB = Config(swarming=SwarmingConfig(task_account="ci@lab", system_account="sys@lab"))
SERVICE = "https://service.example"
HOUR, DAY = 3_600.0, 86_400.0


def look(token: str, issuer: str, audience: str, options: dict) -> dict:
    """What a service does that knows the issuer and PyJWT, and nothing else."""
    with urllib.request.urlopen(f"{issuer}/.well-known/openid-configuration", timeout=300) as answer:
        found = json.load(answer)
    assert found["issuer"] == issuer
    key = jwt.PyJWKClient(found["jwks_uri"]).get_signing_key_from_jwt(token)
    algorithms = found["id_token_signing_alg_values_supported"]
    return jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=issuer, options=options)


async def claims_in(world, token: str, audience: str = SERVICE) -> dict:
    """The claims of a token that is good at this moment of the virtual clock. Raises PyJWT's errors."""
    options = {
        "verify_exp": False,
        "verify_iat": False,
        "require": ["iss", "sub", "aud", "iat", "exp", "jti"],
    }
    claims = await in_thread(partial(look, token, world.url, audience, options))
    now = world.daemon.clock.wall()
    if not claims["iat"] <= now < claims["exp"]:
        raise jwt.ExpiredSignatureError
    return claims


async def a_proof(world, bot: TokenBot, **asked) -> str:
    answer = await bot.token("id", **{"audience": SERVICE, **asked})
    assert answer.status == 200, answer
    return answer.json()["id_token"]


async def a_task(world, **fields) -> TokenBot:
    """A bot that runs a task, whatever it did before."""
    await world.client.submit([task(argv=["true"], hard_limit_s=6e5, **fields)])
    return await working(world)


async def published(world) -> list[str]:
    return [key["kid"] for key in (await send(world.url, "GET", "/.well-known/jwks.json")).json()["keys"]]


async def stored(world) -> int:
    await world.daemon.writer.drain()
    return len(await world.daemon.read(lambda conn: tables.keys(conn, id_keys.KIND)))


# --------------------------------------------------------------------- what it says


async def test_a_service_verifies_a_token_with_all_of_pyjwt_s_checks():
    """On the real clock: nothing is left out."""
    async with running(tcp=True, config=LAB, wall=time.time) as world:
        bot = await a_task(world)
        token = await a_proof(world, bot)
        required = {"require": ["iss", "sub", "aud", "iat", "exp", "jti"]}
        claims = await in_thread(partial(look, token, world.url, SERVICE, required))
        assert claims["service_account"] == "ci@lab"
        with pytest.raises(jwt.InvalidAudienceError):
            await in_thread(partial(look, token, world.url, "https://other.example", required))


async def test_a_token_says_what_runs_where_and_for_whom(autojump_clock):
    async with running(tcp=True, config=LAB) as world:
        bot = await a_task(world, name="build", pool="default")
        answer = (await bot.token("id", audience=SERVICE)).json()
        claims = await claims_in(world, answer["id_token"])
        assert answer["service_account"] == "ci@lab" and answer["expiry"] == claims["exp"]
        now = int(world.daemon.clock.wall())
        [of_ours] = [t.id async for t in world.client.tasks()]
        assert claims == {
            "iss": world.url, "sub": f"task:{bot.task[:-1]}0", "aud": SERVICE, "iat": now, "exp": now + 3_600,
            "jti": claims["jti"], "task_id": f"{bot.task[:-1]}0", "run_id": bot.task, "swarmd_task_id": of_ours,
            "task_name": "build", "pool": "default", "bot_id": "b1", "account_id": "task",
            "service_account": "ci@lab",
        }  # fmt: skip
        header = jwt.get_unverified_header(answer["id_token"])
        assert header == {"alg": "RS256", "typ": "JWT", "kid": (await published(world))[0]}


async def test_the_bot_s_own_work_is_another_subject(autojump_clock):
    async with running(tcp=True, config=LAB) as world:
        bot = await a_task(world)
        claims = await claims_in(world, await a_proof(world, bot, account_id="system"))
        assert (claims["sub"], claims["account_id"], claims["service_account"]) == (
            "bot:b1",
            "system",
            "sys@lab",
        )


async def test_no_two_tokens_are_the_same(autojump_clock):
    async with running(tcp=True, config=LAB) as world:
        bot = await a_task(world)
        found = [await claims_in(world, await a_proof(world, bot)) for _ in range(3)]
        assert len({claims["jti"] for claims in found}) == 3


async def test_what_is_published_is_open_to_all_and_holds_no_secret(autojump_clock, tmp_path):
    config = msgspec.structs.replace(LAB, token_file=token_file(tmp_path / "own"), trust_loopback=False)
    async with running(tcp=True, config=LAB) as world:
        assert await published(world) == []
        await a_proof(world, await a_task(world))
        answer = await send(world.url, "GET", "/.well-known/jwks.json")
        assert answer.headers["content-type"].startswith("application/json")
        [key] = answer.json()["keys"]
        assert key.keys() == {"kty", "e", "n", "kid", "use", "alg"}
        assert (key["kty"], key["use"], key["alg"]) == ("RSA", "sig", "RS256")
        assert len(base64.urlsafe_b64decode(key["n"] + "==")) * 8 == id_keys.KEY_BITS
        found = (await send(world.url, "GET", "/.well-known/openid-configuration?x=1")).json()
        assert found["jwks_uri"] == "http://localhost/.well-known/jwks.json", "as the caller names the daemon"
        assert set(found["claims_supported"]) >= {"sub", "task_id", "pool"}
    async with running(tcp=True, config=config) as world:
        assert (await send(world.url, "GET", "/.well-known/jwks.json")).status == 200
        assert (await send(world.url, "GET", "/.well-known/openid-configuration")).status == 200
        answer = await send(world.url, "GET", "/.well-known/security.txt")
        assert (answer.status, answer.error.code) == (404, "unknown_route")


async def test_the_issuer_is_the_configured_address_without_a_token_in_its_path(autojump_clock):
    swarming = msgspec.structs.replace(
        LAB.swarming, server_url="http://lab.example:8710/the-daemons-own-token"
    )
    async with running(config=msgspec.structs.replace(LAB, swarming=swarming)) as world:
        token = await a_proof(world, await a_task(world))
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["iss"] == "http://lab.example:8710"
        found = (await send(world.url, "GET", "/.well-known/openid-configuration")).json()
        assert found["issuer"] == claims["iss"]
        assert found["jwks_uri"] == "http://lab.example:8710/.well-known/jwks.json"


# --------------------------------------------------------------------- what is none


async def test_a_changed_token_and_one_of_another_key_are_refused(autojump_clock):
    async with running(tcp=True, config=LAB) as world:
        token = await a_proof(world, await a_task(world))
        head, claims, signature = token.split(".")
        told = json.loads(base64.urlsafe_b64decode(claims + "=="))
        forged = (
            base64.urlsafe_b64encode(json.dumps({**told, "sub": "task:1"}).encode()).rstrip(b"=").decode()
        )
        with pytest.raises(jwt.InvalidSignatureError):
            await claims_in(world, f"{head}.{forged}.{signature}")
        own = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        kid = {"kid": (await published(world))[0]}
        with pytest.raises(jwt.InvalidSignatureError):
            await claims_in(world, jwt.encode(told, own, algorithm="RS256", headers=kid))
        for algorithm, key in (("none", None), ("HS256", "x" * 32)):
            with pytest.raises(jwt.InvalidTokenError):
                await claims_in(world, jwt.encode(told, key, algorithm=algorithm, headers=kid))
        assert (await claims_in(world, token))["sub"] == told["sub"]


# --------------------------------------------------------------------- restarts and rotation


async def test_a_token_is_good_over_a_restart_of_the_daemon(autojump_clock, tmp_path):
    async with running(tmp_path / "db", tcp=True, config=LAB) as world:
        bot = await a_task(world)
        first, url = await a_proof(world, bot), world.url
    async with running(tmp_path / "db", at=url, config=LAB) as world:
        assert (await claims_in(world, first))["run_id"] == bot.task
        second = await a_proof(world, bot)
        assert len(await published(world)) == await stored(world) == 1
        assert jwt.get_unverified_header(second)["kid"] == jwt.get_unverified_header(first)["kid"]
        assert (await claims_in(world, second))["run_id"] == bot.task


async def test_keys_rotate_and_old_ones_stay_as_long_as_their_tokens(autojump_clock, tmp_path):
    async with running(tmp_path / "db", tcp=True, config=LAB) as world:
        url = world.url
        await a_proof(world, await a_task(world))
        old = await published(world)
        await trio.sleep(SIGNS_S - 2)
        last = await a_proof(world, await a_task(world))
        assert await published(world) == old, "the key is a second too young"
        await trio.sleep(2)
        new = await a_proof(world, await a_task(world))
        assert (await published(world))[1:] == old and len(await published(world)) == 2
        for token in (last, new):
            assert (await claims_in(world, token))["service_account"] == "ci@lab"
    async with running(tmp_path / "db", at=url, config=LAB) as world:
        for token in (last, new):
            assert (await claims_in(world, token))["service_account"] == "ci@lab"
        await trio.sleep(HOUR)
        for token in (last, new):
            with pytest.raises(jwt.ExpiredSignatureError):
                await claims_in(world, token)
        assert len(await published(world)) == await stored(world) == 2
        await trio.sleep(KEPT_S - HOUR)
        assert len(await published(world)) == 1 and await published(world) != old
        with pytest.raises(jwt.PyJWKClientError):
            await claims_in(world, last)
        await a_proof(world, await a_task(world))
        assert len(await published(world)) == await stored(world) == 1, "it has left the file, too"


async def test_years_of_tokens_leave_no_more_than_two_keys(autojump_clock, tmp_path):
    async with running(tmp_path / "db", tcp=True, config=LAB) as world:
        seen = set()
        for _ in range(8):
            await trio.sleep(20 * DAY)
            token = await a_proof(world, await a_task(world))
            assert (await claims_in(world, token))["aud"] == SERVICE
            seen.update(await published(world))
            assert len(await published(world)) <= 2 and await stored(world) <= 2
        assert len(seen) == 4


async def test_a_key_from_the_future_signs_no_more(autojump_clock):
    """It was made while the wall clock was wrong, and would sign until that time and 30 days more."""
    ahead_s = 400 * DAY
    async with running(tcp=True, config=LAB, wall=lambda: virtual_wall() + ahead_s) as world:
        await a_proof(world, await a_task(world))
        [wrong] = await published(world)
        ahead_s = 0.0
        token = await a_proof(world, await a_task(world))
        assert (await published(world))[1:] == [wrong]
        assert jwt.get_unverified_header(token)["kid"] != wrong
        assert (await claims_in(world, token))["aud"] == SERVICE
        await trio.sleep(DAY)
        await a_proof(world, await a_task(world))
        assert wrong not in await published(world)


async def test_a_clock_that_is_set_back_keeps_what_was_given_good(autojump_clock):
    """An NTP server corrects by hours, right after a key was replaced: its last tokens are in use."""
    ahead_s = 6 * HOUR
    async with running(tcp=True, config=LAB, wall=lambda: virtual_wall() + ahead_s) as world:
        await a_proof(world, await a_task(world))
        await trio.sleep(SIGNS_S - 1)
        last = await a_proof(world, await a_task(world))
        await trio.sleep(2)
        await a_proof(world, await a_task(world))
        ahead_s = 0.0
        await a_proof(world, await a_task(world))
        assert jwt.get_unverified_header(last)["kid"] in await published(world)


# --------------------------------------------------------------------- the first key


async def test_all_who_ask_at_the_first_moment_get_tokens_of_one_key(autojump_clock, tmp_path):
    async with running(tmp_path / "db", tcp=True, config=LAB) as world:
        bots = []
        for number in range(3):
            await world.client.submit([task(argv=["true"])])
            bots.append(await working(world, f"b{number}"))
        tokens: list[str] = []

        async def ask(bot: TokenBot) -> None:
            tokens.append(await a_proof(world, bot))

        with world.daemon.writer.hold_commits() as gate:
            async with trio.open_nursery() as nursery:
                for bot in bots:
                    nursery.start_soon(ask, bot)
                await trio.sleep(10)
                assert tokens == [] and await published(world) == [], "given before the key was safe"
                gate.release()
        assert len(tokens) == 3 and len(await published(world)) == await stored(world) == 1
        for token in tokens:
            assert (await claims_in(world, token))["aud"] == SERVICE


async def test_who_gives_up_while_a_key_is_made_leaves_it_to_the_next(autojump_clock, tmp_path):
    async with running(tmp_path / "db", tcp=True, config=LAB) as world:
        bot = await a_task(world)
        with world.daemon.writer.hold_commits() as gate:
            with trio.move_on_after(5):
                await bot.token("id")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(a_proof, world, bot))
                await trio.sleep(10)
                gate.release()
        assert len(await published(world)) == await stored(world) == 1


async def test_a_crash_before_the_key_is_safe_leaves_no_token_behind(autojump_clock, tmp_path):
    dead, answers = False, []
    async with trio.open_nursery() as nursery:

        async def live(task_status):
            async with running(tmp_path / "db", tcp=True, config=LAB, is_dead=lambda: dead) as world:
                task_status.started(world)
                await trio.sleep_forever()

        async def ask(bot):
            answers.append(await bot.token("id"))

        world = await nursery.start(live)
        bot = await a_task(world)
        world.daemon.writer.hold_commits()  # for ever
        nursery.start_soon(ask, bot)
        await trio.sleep(10)
        dead = True
        nursery.cancel_scope.cancel()
    assert answers == []
    async with running(tmp_path / "db", tcp=True, config=LAB) as world:
        assert await published(world) == [] and await stored(world) == 0
        bot.url = world.url
        assert (await claims_in(world, await a_proof(world, bot)))["run_id"] == bot.task


async def test_nothing_is_imported_or_made_before_the_first_token(autojump_clock, monkeypatch):
    made = []
    make = id_keys._make
    monkeypatch.setattr(id_keys, "_make", lambda: made.append(1) or make())
    async with running(tcp=True, config=LAB) as world:
        bot = await a_task(world)
        await published(world)
        assert (await bot.token("id", audience="")).status == 400
        assert (await bot.token()).status == 200
        assert made == []
        await a_proof(world, bot)
        await a_proof(world, bot)
        assert made == [1]
