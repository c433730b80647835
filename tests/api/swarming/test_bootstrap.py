"""A machine without a credential becomes a bot: who gets a token for that, what it opens, and for how long."""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from swarmd.api.routes import Verb
from swarmd.api.swarming.bootstrap import BOOTSTRAP_S
from swarmd.api.swarming.routes import ROUTES
from swarmd.api.swarming.tokens import BootstrapToken, SessionToken, Signed
from swarmd.client import ApiError, open_client
from swarmd.config import Config
from swarmd.config_swarming import BotGroup, SwarmingConfig
from swarmd.testing.harness import RunningDaemon, running
from tests.api.swarming.test_bot_code import API, a_folder, a_zip, files_of, version_of
from tests.api.test_edge import target
from tests.api.wire import JSON, Answer, send

TOKEN = "correct-horse-battery-staple"
GROUP = "token-of-a-group-of-bots"
SHOWN = ("Authorization", f"Bearer {TOKEN}")
WAYS = ("/bot_code", "/bootstrap", f"{API}/bot_code/{{digest}}")


def guarded(folder: Path, code: Path | None, **more) -> Config:
    """A daemon that takes calls with its token only; bots g-* may show one of their own."""
    for name, token in (("token", TOKEN), ("group", GROUP)):
        (folder / name).write_text(token)
        (folder / name).chmod(0o600)
    group = BotGroup(bots=["g-*"], token_file=str(folder / "group"))
    swarming = SwarmingConfig(bot_code=str(code or ""), groups=[group], **more)
    return Config(token_file=str(folder / "token"), trust_loopback=False, swarming=swarming)


async def get(world: RunningDaemon, path: str, tok: str | None = None, headers=()) -> Answer:
    query = f"{'&' if '?' in path else '?'}tok={quote(tok, safe='')}" if tok is not None else ""
    return await send(world.url, "GET", path + query, headers=headers, host="localhost:8710")


async def mint(
    world: RunningDaemon, host: str = "localhost:8710", before: str = "", headers=(SHOWN,)
) -> Answer:
    path = f"{before}/api/v1/swarming/bootstrap"
    return await send(world.url, "POST", path, headers=headers, host=host)


async def a_token(world: RunningDaemon) -> str:
    return (await mint(world)).json()["token"]


# ------------------------------------------------------------------ getting one


async def test_what_is_told_to_who_asks_for_one(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, a_zip(tmp_path / "bot.zip"))) as world:
        answer = await mint(world)
        assert answer.status == 200
        told = answer.json()
        assert told.keys() == {"url", "token", "expires_at", "digest", "token_needed"}
        assert told["url"] == "http://localhost:8710" and told["token_needed"] is True
        assert told["expires_at"] == "2026-09-21T15:13:20.000Z"  # an hour after a test begins
        location = (await get(world, "/bot_code", told["token"])).headers["location"]
        assert told["digest"] in location
        assert (await a_token(world)) != told["token"]
        async with open_client(world.url, token=TOKEN) as client:
            typed = await client.mint_bootstrap()
            assert typed.url == world.url and typed.digest != told["digest"]  # of another address


async def test_the_link_never_holds_the_token_of_who_asked_for_it(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, a_zip(tmp_path / "bot.zip"))) as world:
        answer = await mint(world, before=f"/{TOKEN}", headers=())
        assert answer.status == 200 and TOKEN.encode() not in answer.body
        script = await get(world, "/bootstrap", answer.json()["token"])
        assert TOKEN.encode() not in script.body


async def test_a_given_address_is_the_one_of_the_link(autojump_clock, tmp_path):
    config = guarded(tmp_path, a_zip(tmp_path / "bot.zip"), server_url="http://gateway.example/lab")
    async with running(tcp=True, config=config) as world:
        told = (await mint(world)).json()
        assert told["url"] == "http://gateway.example/lab"
        location = (await get(world, "/bot_code", told["token"])).headers["location"]
        assert location == f"/lab{API}/bot_code/{told['digest']}?tok={quote(told['token'], safe='')}"


async def test_a_daemon_that_asks_nobody_for_a_token_says_so(autojump_clock, tmp_path):
    config = Config(swarming=SwarmingConfig(bot_code=str(a_zip(tmp_path / "bot.zip"))))
    async with running(tcp=True, config=config) as world:
        assert (await mint(world, headers=())).json()["token_needed"] is False


async def test_only_who_may_operate_gets_one_and_only_where_there_is_code(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, None)) as world:
        for headers in ((), (("Authorization", f"Bearer {GROUP}"),)):
            answer = await mint(world, headers=headers)
            assert (answer.status, answer.error.code) == (401, "token_needed")
        async with open_client(world.url, token=TOKEN) as client:
            with pytest.raises(ApiError) as caught:
                await client.mint_bootstrap()
        assert (caught.value.status, caught.value.code) == (404, "no_bot_code")
        assert "[swarming]" in caught.value.remedy


# ------------------------------------------------------------------ what it opens


async def test_it_opens_the_way_to_the_code(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, a_zip(tmp_path / "bot.zip"))) as world:
        told = (await mint(world)).json()
        tok, shown = told["token"], quote(told["token"], safe="")
        assert shown != tok  # base64 has letters that a query has not: so quoting is tried here
        path = f"{API}/bot_code/{told['digest']}"
        for asked in ("/bot_code", "/bot_code?bot_id=b1", f"{API}/bot_code/{'0' * 64}", f"{path}?x=1"):
            answer = await get(world, asked, tok)
            assert (answer.status, answer.headers["location"]) == (302, f"{path}?tok={shown}"), asked
        answer = await send(world.url, "GET", f"{path}?tok={shown}", host="localhost:8710")
        assert answer.status == 200 and version_of(answer.body) == told["digest"]
        assert answer.headers["cache-control"] == "no-store"  # its address is a secret
        assert json.loads(files_of(answer.body)["config/config.json"])["server"] == "http://localhost:8710"
        script = await get(world, "/bootstrap", tok)
        assert (
            script.status == 200 and f"'http://localhost:8710/bot_code?tok={shown}'" in script.body.decode()
        )


async def test_it_opens_nothing_else(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, a_zip(tmp_path / "bot.zip"))) as world:
        tok = await a_token(world)
        assert {route.path for route in ROUTES if route.ticket} == set(WAYS)
        for route in world.app.routes:
            if route.verb is Verb.OPEN:
                continue
            path = target(route.path)
            shown = quote(tok, safe="")
            for asked, headers in (
                (f"{path}?tok={shown}", ()),
                (path, (("Authorization", f"Bearer {tok}"),)),
                (f"/{shown}{path}", ()),
            ):
                if route.ticket and "?" in asked:
                    continue
                answer = await send(world.url, route.method, asked, b"{}", (*headers, JSON))
                assert answer.status in (401, 404), (route, asked, answer)
                assert route.method == "HEAD" or answer.error.code in ("token_needed", "unknown_route"), asked
        for method in ("POST", "PUT", "HEAD", "DELETE"):
            assert (await send(world.url, method, f"/bot_code?tok={shown}")).status == 405


async def test_other_credentials_open_the_way_to_the_code_as_before(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, a_zip(tmp_path / "bot.zip"))) as world:
        for headers in ((SHOWN,), (("Authorization", f"Bearer {GROUP}"),)):
            first = await get(world, "/bot_code", headers=headers)
            assert first.status == 302 and "?" not in first.headers["location"]
            assert (await get(world, first.headers["location"], headers=headers)).status == 200
            assert (await get(world, "/bootstrap", headers=headers)).status == 200
            # What opens by itself needs no ticket, whatever is in its place.
            assert (await get(world, "/bot_code", "none of yours", headers)).status == 302
        for way in WAYS:
            answer = await get(world, target(way))
            assert (answer.status, answer.error.code) == (401, "token_needed"), way
            answer = await get(world, target(way), "")
            assert (answer.status, answer.error.code) == (401, "token_needed"), way


# ------------------------------------------------------------------ what is no token


def forged(tok: str) -> dict[str, str]:
    raw = base64.b64decode(tok)
    later = raw[:32] + raw[32:].replace(raw[34:42], b"\x7e" + raw[35:42])
    return {
        "another signature": base64.b64encode(bytes([raw[0] ^ 1]) + raw[1:]).decode(),
        "another end": base64.b64encode(later).decode(),
        "cut off": tok[:-4],
        "prolonged": base64.b64encode(raw + b"\x00").decode(),
        "no signature": base64.b64encode(raw[32:]).decode(),
        "no base64": tok[:-1] + "!",
        "not ASCII": tok[:-1] + "é",
        "nothing that is one": "x",
        "too long": "A" * 8_000,
        "the daemon's own": TOKEN,
        "a group's": GROUP,
    }


async def refused(world: RunningDaemon, tok: str, says: str) -> None:
    for way in WAYS:
        answer = await get(world, target(way), tok)
        assert answer.status == 401, (way, answer)
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.error.code == "bad_bootstrap_token" and says in answer.error.message, answer.body
        assert "swarmd swarming-bot" in answer.error.message
        assert tok.encode() not in answer.body or len(tok) < 5


async def test_one_that_was_not_made_here_opens_nothing(autojump_clock, tmp_path):
    config = guarded(tmp_path, a_zip(tmp_path / "bot.zip"))
    async with running(tcp=True, config=config) as other:
        foreign = await a_token(other)
    async with running(tcp=True, config=config) as world:
        await refused(world, foreign, "not signed by this daemon")  # before there is any key, too
        tok = await a_token(world)
        assert (await get(world, "/bot_code", tok)).status == 302
        await refused(world, foreign, "not signed by this daemon")
        made = forged(tok)
        assert made["another end"] != tok
        for what, text in made.items():
            assert text != tok, what
            await refused(world, text, "the token")
        assert (await get(world, "/bot_code", tok)).status == 302


async def test_a_token_for_something_else_is_none(autojump_clock, tmp_path):
    class Lookalike(Signed, frozen=True, array_like=True):
        nonce: str

    async with running(tcp=True, config=guarded(tmp_path, a_zip(tmp_path / "bot.zip"))) as world:
        hello = {"dimensions": {"id": ["b1"]}, "state": {}, "version": "x", "session_id": "s/1"}
        answer = await send(world.url, "POST", f"{API}/handshake", hello, (SHOWN, JSON))
        session = answer.json()["session"]
        await refused(world, session, "not signed by this daemon")
        # And the other way round.
        tok = await a_token(world)
        body = {"dimensions": {"id": ["b1"]}, "session": tok}
        answer = await send(world.url, "POST", f"{API}/poll", body, (SHOWN, JSON))
        assert answer.json()["cmd"] in ("bot_restart", "update")
        answer = await send(world.url, "POST", f"{API}/event", {"session": tok}, (SHOWN, JSON))
        assert (answer.status, answer.error.code) == (401, "bad_session")
        signer = world.app._handlers["mint_bootstrap"].__self__._context.signer
        await refused(world, signer.sign(Lookalike(world.now + 99, "x")), "not signed by this daemon")
        assert signer.read(tok, BootstrapToken, world.now).nonce
        assert signer.read(session, SessionToken, world.now).bot == "b1"


async def test_it_is_good_for_an_hour_also_over_a_restart(autojump_clock, tmp_path):
    config = guarded(tmp_path, a_zip(tmp_path / "bot.zip"))
    async with running(tmp_path / "db", tcp=True, config=config) as world:
        tok = await a_token(world)
        await trio.sleep(BOOTSTRAP_S - 60)
    async with running(tmp_path / "db", tcp=True, config=config) as world:
        for way in WAYS:
            assert (await get(world, target(way), tok)).status in (200, 302)
        await trio.sleep(61)
        await refused(world, tok, "the token has expired")


# ------------------------------------------------------------------ where it must not be seen


async def test_it_is_in_no_log_and_in_no_history(autojump_clock, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("swarmd").propagate = True
    async with running(tcp=True, config=guarded(tmp_path, a_zip(tmp_path / "bot.zip"))) as world:
        tok = await a_token(world)
        good = [tok, *forged(tok).values()]
        for way in WAYS:
            for text in good:
                await get(world, target(way), text)
                await get(world, f"/nothing{target(way)}", text)

        async def fails(call):
            raise RuntimeError("on purpose")

        world.app._handlers = {name: fails for name in world.app._handlers}
        for way in WAYS:
            assert (await get(world, target(way), tok)).status == 500
        assert "call.failed" in caplog.text
        history = repr(list(world.daemon.engine.bots)) + repr(world.daemon.engine.changes)
        seen = caplog.text + history + "".join(repr(vars(record)) for record in caplog.records)
        for text in (*good, TOKEN):
            assert len(text) < 5 or (text not in seen and quote(text, safe="") not in seen)


# ------------------------------------------------------------------ as a machine does it


async def run_script(program: list[str], here: Path, stdin: bytes = b"", **env: str):
    here.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    return await trio.run_process(
        program, stdin=stdin, cwd=here, env={**kept, **env}, check=False, capture_stderr=True
    )


async def test_a_machine_that_has_only_the_link_becomes_a_bot(tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, a_folder(tmp_path / "bot"))) as world:
        told = (await mint(world, host=world.url.removeprefix("http://"))).json()
        link = f"{told['url']}/bootstrap?tok={quote(told['token'], safe='')}"
        program = f"import urllib.request as u; exec(u.urlopen({link!r}).read())"
        here = tmp_path / "here"
        ended = await run_script([sys.executable, "-c", program], here, SWARMING_BOT_ID="lab-7")
        assert ended.returncode == 0, ended.stderr
        found = json.loads((here / "told.json").read_text())
        assert (found["version"], found["server"]) == (told["digest"], world.url)
        assert found["argv"] == ["start_bot"] and found["SWARMING_BOT_ID"] == "lab-7"
        assert found["SWARMING_EXTERNAL_BOT_SETUP"] == "1" and found["TMPDIR"] == str(here / "tmp")
        assert (here / "tmp").is_dir()


async def test_the_script_says_why_it_cannot(tmp_path):
    async with running(tcp=True, config=guarded(tmp_path, a_folder(tmp_path / "bot"))) as world:
        host = world.url.removeprefix("http://")
        shown = quote((await a_token(world)), safe="")
        script = (await send(world.url, "GET", f"/bootstrap?tok={shown}", host=host)).body
        old = script.replace(b"tok=", b"tok=x")
        assert old != script
        ended = await run_script([sys.executable, "-"], tmp_path / "here", old)
        assert ended.returncode == 1 and b"the daemon refused: " in ended.stderr
        assert b"bad_bootstrap_token" in ended.stderr and b"Traceback" not in ended.stderr
        home = tmp_path / "home"
        ended = await run_script([sys.executable, "-"], home, script, HOME=str(home))
        assert ended.returncode == 1 and b"not the home folder" in ended.stderr
        assert list(home.iterdir()) == []
