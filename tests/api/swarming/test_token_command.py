"""The operator's program that mints tokens: what it is told, what it may answer, and that nothing of it stays behind.

Real processes, and a clock that stands still until it is moved: however slow the machine is, no limit passes by itself.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest
import trio

from swarmd.api.swarming.token_command import AT_ONCE, COMMAND_S, MAX_OUTPUT, PLACE_S, VARIABLES
from swarmd.client import open_client, task
from swarmd.config import Config, ConfigError
from swarmd.config_swarming import SwarmingConfig
from swarmd.testing.harness import WALL, running
from tests.api.swarming.token_bots import DAEMON_TOKEN, TokenBot, bearer, token_file, working
from tests.api.wire import send

SECRET = "ya29.a-secret-of-another-service"
PATIENCE_S = 300.0  # of the real clock, for a process to come or go
GOOD = f"""
    which = "id_token" if told["audience"] else "access_token"
    print(json.dumps({{which: "{SECRET}", "expiry": {WALL + 1_800.5}}}))
"""
GREEDY = f"print('x' * {MAX_OUTPUT + 1})"


def program(folder: Path, *code: str) -> list[str]:
    """A program that has read what it is told into `told`, and goes on with `code`."""
    path = folder / "mint.py"
    begin = "import json, os, signal, subprocess, sys, time\ntold = json.load(sys.stdin)"
    path.write_text("\n".join([begin, *map(textwrap.dedent, code)]))
    return [sys.executable, "-I", str(path)]


def lab(command: list[str], **more) -> Config:
    swarming = SwarmingConfig(task_account="ci@lab", system_account="sys@lab", token_command=command)
    return Config(swarming=swarming, **more)


async def until(is_true) -> None:
    """The work of another process: the only thing that a test here waits for on the real clock."""
    for _ in range(int(PATIENCE_S / 0.01)):
        if is_true():
            return
        await trio.to_thread.run_sync(time.sleep, 0.01)
    raise AssertionError("it did not happen")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


# --------------------------------------------------------------------- what it is told and answers


async def test_it_is_told_who_asks_for_what_and_its_token_is_handed_on(mock_clock, tmp_path):
    command = program(
        tmp_path, f"open({str(tmp_path / 'told')!r}, 'a').write(json.dumps(told) + '\\n')", GOOD
    )
    async with running(config=lab(command)) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        oauth = await bot.token(scopes=["b", "a"])
        proof = await bot.token("id", account_id="system", audience="https://x.example")
        assert oauth.json() == {
            "service_account": "ci@lab",
            "access_token": SECRET,
            "expiry": int(WALL) + 1_800,
        }
        assert proof.json() == {"service_account": "sys@lab", "id_token": SECRET, "expiry": int(WALL) + 1_800}
        told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
        of_both = {"task": f"{bot.task[:-1]}0", "bot": "b1", "pool": "default"}
        assert told == [
            {**of_both, "account": "ci@lab", "scopes": ["a", "b"], "audience": ""},
            {**of_both, "account": "sys@lab", "scopes": [], "audience": "https://x.example"},
        ]
        assert (await send(world.url, "GET", "/.well-known/jwks.json")).json() == {"keys": []}, (
            "it signs nothing"
        )


async def test_its_token_opens_nothing_here(mock_clock, tmp_path):
    own = {"token_file": token_file(tmp_path / "own"), "trust_loopback": False}
    async with running(tcp=True, config=lab(program(tmp_path, GOOD), **own)) as world:
        async with open_client(world.url, DAEMON_TOKEN) as owner:
            await owner.submit([task(argv=["true"])])
        bot = await working(world, headers=bearer(DAEMON_TOKEN))
        given = (await bot.token()).json()["access_token"]
        assert (await send(world.url, "GET", "/api/v1/tasks", headers=bearer(given))).status == 401


async def test_it_runs_for_none_but_what_may_have_a_token(mock_clock, tmp_path):
    mark = tmp_path / "ran"
    command = program(tmp_path, f"open({str(mark)!r}, 'w')")
    config = Config(swarming=SwarmingConfig(system_account="bot", token_command=command))
    async with running(config=config) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        for kind in ("oauth", "id"):
            assert (await bot.token(kind)).json() == {"service_account": "none"}
            assert (await bot.token(kind, account_id="system")).json() == {"service_account": "bot"}
            assert (await bot.token(kind, task_id="7add21f400000081")).status == 400
            assert (await bot.token(kind, account_id="root")).status == 400
            assert (await bot.token(kind, session="x")).status == 401
        assert not mark.exists()


async def test_it_sees_only_the_listed_variables(mock_clock, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("SWARMD_OWN_SECRET", "s")
    monkeypatch.setenv("LANG", "C.UTF-8")
    out = tmp_path / "env"
    command = program(tmp_path, f"open({str(out)!r}, 'w').write(json.dumps(dict(os.environ)))", GOOD)
    async with running(config=lab(command)) as world:
        await world.client.submit([task(argv=["true"])])
        assert (await (await working(world)).token()).status == 200
        seen = json.loads(out.read_text())
        assert seen["LANG"] == "C.UTF-8" and set(seen) - {"LC_CTYPE"} <= set(
            VARIABLES
        )  # LC_CTYPE: Python's own


async def test_no_shell_looks_at_its_words(mock_clock, tmp_path):
    command = [*program(tmp_path, f"open({str(tmp_path / 'argv')!r}, 'w').write(json.dumps(sys.argv[1:]))", GOOD),
               "$(id)", "a; b", "*", ""]  # fmt: skip
    async with running(config=lab(command)) as world:
        await world.client.submit([task(argv=["true"])])
        assert (await (await working(world)).token()).status == 200
        assert json.loads((tmp_path / "argv").read_text()) == ["$(id)", "a; b", "*", ""]


async def test_it_need_not_read_what_it_is_told(mock_clock, tmp_path):
    script = tmp_path / "blind"
    script.write_text(
        f'#!/bin/sh\nexec <&-\nprintf \'%s\' \'{{"access_token":"{SECRET}","expiry":{WALL + 900}}}\'\n'
    )
    script.chmod(0o755)
    async with running(config=lab([str(script)])) as world:
        await world.client.submit([task(argv=["true"])])
        assert (await (await working(world)).token(scopes=["x" * 1_900])).json()["access_token"] == SECRET


async def test_it_may_refuse_for_good(mock_clock, tmp_path):
    command = program(tmp_path, "print(json.dumps({'error': 'scope cloud is not for tests\\n'}))")
    async with running(config=lab(command)) as world:
        [id] = await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        for kind in ("oauth", "id"):
            answer = await bot.token(kind)
            assert (answer.status, answer.error.code) == (400, "token_denied")
            assert answer.json()["error"].startswith("account ci@lab: scope cloud is not for tests")
        assert not [e async for e in world.client.task_events(id) if e.kind == "task.token"]


# --------------------------------------------------------------------- what can go wrong

BAD = {  # what the program does, and the reason in the log
    "a failure": (f"print('{SECRET}')\nprint('{SECRET}', file=sys.stderr)\nsys.exit(3)", "exit code 3"),
    "a signal": ("os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
    "nothing": ("pass", "what it printed is not as expected: Input data was truncated"),
    "no JSON": (f"print('{SECRET}')", "what it printed is not as expected: JSON is malformed"),
    "no text": ("sys.stdout.buffer.write(b'{\"access_token\": \"\\xff\\xfe\"}')", "what it printed is not as expected"),
    "a list": (f"print(json.dumps(['{SECRET}']))", "what it printed is not as expected: Expected `object`"),
    "no token": ("print(json.dumps({'expiry': 4e9}))", "it printed no access_token"),
    "the other token": (
        f"print(json.dumps({{'id_token': '{SECRET}', 'expiry': {WALL + 900}}}))", "it printed no access_token",
    ),
    "an empty token": ("print(json.dumps({'access_token': '', 'expiry': 4e9}))", "it printed no access_token"),
    "a token of another type": (
        "print(json.dumps({'access_token': 7, 'expiry': 4e9}))", "what it printed is not as expected: Expected `str",
    ),
    "two lines as a token": (
        f"print(json.dumps({{'access_token': '{SECRET}\\nX', 'expiry': {WALL + 900}}}))", "it printed no access_token",
    ),
    "no expiry": (f"print(json.dumps({{'access_token': '{SECRET}'}}))", "the expiry that it printed is past"),
    "an expiry in the past": (
        f"print(json.dumps({{'access_token': '{SECRET}', 'expiry': {WALL - 1}}}))", "the expiry that it",
    ),
    "an expiry in milliseconds": (
        f"print(json.dumps({{'access_token': '{SECRET}', 'expiry': {WALL * 1000}}}))",
        "the expiry that it printed is past, or more than a year away",
    ),
    "an expiry that is no number": (
        f"print(json.dumps({{'access_token': '{SECRET}', 'expiry': 'soon'}}))", "what it printed is not as expected",
    ),
    "too much": (GREEDY, f"it printed more than {MAX_OUTPUT} bytes"),
    "too much, without an end": ("while True: print('x' * 9_999)", f"it printed more than {MAX_OUTPUT} bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_a_program_that_fails_lets_the_task_ask_again_later(mock_clock, name, tmp_path, caplog):
    code, reason = BAD[name]
    async with running(config=lab(program(tmp_path, code))) as world:
        [id] = await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        with caplog.at_level(logging.DEBUG):
            answer = await bot.token()
        assert (answer.status, answer.error.code) == (503, "token_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        [record] = [r for r in caplog.records if r.getMessage() == "token.command_failed"]
        assert record.reason.startswith(reason), record.reason
        assert (record.account, record.task) == ("ci@lab", f"{bot.task[:-1]}0")
        assert SECRET not in repr([vars(r) for r in caplog.records]) and SECRET.encode() not in answer.body
        assert not [e async for e in world.client.task_events(id) if e.kind == "task.token"]


@pytest.mark.parametrize(
    "command", [["/nonexistent/mint"], ["swarmd-no-such-program"], ["/"], ["/bin/echo", "\0"]]
)
async def test_a_program_that_cannot_be_started(mock_clock, command, caplog):
    async with running(config=lab(command)) as world:
        await world.client.submit([task(argv=["true"])])
        answer = await (await working(world)).token()
        assert answer.status == 503
        [record] = [r for r in caplog.records if r.getMessage() == "token.command_failed"]
        assert record.reason.startswith(f"{command[0]} cannot be started: ")


async def test_one_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path, mock_clock, caplog, monkeypatch
):
    killed, kill = [], os.killpg
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append(group) or kill(group, number))
    pids = tmp_path / "pids"
    code = f"""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(pids)!r} + ".new", "w").write(f"{{os.getpid()}} {{child.pid}}")
        os.rename({str(pids)!r} + ".new", {str(pids)!r})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    """
    async with running(config=lab(program(tmp_path, code))) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        async with trio.open_nursery() as nursery:
            answers = []

            async def ask() -> None:
                answers.append(await bot.token())

            nursery.start_soon(ask)
            await until(pids.exists)
            mock_clock.jump(COMMAND_S - 1)
            await trio.testing.wait_all_tasks_blocked()
            assert killed == []
            mock_clock.jump(1)
            await until(lambda: answers)
        assert answers[0].status == 503 and killed == [int(pids.read_text().split()[0])]
        assert [r.reason for r in caplog.records if r.getMessage() == "token.command_failed"] == [
            "it took longer than 30 s"
        ]
        for pid in map(int, pids.read_text().split()):
            await until(lambda pid=pid: not is_alive(pid))


async def test_one_that_left_a_child_with_its_output_is_ended_after_its_time(tmp_path, mock_clock):
    """The program itself has ended; what it started holds the pipe open."""
    pid = tmp_path / "pid"
    code = f"""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(pid)!r} + ".new", "w").write(str(child.pid))
        os.rename({str(pid)!r} + ".new", {str(pid)!r})
    """
    async with running(config=lab(program(tmp_path, code))) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.token)
            await until(pid.exists)
            mock_clock.jump(COMMAND_S)
            await until(lambda: not is_alive(int(pid.read_text())))


async def test_a_bot_that_goes_away_takes_the_program_with_it(mock_clock, tmp_path):
    pid = tmp_path / "pid"
    code = f"""
        open({str(pid)!r} + ".new", "w").write(str(os.getpid()))
        os.rename({str(pid)!r} + ".new", {str(pid)!r})
        time.sleep(600)
    """
    async with running(config=lab(program(tmp_path, code))) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.token)
            await until(pid.exists)
            nursery.cancel_scope.cancel()
        await until(lambda: not is_alive(int(pid.read_text())))


async def test_a_task_that_ended_meanwhile_gets_no_token(mock_clock, tmp_path):
    go, begun = tmp_path / "go", tmp_path / "begun"
    code = f"""
        open({str(begun)!r}, "w")
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)
    """
    async with running(config=lab(program(tmp_path, code, GOOD))) as world:
        [id] = await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        answers = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(await bot.token())

            nursery.start_soon(ask)
            await until(begun.exists)
            await bot.finish()
            go.touch()
        assert (answers[0].status, answers[0].error.code) == (400, "wrong_task")
        assert not [e async for e in world.client.task_events(id) if e.kind == "task.token"]


async def test_so_many_run_at_once_and_the_next_one_is_put_off(tmp_path, mock_clock):
    folder = tmp_path / "running"
    folder.mkdir()
    code = f"""
        open(os.path.join({str(folder)!r}, str(os.getpid())), "w")
        while not os.path.exists({str(tmp_path / "go")!r}):
            time.sleep(0.01)
    """
    async with running(config=lab(program(tmp_path, code, GOOD))) as world:
        bots = []
        for number in range(AT_ONCE + 1):
            await world.client.submit([task(argv=["true"])])
            bots.append(await working(world, f"b{number}"))
        answers = []

        async def ask(bot: TokenBot) -> None:
            answers.append(await bot.token())

        async with trio.open_nursery() as nursery:
            for bot in bots:
                nursery.start_soon(ask, bot)
            await until(lambda: len(os.listdir(folder)) == AT_ONCE)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(PLACE_S)
            await until(lambda: answers)
            [put_off] = answers
            assert (put_off.status, put_off.error.code) == (503, "token_unavailable")
            assert len(os.listdir(folder)) == AT_ONCE
            (tmp_path / "go").touch()
            await until(lambda: len(answers) == len(bots))
            assert sorted(a.status for a in answers) == [200] * AT_ONCE + [503]
            nursery.start_soon(ask, bots[-1])
            await until(lambda: len(answers) > len(bots))
            assert answers[-1].status == 200, "there is a place again"


async def test_a_failed_one_gives_its_place_back(mock_clock, tmp_path):
    flag = tmp_path / "well"
    code = f"if not os.path.exists({str(flag)!r}): sys.exit(1)"
    async with running(config=lab(program(tmp_path, code, GOOD))) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        for _ in range(AT_ONCE + 1):
            assert (await bot.token()).status == 503
        flag.touch()
        assert (await bot.token()).status == 200


async def test_no_descriptor_stays_open(mock_clock, tmp_path):
    async with running(config=lab(program(tmp_path, GOOD))) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        await bot.token()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            assert (await bot.token()).status == 200
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_virtual_clock_stands_still_while_it_runs(autojump_clock, tmp_path):
    async with running(config=lab(program(tmp_path, "time.sleep(0.2)", GOOD))) as world:
        await world.client.submit([task(argv=["true"])])
        bot = await working(world)
        began = trio.current_time()
        assert (await bot.token()).status == 200
        assert trio.current_time() == began


def test_a_command_of_no_words_is_refused():
    with pytest.raises(ConfigError):
        Config(swarming=SwarmingConfig(token_command=[""]))
