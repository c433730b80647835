"""Access tokens: which account a task has, who gets a token of it, and what that opens for how long."""

from __future__ import annotations

import json
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
import trio

from swarmd.api.native.messages import TaskRequest
from swarmd.api.routes import Verb
from swarmd.api.swarming.accounts import MAX_AUDIENCE, MAX_SCOPES_CHARACTERS
from swarmd.api.swarming.tokens import AccessToken
from swarmd.client import ApiError, BotOrderRequest, open_client, task
from swarmd.config import Config
from swarmd.config_swarming import BotGroup, SwarmingConfig
from swarmd.core.model import Payload, Work
from swarmd.core.submitting import SliceSpec, TaskSpec
from swarmd.testing.bots import NativeBot
from swarmd.testing.harness import WALL, running
from tests.api.swarming.token_bots import DAEMON_TOKEN, TokenBot, bearer, token_file, working
from tests.api.test_edge import target
from tests.api.wire import JSON, send

LAB = Config(swarming=SwarmingConfig(task_account="ci@lab", system_account="sys@lab"))
TASK_VERBS = {Verb.READ, Verb.SUBMIT, Verb.CHANGE, Verb.OPEN}


def guarded(tmp_path) -> Config:
    """Nobody is trusted: the daemon's token, or one of a task."""
    return msgspec.structs.replace(LAB, token_file=token_file(tmp_path / "own"), trust_loopback=False)


def properties_of(**fields) -> bytes:
    return msgspec.json.encode({"command": ["true"], **fields})


def properties(**fields) -> TaskRequest:
    return TaskRequest(payload=Payload("swarming.properties", properties_of(**fields)))


async def signer_of(world):
    [package] = [p for p in world.app.packages if p.name == "swarming"]
    return package.lesser.__self__.signer


# --------------------------------------------------------------------- which account

ACCOUNTS = {  # what the configuration says, what the task says, what it gets
    "as configured": ("ci@lab", None, "ci@lab"),
    "of its own": ("ci@lab", "release@lab", "release@lab"),
    "of its own where others have none": ("none", "release@lab", "release@lab"),
    "none of its own": ("ci@lab", "none", "ci@lab"),
    "nothing of its own": ("ci@lab", "", "ci@lab"),
    "none at all": ("none", None, "none"),
    "the bot's": ("ci@lab", "bot", "bot"),
    "the bot's for all": ("bot", None, "bot"),
}


@pytest.mark.parametrize("name", ACCOUNTS)
async def test_the_account_is_the_one_that_the_manifest_named(name, autojump_clock):
    configured, own, expected = ACCOUNTS[name]
    config = Config(swarming=SwarmingConfig(task_account=configured, system_account="sys@lab"))
    async with running(config=config) as world:
        await world.client.submit([task(argv=["true"]) if own is None else properties(service_account=own)])
        bot = await working(world)
        named = bot.manifest["service_accounts"]
        assert named == {
            "task": {"service_account": expected},
            "system": {"service_account": "sys@lab"},
        }
        for kind, key in (("oauth", "access_token"), ("id", "id_token")):
            given = (await bot.token(kind)).json()
            assert given["service_account"] == expected
            without = expected in ("none", "bot")
            assert given.keys() == ({"service_account"} if without else {"service_account", key, "expiry"})
            assert (await bot.token(kind, account_id="system")).json()["service_account"] == "sys@lab"


async def test_a_slice_of_its_own_has_an_account_of_its_own(autojump_clock):
    """The work is that of the slice which runs, not of the first one."""
    works = tuple(
        Work(payload=Payload("swarming.properties", properties_of(service_account=account)))
        for account in ("first@lab", "second@lab")
    )
    slices = (
        SliceSpec(dimensions={"os": ["none"]}, expiration_s=5),
        SliceSpec(dimensions={"os": ["Linux"]}),
    )
    async with running(config=LAB) as world:
        bot = await TokenBot(world.url).handshake()
        await bot.poll()
        with world.daemon.step() as (engine, now):
            engine.submit(now, [TaskSpec(work=works, slices=slices)])
        await trio.sleep(6)
        await bot.run_one()
        assert (await bot.token()).json()["service_account"] == "second@lab"


# --------------------------------------------------------------------- what is refused

REFUSED = {
    "another account": ({"account_id": "root"}, "account_id is 'root'"),
    "no account": ({"account_id": None}, "account_id is None"),
    "an account that is no text": ({"account_id": ["task"]}, "account_id is ['task']"),
    "a run that ended": ({"task_id": "OLD"}, "the bot does not run this task"),
    "no such task": ({"task_id": "7add21f400000081"}, "the bot does not run this task"),
    "a task that is none": ({"task_id": {"a": 1}}, "the bot does not run this task"),
    "no task": ({"task_id": None}, "the bot does not run this task"),
}
REFUSED_OAUTH = {
    "no scopes": ({"scopes": None}, "scopes is no list of words"),
    "empty scopes": ({"scopes": []}, "scopes is no list of words"),
    "scopes that are a text": ({"scopes": "cloud"}, "scopes is no list of words"),
    "an empty scope": ({"scopes": ["a", ""]}, "scopes is no list of words"),
    "a scope with a blank": ({"scopes": ["a b"]}, "scopes is no list of words"),
    "a scope that is no text": ({"scopes": ["a", 1]}, "scopes is no list of words"),
    "too many scopes": ({"scopes": ["x" * 100 + str(n) for n in range(20)]}, "scopes have more than 2000"),
    "an audience": ({"audience": "https://x.example"}, "an access token has no audience"),
}
REFUSED_ID = {
    "no audience": ({"audience": None}, "audience is no word"),
    "an empty audience": ({"audience": ""}, "audience is no word"),
    "an audience that is a list": ({"audience": ["https://x.example"]}, "audience is no word"),
    "an audience with a line end": ({"audience": "a\nb"}, "audience is no word"),
    "a long audience": ({"audience": "x" * (MAX_AUDIENCE + 1)}, "audience is no word"),
    "scopes, too": ({"scopes": ["s"]}, "an ID token has no scopes"),
}
CASES = [
    *((kind, name, *case) for kind in ("oauth", "id") for name, case in REFUSED.items()),
    *(("oauth", name, *case) for name, case in REFUSED_OAUTH.items()),
    *(("id", name, *case) for name, case in REFUSED_ID.items()),
]


@pytest.mark.parametrize(
    ("kind", "name", "asked", "text"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
async def test_what_cannot_be_given_is_refused_for_good(kind, name, asked, text, autojump_clock):
    """400 with JSON: the bot hands the text to the task, which then does not ask again."""
    async with running(config=LAB) as world:
        await world.client.submit([task(argv=["true"]), task(argv=["true"])])
        bot = await working(world)
        old = bot.task
        await bot.finish()
        await bot.run_one()
        asked = {key: old if value == "OLD" else value for key, value in asked.items()}
        answer = await bot.token(kind, **asked)
        assert (answer.status, answer.headers["content-type"]) == (400, "application/json; charset=utf-8")
        assert answer.json()["error"].startswith(text), answer
        assert (await bot.token(kind)).status == 200, "the bot itself can have one"


async def test_the_most_that_may_be_asked_is_given(autojump_clock):
    scopes = ["x" * 100 + f"{n:02}" for n in range(19)]
    scopes.append("y" * (MAX_SCOPES_CHARACTERS - sum(map(len, scopes))))
    async with running(config=LAB) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        given = (await bot.token(scopes=scopes)).json()
        token = (await signer_of(world)).read(given["access_token"], AccessToken, world.now)
        assert set(token.scopes) == set(scopes)
        assert (await bot.token("id", audience="x" * MAX_AUDIENCE)).status == 200


@pytest.mark.parametrize("account", ["ci lab", "ci\nlab", "-ci", "x" * 129, "säge"])
async def test_an_account_that_cannot_be_is_refused_for_good(account, autojump_clock):
    async with running(config=LAB) as world:
        await world.client.submit([properties(service_account=account)])
        bot = await working(world)
        for kind in ("oauth", "id"):
            answer = await bot.token(kind)
            assert (answer.status, answer.error.code) == (400, "bad_account")
        assert (await bot.token(account_id="system")).status == 200


async def test_a_bot_gets_no_token_of_what_another_bot_runs(autojump_clock):
    async with running(config=LAB) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        other = await TokenBot(world.url, "b2").handshake()
        for kind in ("oauth", "id"):
            assert (await other.token(kind, task_id=bot.task)).error.code == "wrong_task"
            assert (await other.token(kind, task_id=bot.task, id=bot.id)).status == 401
            assert (await other.token(kind, task_id=bot.task, session=bot.session)).status == 401


async def test_a_runner_of_a_bot_that_has_restarted_gets_none(autojump_clock):
    async with running(config=LAB) as world:
        await world.client.submit([task(argv=["true"], bot_retries=0)])
        bot = await working(world)
        await TokenBot(world.url, bot.id, process="p/2").handshake()
        assert (await bot.token()).error.code == "wrong_task"


async def test_an_order_to_end_has_no_tokens(autojump_clock):
    async with running(config=LAB) as world:
        bot = await TokenBot(world.url).handshake()
        await bot.poll()
        with world.daemon.step() as (engine, now):
            engine.submit(
                now,
                [
                    TaskSpec(
                        work=(Work(terminate=True),), slices=(SliceSpec(dimensions={"id": ["b1"]}),), pool=""
                    )
                ],
            )
        told = await bot.poll()
        assert told["cmd"] == "terminate"
        for kind in ("oauth", "id"):
            assert (await bot.token(kind, task_id=told["task_id"])).error.code == "wrong_task"


# --------------------------------------------------------------------- how long


@pytest.mark.parametrize(
    ("hard_limit_s", "life_s"),
    [(1.0, 600), (1_200.0, 1_200 + 3 * 30 + 60), (6e5, 3_600)],
    ids=["short", "", "long"],
)
async def test_a_token_lives_as_long_as_its_attempt_may_within_bounds(hard_limit_s, life_s, autojump_clock):
    async with running(config=LAB) as world:
        await world.client.submit([task(argv=["true"], hard_limit_s=hard_limit_s)])
        bot = await working(world)
        given = (await bot.token()).json()
        assert given["expiry"] == math.floor(world.daemon.clock.wall() + life_s)
        assert given["expiry"] - WALL >= 600
        token = (await signer_of(world)).read(given["access_token"], AccessToken, world.now)
        assert token.expires_at == world.now + life_s


async def test_a_token_ends_with_its_time_though_the_task_runs_on(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"], hard_limit_s=6e5)])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        token = (await bot.token()).json()["access_token"]
        reads = lambda: send(world.url, "GET", "/api/v1/tasks", headers=bearer(token))  # noqa: E731
        for _ in range(35):
            await trio.sleep(100)
            await bot.update()
        assert (await reads()).status == 200
        await trio.sleep(100)
        await bot.update()
        assert (await reads()).status == 401
        again = (await bot.token()).json()["access_token"]
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(again))).status == 200


# --------------------------------------------------------------------- what it opens


async def test_a_task_submits_a_task_and_reads_it_until_it_ends(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            [id] = await owner.submit([task(argv=["true"], name="parent")])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        token = (await bot.token(scopes=["tasks"])).json()["access_token"]
        async with open_client(world.url, token) as inside:
            [child] = await inside.submit([task(argv=["true"], name="child", parent=id)])
            details = await inside.get(child)
            assert (details.name, details.state) == ("child", "PENDING")
            await inside.cancel([child])
            assert (await inside.get(child)).state == "CANCELED"
            await bot.finish()
            with pytest.raises(ApiError) as caught:
                await inside.get(child)
            assert (caught.value.status, caught.value.code) == (401, "token_needed")
            with pytest.raises(ApiError):
                await inside.submit([task(argv=["true"])])
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            assert [t.name async for t in owner.tasks()] == ["child", "parent"]


async def test_a_task_s_token_opens_what_tasks_may_do_and_nothing_else(autojump_clock, tmp_path):
    """Every route: one that is added tomorrow is covered without a new line here."""
    async with running(tcp=True, config=guarded(tmp_path)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"])])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        headers = bearer((await bot.token()).json()["access_token"])
        shut = []
        for route in world.app.routes:
            if route.held_s or route.produces == "text/event-stream":
                continue
            answer = await send(world.url, route.method, target(route.path), b"{}", (*headers, JSON))
            assert (answer.status != 401) == (route.verb in TASK_VERBS), (route, answer)
            shut += [route.handler] if answer.status == 401 else []
        assert {"order_bot", "open_session", "backup", "swarming_handshake", "swarming_event"} <= set(shut)
        assert not world.daemon.engine.bots["b1"].draining


async def test_in_words_no_drain_no_session_no_backup(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"])])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        token = (await bot.token()).json()["access_token"]
        async with open_client(world.url, token) as inside:
            with pytest.raises(ApiError) as caught:
                await inside.order_bot("b1", BotOrderRequest(drain=True))
            assert (caught.value.status, caught.value.code) == (401, "token_needed")
            with pytest.raises(ApiError) as caught:
                await NativeBot(inside, "b9").open()
            assert caught.value.status == 401
            with pytest.raises(ApiError) as caught:
                async with inside.backup() as _:
                    pass
            assert caught.value.status == 401
        answer = await TokenBot(world.url, "b9", headers=bearer(token)).call(
            "handshake", {"dimensions": {"id": ["b9"]}, "state": {}, "version": "v", "session_id": "p/1"}
        )
        assert answer.status == 401
        assert set(world.daemon.engine.bots) == {"b1"}


async def test_a_task_s_token_is_no_session_and_a_session_no_token_of_a_task(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"])])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        token = (await bot.token()).json()["access_token"]
        assert (await bot.call("event", {"session": token, "event": "bot_log"})).status == 401
        answer = await send(world.url, "GET", "/api/v1/tasks", headers=bearer(bot.session))
        assert answer.status == 401


async def test_a_token_is_that_of_one_attempt(autojump_clock, tmp_path):
    """The task runs again: what the first run was given is good no more."""
    async with running(tcp=True, config=guarded(tmp_path)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"], retries=1)])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        first = (await bot.token()).json()["access_token"]
        await bot.update(exit_code=1, duration=1.0)
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(first))).status == 401
        await bot.run_one()
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(first))).status == 401
        second = (await bot.token()).json()["access_token"]
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(second))).status == 200


async def test_a_token_outlives_the_daemon_and_is_one_of_no_other(autojump_clock, tmp_path):
    config = guarded(tmp_path)
    async with running(tmp_path / "one", tcp=True, config=config) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"])])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        token = (await bot.token()).json()["access_token"]
    async with running(tmp_path / "one", tcp=True, config=config) as world:
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(token))).status == 200
    async with running(tmp_path / "two", tcp=True, config=config) as world:
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(token))).status == 401


async def test_a_canceled_task_keeps_its_token_until_it_has_ended(autojump_clock, tmp_path):
    async with running(tcp=True, config=guarded(tmp_path)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            [id] = await owner.submit([task(argv=["true"])])
            bot = await working(world, headers=bearer(DAEMON_TOKEN))
            token = (await bot.token()).json()["access_token"]
            await owner.cancel([id])
        assert (await bot.update())["must_stop"]
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(token))).status == 200, (
            "it cleans up"
        )
        await bot.update(exit_code=-15, duration=1.0)
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(token))).status == 401


async def test_bots_with_a_token_of_their_group_ask_for_tokens_with_it(autojump_clock, tmp_path):
    red = token_file(tmp_path / "red", "the-token-of-the-red-ones")
    config = guarded(tmp_path)
    groups = [BotGroup(bots=["red*"], token_file=red)]
    config = msgspec.structs.replace(config, swarming=msgspec.structs.replace(LAB.swarming, groups=groups))
    async with running(tcp=True, config=config) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"])])
        bot = await working(world, "red1", headers=bearer("the-token-of-the-red-ones"))
        assert (await bot.token()).status == 200
        bot.headers = bearer(DAEMON_TOKEN)
        assert (await bot.token()).status == 401


# --------------------------------------------------------------------- what stands in the history


async def test_the_history_of_a_task_says_which_tokens_it_was_given(autojump_clock, tmp_path):
    async with running(tmp_path / "db", config=LAB) as world:
        [id] = await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        given = (await bot.token(scopes=["b", "a", "b"])).json()
        token = (await signer_of(world)).read(given["access_token"], AccessToken, world.now)
        assert token.scopes == ("a", "b"), "they are in the token"
        proof = (await bot.token("id", account_id="system", audience="https://x.example")).json()
        await bot.token(scopes=[])
        answer = await send(world.url, "GET", f"/api/v1/tasks/{id}/events")
        told = [e for e in answer.json()["items"] if e["kind"] == "task.token"]
        assert [e["detail"]["message"] for e in told] == [
            "sys@lab: ID token for https://x.example",
            "ci@lab: access token with scopes a b",
        ]
        assert {e["bot"] for e in told} == {"b1"} and all(e["attempt"] for e in told)
        for secret in (given["access_token"], proof["id_token"]):
            assert secret.encode() not in answer.body


# --------------------------------------------------------------------- the document


def test_the_lines_of_the_document_ask_as_a_bot_s_own_server_expects(tmp_path, monkeypatch):
    asked = []

    class BotsOwn(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            body = json.dumps({"access_token": "a", "id_token": "i", "expiry": 1}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    text = (Path(__file__).parents[3] / "docs" / "swarming.md").read_text()
    [code] = [c for c in re.findall(r"```python\n(.+?)```", text, re.S) if "LuciLocalAuthService" in c]
    with HTTPServer(("127.0.0.1", 0), BotsOwn) as server:
        context = tmp_path / "context"
        context.write_text(json.dumps({"local_auth": {"rpc_port": server.server_port, "secret": "s"}}))
        monkeypatch.setenv("LUCI_CONTEXT", str(context))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            space: dict = {}
            exec(compile(code, "docs/swarming.md", "exec"), space)
        finally:
            server.shutdown()
            thread.join()
    assert (space["access"], space["proof"]) == ("a", "i")
    prefix, both = "/rpc/LuciLocalAuthService", {"account_id": "task", "secret": "s"}
    assert asked == [
        (f"{prefix}.GetOAuthToken", {**both, "scopes": ["tasks"]}),
        (f"{prefix}.GetIDToken", {**both, "audience": "https://service.example"}),
    ]
