"""The bot's code: what is served, which version of it, who is told to take it, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import trio

from swarmd.api.swarming import archive, bot_code, bots
from swarmd.api.swarming.archive import Archive
from swarmd.api.swarming.bot_code import BotCode
from swarmd.cli import main
from swarmd.client import BotOrderRequest, task
from swarmd.config import Config, ConfigError
from swarmd.config_swarming import BotGroup, PoolRules, SwarmingConfig
from swarmd.testing.harness import RunningDaemon, running
from tests.api.wire import Answer, send
from tests.daemon.test_main import eventually, serving

API = "/swarming/api/v1/bot"
TOKEN = "correct-horse-battery-staple"
# As the bot's own: what it is, told by itself. Python runs it out of the zip.
MAIN = """
import hashlib, json, os, sys, zipfile

def version():
    digest = hashlib.sha256()
    with zipfile.ZipFile(sys.argv[0]) as archive:
        for name in sorted(archive.namelist()):
            content = archive.read(name)
            for part in (str(len(name)).encode(), name.encode(), str(len(content)).encode(), content):
                digest.update(part)
    return digest.hexdigest()

with zipfile.ZipFile(sys.argv[0]) as archive:
    server = json.loads(archive.read("config/config.json"))["server"]
names = ("SWARMING_BOT_ID", "SWARMING_EXTERNAL_BOT_SETUP", "TMPDIR")
told = {"version": version(), "server": server, "argv": sys.argv[1:], **{n: os.environ.get(n) for n in names}}
with open("told.json", "w") as file:
    json.dump(told, file)
"""
FILES = {
    "__main__.py": MAIN.encode(),
    "api/__init__.py": b"",
    "config/__init__.py": b"",
    "config/bot_config.py": b"def get_state(bot): return {}\n",
    "third_party/pkg/data.bin": bytes(range(256)) * 40,
    "utils/zz.py": b"# last\n",
}


def a_folder(path: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def a_zip(path: Path, files: dict[str, bytes] = FILES, compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6)), content)
    return path


def config_of(path: Path | None, **more) -> Config:
    return Config(swarming=SwarmingConfig(bot_code=str(path or ""), **more))


def version_of(packed: bytes) -> str:
    """By the rule of the bot, in one line of its own."""
    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        found = {name: opened.read(name) for name in opened.namelist()}
        assert len(found) == len(opened.namelist()), "a name is twice in it"
    text = b"".join(
        f"{len(name)}{name}{len(content)}".encode() + content for name, content in sorted(found.items())
    )
    return hashlib.sha256(text).hexdigest()


def files_of(packed: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def server_in(packed: bytes) -> str:
    return json.loads(files_of(packed)["config/config.json"])["server"]


async def get(world: RunningDaemon, path: str, host: str = "127.0.0.1:8710") -> Answer:
    return await send(world.url, "GET", path, host=host)


async def fetched(world: RunningDaemon, host: str = "127.0.0.1:8710") -> tuple[str, bytes]:
    """The version and the zip that a bot gets which calls the daemon by this name."""
    first = await get(world, "/bot_code", host)
    assert first.status == 302 and first.body == b"", first
    location = first.headers["location"]
    found = await get(world, location, host)
    assert found.status == 200, found
    return location.rpartition("/")[2], found.body


async def poll(world: RunningDaemon, bot: str = "b1", host: str = "127.0.0.1:8710", before: str = "", **body):
    """What a poll is answered; its session token is that of a handshake of this bot, unless it is given."""
    body = {"dimensions": {"id": [bot], "pool": ["default"]}, "state": {}, **body}
    if "session" not in body:
        hello = {"dimensions": body["dimensions"], "state": {}, "version": "x", "session_id": "s/1"}
        hello["dimensions"] = {"id": [bot]}
        body["session"] = (
            await send(world.url, "POST", f"{before}{API}/handshake", hello, host=host)
        ).json()["session"]
    answer = await send(world.url, "POST", f"{before}{API}/poll", body, host=host)
    assert answer.status == 200, answer
    return answer.json()


# ------------------------------------------------------------------ the version


def test_the_version_is_a_digest_of_names_and_contents(tmp_path):
    code = Archive(a_zip(tmp_path / "bot.zip", {"__main__.py": b"x = 1", "d/e": b""}))
    text = b"11__main__.py5x = 1" + b"18config/config.json2{}" + b"3d/e0"
    assert code.version(b"{}") == hashlib.sha256(text).hexdigest()
    assert code.version(b"{}") == version_of(code.packed(b"{}"))


def test_the_version_knows_where_a_name_ends_and_what_stands_around_the_config(tmp_path):
    names = [
        "config/config.jso",
        "config/config.json0",
        "config/config.jsona",
        "config/zz",
        "config.json",
        "Z",
    ]
    files = {"__main__.py": b"", **{name: name.encode() for name in names}}
    code = Archive(a_zip(tmp_path / "bot.zip", files))
    assert code.version(b"config") == version_of(code.packed(b"config"))


async def test_python_runs_what_is_served_and_computes_the_same_version(tmp_path):
    async with running(tcp=True, config=config_of(a_folder(tmp_path / "bot"))) as world:
        version, packed = await fetched(world, host="localhost:8710")
        assert version == version_of(packed)
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "bot.zip").write_bytes(packed)
        await trio.run_process([sys.executable, "bot.zip", "start_bot"], cwd=tmp_path / "here")
        told = json.loads((tmp_path / "here" / "told.json").read_text())
    assert told["version"] == version and told["server"] == "http://localhost:8710"


async def test_neither_order_nor_time_nor_packing_changes_the_version(autojump_clock, tmp_path):
    shuffled = list(FILES.items())
    random.Random(7).shuffle(shuffled)
    other = a_folder(tmp_path / "other", dict(shuffled))
    for number, path in enumerate(sorted(other.rglob("*"))):
        os.utime(path, (number * 1000, number * 1000))
    left_out = {
        "__pycache__/x.py": b"", "api/__pycache__/a.cpython-311.pyc": b"", "api/a.pyc": b"", ".git/HEAD": b"x",
        "config/config.json": b'{"server": "http://elsewhere"}',
    }  # fmt: skip
    paths = [
        a_folder(tmp_path / "one"),
        other,
        a_folder(tmp_path / "more", {**left_out, **FILES}),
        a_zip(tmp_path / "stored.zip"),
        a_zip(tmp_path / "packed.zip", dict(shuffled), zipfile.ZIP_DEFLATED),
        a_zip(tmp_path / "folders.zip", {"api/": b"", **FILES, "config/config.json": b"{}"}),
    ]
    found = []
    for path in paths:
        async with running(tcp=True, config=config_of(path)) as world:
            found.append(await fetched(world))
    assert {version for version, _ in found} == {version_of(found[0][1])}
    assert len({packed for _, packed in found}) == 1
    assert files_of(found[0][1]).keys() == FILES.keys() | {"config/config.json"}


def test_a_version_is_another_for_any_other_byte(tmp_path):
    def version(files):
        return Archive(a_zip(tmp_path / "bot.zip", files)).version(b"{}")

    changed = [
        FILES,
        {**FILES, "utils/zz.py": b"# Last\n"},
        {**FILES, "utils/more.py": b""},
        {**FILES, "api/__init__.py": b"\n"},
        {name: content for name, content in FILES.items() if name != "utils/zz.py"},
        {("utils/zzz.py" if name == "utils/zz.py" else name): content for name, content in FILES.items()},
    ]
    assert len({version(files) for files in changed}) == len(changed)


# ------------------------------------------------------------------ the address in it


async def test_the_code_names_the_address_that_was_asked(autojump_clock, tmp_path):
    config = Config(
        allow_host=["lab.example"], swarming=SwarmingConfig(bot_code=str(a_folder(tmp_path / "bot")))
    )
    async with running(tcp=True, config=config) as world:
        versions = {}
        for host in ("127.0.0.1:8710", "127.0.0.1", "localhost:8710", "[::1]:8710", "lab.example:80"):
            version, packed = await fetched(world, host)
            assert server_in(packed) == f"http://{host}"
            assert (await poll(world, host=host, version=version))["cmd"] == "sleep"
            versions[version] = host
        assert len(versions) == 5
        # HTTP libraries write a name in lower case, so the bot would call by another one than it was given.
        assert (await fetched(world, "LAB.example:80"))[0] in versions


async def test_a_given_address_goes_before_what_was_asked(autojump_clock, tmp_path):
    config = config_of(a_zip(tmp_path / "bot.zip"), server_url="https://gateway.example/lab")
    async with running(tcp=True, config=config) as world:
        for host in ("127.0.0.1:8710", "localhost"):
            first = await get(world, "/bot_code", host)
            before, path, version = first.headers["location"].rpartition("/swarming/api/v1/bot/bot_code/")
            assert (before, path) == ("/lab", "/swarming/api/v1/bot/bot_code/")  # through the gateway again
            packed = (await get(world, path + version, host)).body
            assert server_in(packed) == "https://gateway.example/lab" and version_of(packed) == version


async def test_a_bot_that_shows_the_token_in_its_path_keeps_it_there(autojump_clock, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    config = Config(
        token_file=str(token), trust_loopback=False,
        swarming=SwarmingConfig(bot_code=str(a_zip(tmp_path / "bot.zip"))),
    )  # fmt: skip
    async with running(tcp=True, config=config) as world:
        first = await get(world, f"/{TOKEN}/bot_code", "localhost")
        assert first.headers["location"].startswith(f"/{TOKEN}/swarming/")
        found = await get(world, first.headers["location"], "localhost")
        assert found.status == 200 and server_in(found.body) == f"http://localhost/{TOKEN}"
        version = version_of(found.body)
        # It must not be told to take code that would call without the token.
        assert (await poll(world, host="localhost", before=f"/{TOKEN}", version=version))["cmd"] == "sleep"
        script = await get(world, f"/{TOKEN}/bootstrap", "localhost")
        assert f"'http://localhost/{TOKEN}/bot_code'" in script.body.decode()


async def test_what_is_kept_of_many_addresses_is_bounded(autojump_clock, tmp_path, monkeypatch):
    monkeypatch.setattr(bot_code, "MAX_VERSIONS", 6)
    monkeypatch.setattr(bot_code, "MAX_ZIPS", 2)
    served = []
    plain = bot_code._Channel.__init__
    monkeypatch.setattr(
        bot_code._Channel, "__init__", lambda self, code: (served.append(self), plain(self, code))[0]
    )
    async with running(tcp=True, config=config_of(a_zip(tmp_path / "bot.zip"))) as world:
        versions = [(await fetched(world, f"127.0.0.1:{port}"))[0] for port in range(1, 31)]
        [channel] = served
        assert len(channel._versions) == 6 and len(channel._zips) == 2
        # A zip that was let go is made again as long as its version is known, or asked for by the same name.
        for port, version in ((27, versions[26]), (3, versions[2])):
            answer = await get(world, f"{API}/bot_code/{version}", f"127.0.0.1:{port}")
            assert answer.status == 200 and version_of(answer.body) == version
        assert len(channel._versions) == 6 and len(channel._zips) == 2
        gone = await get(world, f"{API}/bot_code/{versions[4]}", "127.0.0.1:30")
        assert gone.headers["location"].endswith(versions[29])


# ------------------------------------------------------------------ fetching it


async def test_how_the_code_is_sent(autojump_clock, tmp_path):
    async with running(tcp=True, config=config_of(a_folder(tmp_path / "bot"))) as world:
        version, _ = await fetched(world)
        path = f"{API}/bot_code/{version}"
        answer = await get(world, path)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "public, max-age=3600"
        assert answer.headers["etag"] == f'"{version}"'
        assert answer.headers["content-disposition"] == 'attachment; filename="swarming_bot.zip"'
        assert int(answer.headers["content-length"]) == len(answer.body)
        for asked, location in (
            ("/bot_code", path),
            ("/bot_code?bot_id=b1", path),
            (f"{path}?x=1", path),  # so that caches keep one of it
            (f"{API}/bot_code/{'0' * 64}", path),
            (f"{API}/bot_code/{'0' * 64}?x=1", path),
            (f"{API}/bot_code/latest", path),
        ):
            answer = await get(world, asked)
            assert (answer.status, answer.headers["location"], answer.body) == (302, location, b""), asked
            assert answer.headers["cache-control"] == "no-store", asked


async def test_a_new_daemon_serves_what_its_bots_were_told_to_take(autojump_clock, tmp_path):
    """Told by the old one just before it stopped; nothing of that is known to the new one."""
    config = config_of(
        a_zip(tmp_path / "bot.zip"),
        bot_code_canary=str(a_zip(tmp_path / "new.zip", {**FILES, "new.py": b""})),
        canary_percent=50,
    )
    for bot in ("b1", "b2", "b3", "b4"):
        async with running(tcp=True, config=config) as world:
            told = (await poll(world, bot, version="old"))["version"]
        async with running(tcp=True, config=config) as world:
            answer = await get(world, f"{API}/bot_code/{told}")
            assert answer.status == 200 and version_of(answer.body) == told, bot


async def test_without_code_every_way_to_it_is_a_404_in_json_and_nobody_is_told_to_update(autojump_clock):
    async with running(tcp=True, config=config_of(None)) as world:
        for path in ("/bot_code", "/bootstrap", f"{API}/bot_code/{'0' * 64}"):
            answer = await get(world, path)
            assert (answer.status, answer.error.code) == (404, "no_bot_code"), path
            assert answer.headers["content-type"].startswith(
                "application/json"
            )  # else it is tried for minutes
        assert (await poll(world, version="whatever"))["cmd"] == "sleep"


async def test_the_script_starts_what_it_fetches(tmp_path):
    async with running(tcp=True, config=config_of(a_folder(tmp_path / "bot"))) as world:
        host = world.url.removeprefix("http://")
        script = await get(world, "/bootstrap", host)
        assert script.headers["content-type"] == "text/plain; charset=utf-8"
        here = tmp_path / "here"
        here.mkdir()
        env = {**os.environ, "SWARMING_BOT_ID": "lab-7"}
        env.pop("TMPDIR", None)
        await trio.run_process([sys.executable], stdin=script.body, cwd=here, env=env)
        told = json.loads((here / "told.json").read_text())
        version, packed = await fetched(world, host)
    assert told["version"] == version and told["server"] == world.url and told["argv"] == ["start_bot"]
    assert (told["SWARMING_BOT_ID"], told["SWARMING_EXTERNAL_BOT_SETUP"]) == ("lab-7", "1")
    assert (here / "swarming_bot.zip").read_bytes() == packed


# ------------------------------------------------------------------ who is told to update


async def test_an_outdated_bot_is_told_so_before_anything_else_is_looked_at(autojump_clock, tmp_path):
    config = config_of(
        a_folder(tmp_path / "bot"), session_s=60,
        groups=[BotGroup(bots=["r-*"], dimensions={"pool": ["rbe"]}), BotGroup()], pools={"rbe": PoolRules(mode="rbe")},
    )  # fmt: skip
    async with running(tcp=True, config=config) as world:
        version, _ = await fetched(world)
        update = {"cmd": "update", "version": version}
        await world.client.submit([task(argv=["x"])])

        async def told(**body):
            answer = await poll(world, **{"version": "old", **body})
            return {name: value for name, value in answer.items() if name != "session"}

        assert await told() == update  # and not the task
        assert await told(session=None) == update
        assert await told(session="") == update
        assert await told(session="no token") == update
        assert await told(session={"a": 1}) == update
        assert await told(state=None) == update
        assert await told(state=["x"]) == update
        assert await told(dimensions={"id": ["b1"], "os": []}) == update
        assert await told(dimensions={"id": ["b1"], "os": "Linux", "0": [7]}) == update
        assert await told(request_uuid="not / a uuid!") == update
        assert await told(bot="r-1") == update
        assert await told(bot="r-1", force=True) == update
        taken = await poll(world, version=version)
        assert taken["cmd"] == "run"
        old = taken["session"]
        await world.client.order_bot("b1", BotOrderRequest(order="terminate", quarantine="broken"))
        assert await told(session=old) == update
        await trio.sleep(61)
        assert await told(session=old) == update
        # Who has the code, or does not say what it has, goes on.
        assert (await poll(world, "b3", version=version))["cmd"] == "sleep"
        assert (await poll(world, "b3"))["cmd"] == "sleep"
        assert (await poll(world, "b3", version=7))["cmd"] == "sleep"


async def test_the_handshake_names_the_version_that_a_bot_should_have(autojump_clock, tmp_path):
    async with running(tcp=True, config=config_of(a_folder(tmp_path / "bot"))) as world:
        version, _ = await fetched(world)
        hello = {"dimensions": {"id": ["b1"]}, "state": {}, "version": "old", "session_id": "s/1"}
        answer = await send(world.url, "POST", f"{API}/handshake", hello, host="127.0.0.1:8710")
        assert answer.json()["bot_version"] == version


async def test_a_bot_that_failed_to_update_is_left_alone_for_a_while(autojump_clock, tmp_path):
    folder = a_folder(tmp_path / "bot")
    async with running(tcp=True, config=config_of(folder, death_timeout_s=86_400)) as world:
        failed = {"quarantined": "Failed to self-update the bot"}
        first = await poll(world, version="old")
        token = first["session"]
        assert first["cmd"] == "update"

        async def told(state=failed, version="old"):
            answer = await poll(world, session=token, version=version, state=state)
            return answer["cmd"]

        assert [await told() for _ in range(3)] == ["sleep"] * 3
        [bot] = [bot async for bot in world.client.bots()]
        assert bot.quarantined == "Failed to self-update the bot"
        await trio.sleep(bots.RETRY_UPDATE_S[0] - 1)
        assert await told() == "sleep"
        await trio.sleep(2)
        assert [await told(), await told()] == ["update", "sleep"]
        # Of a bot that does not say that it failed, the answer may have been lost.
        assert [await told({}), await told({})] == ["update", "update"]
        assert await told() == "sleep"
        # Other code may be the one that mends it.
        (folder / "mended.py").write_bytes(b"")
        await world.app.reconfigure(config_of(folder, death_timeout_s=86_400))
        assert [await told(), await told()] == ["update", "sleep"]
        # Once it has the code, it is as any other.
        version, _ = await fetched(world)
        assert await told({}, version) == "sleep"
        assert await told(failed, "old") == "update"


async def test_what_is_remembered_of_the_told_is_bounded(autojump_clock, tmp_path, monkeypatch):
    monkeypatch.setattr(bots, "MAX_ASKED", 3)
    handlers = []
    plain = bots.BotHandlers.__init__
    monkeypatch.setattr(
        bots.BotHandlers, "__init__", lambda self, *given: (handlers.append(self), plain(self, *given))[0]
    )
    async with running(tcp=True, config=config_of(a_zip(tmp_path / "bot.zip"))) as world:
        for number in range(10):
            assert (await poll(world, f"b{number}", version="old", session=None))["cmd"] == "update"
            assert (await poll(world, "b0", version="old", session=None))["cmd"] == "update"
        assert list(handlers[0]._asked) == ["b8", "b9", "b0"]


# ------------------------------------------------------------------ canaries


@pytest.mark.parametrize("percent", [0.5, 1, 10, 50, 90])
async def test_about_so_many_bots_get_the_canary_and_always_the_same(autojump_clock, tmp_path, percent):
    stable, canary = a_zip(tmp_path / "a.zip"), a_zip(tmp_path / "b.zip", {**FILES, "new.py": b""})

    async def canaries(share: float) -> set[str]:
        code = BotCode(
            SwarmingConfig(bot_code=str(stable), bot_code_canary=str(canary), canary_percent=share)
        )
        usual = await code.stable("http://lab")
        ids = [f"lab-{number}" for number in range(10_000)]
        return {id for id in ids if await code.wanted(id, "http://lab") != usual}

    chosen = await canaries(percent)
    assert (
        abs(len(chosen) - percent * 100) < 4 * (percent * (100 - percent)) ** 0.5
    )  # four standard deviations
    assert await canaries(percent) == chosen
    assert await canaries(percent / 2) <= chosen <= await canaries(min(100, percent * 1.1))
    assert await canaries(0) == set() and len(await canaries(100)) == 10_000


async def test_a_canary_is_told_of_its_own_code_and_gets_it(autojump_clock, tmp_path):
    config = config_of(
        a_zip(tmp_path / "a.zip"), bot_code_canary=str(a_zip(tmp_path / "b.zip", {**FILES, "new.py": b"new"})),
        canary_percent=30,
    )  # fmt: skip
    async with running(tcp=True, config=config) as world:
        stable, _ = await fetched(world)
        told = Counter()
        for number in range(40):
            version = (await poll(world, f"b{number}", version="old", session=None))["version"]
            told[version] += 1
            packed = (await get(world, f"{API}/bot_code/{version}")).body
            assert version_of(packed) == version
            assert ("new.py" in files_of(packed)) == (version != stable)
        assert len(told) == 2 and told[stable] > 20
        # The end of the trial: all are told to go back.
        await world.app.reconfigure(config_of(tmp_path / "a.zip"))
        [other] = told.keys() - {stable}
        assert (await poll(world, "b1", version=other))["version"] == stable
        assert (await get(world, f"{API}/bot_code/{other}")).headers["location"].endswith(stable)


# ------------------------------------------------------------------ new code, and what cannot be taken


async def test_new_code_is_taken_when_the_configuration_is_read_anew_and_not_before(autojump_clock, tmp_path):
    folder = a_folder(tmp_path / "bot")
    async with running(tcp=True, config=config_of(folder)) as world:
        old, _ = await fetched(world)
        (folder / "utils/zz.py").write_bytes(b"# half of a copy")
        assert (await fetched(world))[0] == old
        (folder / "utils/zz.py").write_bytes(b"# whole\n")
        await world.app.reconfigure(config_of(folder))
        new, packed = await fetched(world)
        assert new != old and files_of(packed)["utils/zz.py"] == b"# whole\n"
        assert (await poll(world, version=old)) | {"session": ""} == {
            "cmd": "update", "version": new, "session": "",
        }  # fmt: skip
        assert (await get(world, f"{API}/bot_code/{old}")).headers["location"].endswith(new)
        await world.app.reconfigure(Config())
        assert (await get(world, "/bot_code")).status == 404
        assert (await poll(world, version=old))["cmd"] == "sleep"


async def test_sighup_reads_the_code_anew_and_tells_what_cannot_be_used(tmp_path):
    folder, log = a_folder(tmp_path / "bot"), tmp_path / "log"
    (tmp_path / "lab.toml").write_text(f'[swarming]\nbot_code = "{folder}"\n')
    with serving(tmp_path, "--config", str(tmp_path / "lab.toml")) as (process, url):

        async def location() -> str:
            return (await send(url, "GET", "/bot_code")).headers["location"]

        async def said(word: str) -> None:
            process.send_signal(signal.SIGHUP)
            await trio.to_thread.run_sync(lambda: eventually(lambda: word in log.read_text()))

        old = await location()
        (folder / "new.py").write_bytes(b"")
        assert await location() == old
        await said(" reloaded")
        new = await location()
        assert new != old
        (folder / "__main__.py").unlink()
        await said("reload.refused")
        assert f"the bot code {folder} has no __main__.py" in log.read_text()
        assert await location() == new
        process.terminate()
        assert await trio.to_thread.run_sync(process.wait, 30) == 0


def no_such_path(path: Path) -> None:
    pass


def empty(path: Path) -> None:
    path.mkdir()


def no_main(path: Path) -> None:
    a_folder(path, {"a/__main__.py": b"", "b": b""})


def not_a_zip(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n" * 100)


def cut_off(path: Path) -> None:
    path.write_bytes(a_zip(path).read_bytes()[:-100])


def damaged(path: Path) -> None:
    data = bytearray(a_zip(path, {"__main__.py": b"x" * 1000}).read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


def damaged_packing(path: Path) -> None:
    data = bytearray(a_zip(path, {"__main__.py": os.urandom(9000)}, zipfile.ZIP_DEFLATED).read_bytes())
    data[41:300] = b"\xff" * 259
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    data = bytearray(a_zip(path).read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        found = data.find(mark)
        while found >= 0:
            data[found + at] |= 1
            found = data.find(mark, found + 4)
    path.write_bytes(data)


def zip_without_main(path: Path) -> None:
    a_zip(path, {"bot/__main__.py": b""})


def strange_name(path: Path) -> None:
    a_folder(path, {**FILES, "api/ü.py": b""})


def name_of_no_encoding(path: Path) -> None:
    a_folder(path)
    (Path(os.fsdecode(os.fsencode(path) + b"/api/\xff.py"))).write_bytes(b"")


def loose_link(path: Path) -> None:
    a_folder(path)
    (path / "adb").symlink_to("../../third_party/python-adb/adb")


def link_in_a_circle(path: Path) -> None:
    a_folder(path)
    (path / "third_party/all").symlink_to("..")


def link_to_itself(path: Path) -> None:
    a_folder(path)
    (path / "self").symlink_to("self")


def pipe(path: Path) -> None:
    a_folder(path)
    os.mkfifo(path / "api/pipe")


def device(path: Path) -> None:
    a_folder(path)
    (path / "api/zero").symlink_to("/dev/zero")


def many_files(path: Path) -> None:
    a_folder(path, {**FILES, **{f"many/{number}": b"" for number in range(60)}})


def many_folders(path: Path) -> None:
    a_folder(path)
    for number in range(60):
        (path / f"empty/{number}").mkdir(parents=True)


def many_in_a_zip(path: Path) -> None:
    a_zip(path, {**FILES, **{f"many/{number}": b"" for number in range(60)}})


def large(path: Path) -> None:
    a_folder(path, {**FILES, "a": b"x" * 40_000, "b": b"x" * 40_000})


def one_large(path: Path) -> None:
    a_folder(path, {**FILES, "core": b"x" * 60_001})


def large_when_unpacked(path: Path) -> None:
    a_zip(path, {**FILES, "zeros": bytes(1_000_000)}, zipfile.ZIP_DEFLATED)


BAD = {
    no_such_path: "cannot read the bot code {}: {} does not exist",
    empty: "the bot code {} has no __main__.py",
    no_main: "the bot code {} has no __main__.py",
    not_a_zip: "cannot read the bot code {}: File is not a zip file",
    cut_off: "cannot read the bot code {}: ",
    damaged: "cannot read the bot code {}: ",
    damaged_packing: "cannot read the bot code {}: ",
    encrypted: "cannot read the bot code {}: ",
    zip_without_main: "the bot code {} has no __main__.py",
    strange_name: "the bot code {} has a file 'api/ü.py'",
    name_of_no_encoding: "the bot code {} has a file 'api/\\udcff.py'",
    loose_link: "cannot read the bot code {}: [Errno 2] No such file or directory: '{}/adb'",
    link_in_a_circle: "the bot code {} has a link 'third_party/all' to a folder around it",
    link_to_itself: "cannot read the bot code {}: [Errno 40] ",
    pipe: "the bot code {} has 'api/pipe', which is no file or folder",
    device: "the bot code {} has 'api/zero', which is no file or folder",
    many_files: "the bot code {} has more than 50 files or ",
    many_folders: "the bot code {} has more than 50 files or ",
    many_in_a_zip: "the bot code {} has more than 50 files or ",
    large: "the bot code {} has more than 50 files or ",
    one_large: "the bot code {} has more than 50 files or ",
    large_when_unpacked: "the bot code {} has more than 50 files or ",
}


async def refused(config: Config) -> ConfigError:
    """Why a daemon does not start with it."""
    found: list[BaseException] = []
    try:
        async with running(config=config):
            pass
    except* ConfigError as errors:
        found += errors.exceptions
    [error] = found
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, ConfigError)
    return error


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
async def test_what_is_no_bot_is_refused_in_words_and_the_old_code_stays(
    make, autojump_clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(archive, "MAX_FILES", 50)
    monkeypatch.setattr(archive, "MAX_CODE_BYTES", 60_000)
    path = tmp_path / "given"
    make(path)
    error = await refused(config_of(path))
    assert error.message.startswith(BAD[make].replace("{}", str(path))), error.message
    assert error.remedy and "\n" not in error.message
    good = a_folder(tmp_path / "good")
    for settings in (
        config_of(path),
        config_of(good, bot_code_canary=str(path)),
    ):
        async with running(tcp=True, config=config_of(good, poll_s=7, poll_max_s=7)) as world:
            before = await fetched(world)
            with pytest.raises(ConfigError):
                await world.app.reconfigure(settings)
            assert await fetched(world) == before
            answer = await poll(world, version=before[0])
            assert (answer["cmd"], answer["duration"]) == ("sleep", 7)  # nothing else was taken either


def test_a_daemon_does_not_start_with_code_that_is_none(tmp_path, capsys):
    (tmp_path / "lab.toml").write_text(f'[swarming]\nbot_code = "{tmp_path / "none"}"\n')
    code = main(
        [
            "serve",
            "--db",
            str(tmp_path / "db"),
            "--listen",
            "127.0.0.1:0",
            "--config",
            str(tmp_path / "lab.toml"),
        ]
    )
    assert code == 1
    assert f"cannot read the bot code {tmp_path / 'none'}" in capsys.readouterr().err


def test_a_canary_needs_something_that_it_is_a_trial_of(tmp_path):
    with pytest.raises(ConfigError) as caught:
        BotCode(SwarmingConfig(bot_code_canary=str(a_zip(tmp_path / "bot.zip"))))
    assert "without bot_code" in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_refused(tmp_path):
    folder = a_folder(tmp_path / "bot")
    (folder / "api").chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        Archive(folder)


def test_links_are_followed_as_a_checkout_has_them(tmp_path):
    a_folder(tmp_path / "client/utils", {"a.py": b"a", "deep/b.py": b"b"})
    folder = a_folder(tmp_path / "bot")
    (folder / "libs").symlink_to("../client/utils")
    (folder / "libs2").symlink_to("../client/utils/deep")  # twice, but in no circle
    (folder / "cipd.py").symlink_to("../client/utils/a.py")
    added = {"libs/a.py": b"a", "libs/deep/b.py": b"b", "libs2/b.py": b"b", "cipd.py": b"a"}
    assert archive.read_code(folder) == {**FILES, **added}


def test_a_folder_that_is_far_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_CODE_BYTES", 100_000)
    folder = a_folder(tmp_path / "bot")
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(ConfigError, match="more than"):
        Archive(folder)


# ------------------------------------------------------------------ what a poll costs


async def test_no_poll_makes_code_on_the_thread_of_the_daemon(autojump_clock, tmp_path, monkeypatch):
    made = Counter()

    def watched(name, plain):
        def method(self, *given):
            made[name] += 1
            assert threading.current_thread() is not threading.main_thread(), name
            return plain(self, *given)

        return method

    for name in ("version", "packed", "__init__"):
        monkeypatch.setattr(Archive, name, watched(name, getattr(Archive, name)))
    config = config_of(
        a_zip(tmp_path / "a.zip"), bot_code_canary=str(a_zip(tmp_path / "b.zip", {**FILES, "new.py": b""})),
        canary_percent=50,
    )  # fmt: skip
    async with running(tcp=True, config=config) as world:
        async with trio.open_nursery() as nursery:  # as all of a lab after a restart of the daemon
            for number in range(50):
                nursery.start_soon(lambda n=number: poll(world, f"b{n}", version="old", session=None))
        assert made == {"__init__": 2, "version": 2}
        _, packed = await fetched(world)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(fetched, world)
        assert made == {"__init__": 2, "version": 2, "packed": 1}
        # New code is ready for each address in use before it counts.
        await poll(world, host="localhost", version="old", session=None)
        made.clear()
        await world.app.reconfigure(config)
        assert made == {"__init__": 2, "version": 4}
        for number in range(20):
            await poll(world, f"b{number}", version="old", session=None)
            await poll(world, f"b{number}", host="localhost", version="old", session=None)
        assert made == {"__init__": 2, "version": 4}
        assert (await fetched(world))[1] == packed


def test_one_more_address_costs_no_packing_of_the_whole(tmp_path, monkeypatch):
    code = Archive(
        a_zip(tmp_path / "bot.zip", {**FILES, **{f"f{n}.py": os.urandom(5_000) for n in range(200)}})
    )
    written = []
    plain = zipfile.ZipFile.writestr
    monkeypatch.setattr(
        zipfile.ZipFile,
        "writestr",
        lambda self, name, data: (written.append(data), plain(self, name, data))[0],
    )
    assert version_of(code.packed(b"{}")) == code.version(b"{}")
    assert written == [b"{}"]


def test_the_same_code_is_read_by_a_program_that_is_no_python(tmp_path):
    """Appending must leave one archive, not two behind each other."""
    code = Archive(a_zip(tmp_path / "bot.zip"))
    first, second = code.packed(b'{"server": "http://a"}'), code.packed(b'{"server": "http://bb"}')
    assert first.count(b"PK\x05\x06") == second.count(b"PK\x05\x06") == 1
    assert first.count(b"PK\x01\x02") == len(FILES) + 1
    assert files_of(second)["config/config.json"] == b'{"server": "http://bb"}'
