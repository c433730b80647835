"""The real `swarming` command and a daemon that is away, wants a token, or gets what it cannot take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from swarmd.testing import SwarmingBot
from tests.crash.loop import free_port
from tests.faults.served import Served, served
from tests.interop.cli import QUICKLY_S, Cli
from tests.interop.real_lab import WAITING, RealLab, bundled_bot, swarming_bot

TOKEN = "correct-horse-battery-staple-42"
HELPER = """\
#!/bin/sh
echo "$*" >> "$HOME/asked"
echo '{"token": "%s", "expiry": "Fri Dec 31 23:00:00 UTC 2099"}'
"""

# ------------------------------------------------------------------ away


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Callable[[], Served]]:
    """A function that starts the daemon, each time on the same file and port; before the first time it is away."""
    started: list[Served] = []
    port = free_port()

    def start() -> Served:
        listen = f"127.0.0.1:{port}"
        started.append(Served(tmp_path / "swarmd.db", log=tmp_path / "daemon.log", listen=listen))
        assert started[-1].url == f"http://{listen}"
        return started[-1]

    start.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    yield start
    for daemon in started:
        daemon.stop()


async def test_a_command_that_finds_no_daemon_waits_for_it(swarming, away):
    """It asks again after 1, 2, 4, … seconds."""
    cli = swarming(away.url)
    async with trio.open_nursery() as nursery:

        async def come() -> None:
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(away)

        nursery.start_soon(come)
        done = await cli("trigger", "-d", "pool=default", "-json-output", "-", "--", "make")
    assert done.json["tasks"][0]["task_result"]["state"] == "PENDING" and done.repeats, done
    assert [one["name"] for one in (await cli("tasks")).json] == ["alice/pool=default"]


async def test_a_wait_goes_on_over_a_kill_of_the_daemon(swarming, away, tmp_path):
    """So does the task."""
    cli = swarming(away.url)
    daemon = away()
    go = cli.folder / "go"
    with bundled_bot(daemon.url, tmp_path, "b1"):
        until = f"while ! [ -e {go} ]; do sleep 0.02; done; echo done"
        id = (await cli.trigger("--", "/bin/sh", "-c", until))["task_id"]
        await RealLab(daemon.url, tmp_path).started(id)
        summary = {}
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                summary.update(await cli.collect("-task-output-stdout", "json", id))

            nursery.start_soon(wait)
            await trio.sleep(0.3)
            daemon.kill()
            await trio.sleep(1.5)  # it asks about once a second, and now nobody answers
            await trio.to_thread.run_sync(away)
            go.touch()
    assert (summary[id]["results"]["state"], summary[id]["output"]) == ("COMPLETED", "done\n")
    assert summary[id]["results"]["run_id"] == id[:-1] + "1", "its first run"


@asynccontextmanager
async def losing(url: str, answers: int) -> AsyncIterator[str]:
    """A way to the daemon at `url` on which the first `answers` answers are lost; its address."""
    host, port = url.removeprefix("http://").split(":")
    left = answers

    async def carry(client: trio.SocketStream) -> None:
        nonlocal left
        daemon = await trio.open_tcp_stream(host, int(port))
        async with client, daemon, trio.open_nursery() as nursery:

            async def there() -> None:
                async for data in client:
                    await daemon.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(there)
            async for data in daemon:
                if left:
                    left -= 1
                    break
                await client.send_all(data)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, carry, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_a_task_whose_answer_was_lost_is_made_once(cli: Cli, swarming, lab: RealLab):
    flags = (
        "trigger",
        "-d",
        "pool=default",
        *WAITING,
        "-tag",
        "story:lost",
        "-json-output",
        "-",
        "--",
        "make",
    )
    async with losing(lab.url, answers=2) as url:
        done = await swarming(url)(*flags)
    assert done.repeats == 2, done
    [made] = (await cli("tasks", "-tag", "story:lost")).json
    assert made["task_id"] == done.json["tasks"][0]["task_id"]


async def test_a_kill_whose_answer_was_lost_is_a_kill_and_told_as_none(cli: Cli, swarming, lab: RealLab):
    """The protocol has no id for it: the command is told what the second call found."""
    bot = await swarming_bot(lab.url, "s1", "slow")
    id = (await cli.trigger("-d", "bench=slow", "--", "make"))["task_id"]
    task = await bot.take()
    assert task is not None
    await task.start()
    async with losing(lab.url, answers=1) as url:
        done = await swarming(url)("cancel", "-kill-running", id)
    assert (done.code, done.repeats) == (1, 1) and "running=true" in done.err, done
    assert (await task.update())["must_stop"]
    await task.end(-15)


# ------------------------------------------------------------------ tokens


@pytest.fixture(scope="module")
def guarded(swarming_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon that wants a token of everybody."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    (folder / "swarmd.toml").write_text("trust_loopback = false\n")
    options = ("--token-file", str(folder / "token"), "--config", str(folder / "swarmd.toml"))
    with served(folder / "swarmd.db", *options, log=folder / "daemon.log") as daemon:
        yield daemon.url


def helper(cli: Cli, token: str) -> dict[str, str]:
    """The variable that makes the command send a token."""
    program = cli.folder / "helper"
    program.write_text(HELPER % token)
    program.chmod(0o755)
    return {"LUCI_AUTH_CREDENTIAL_HELPER": str(program)}


@pytest.mark.parametrize(
    "argv", [("bots", "-count"), ("trigger", "-d", "pool=default", "--", "make"), ("cancel", "a0")]
)
async def test_without_the_token_nothing_is_told(swarming, guarded, argv):
    told = await swarming(guarded).refused(*argv)
    assert "Unauthenticated desc = " in told


async def test_a_wait_without_the_token_ends_at_once(swarming, guarded):
    cli = swarming(guarded)
    done = await cli("collect", "-task-summary-json", "summary.json", "a0")
    assert done.code == 0 and done.took_s < QUICKLY_S and "Unauthenticated" in done.err, done


async def test_a_wrong_token_opens_nothing(swarming, guarded):
    cli = swarming(guarded)
    told = await cli.refused("bots", "-count", env=helper(cli, TOKEN[:-1]))
    assert "Unauthenticated desc = " in told and TOKEN[:-1] not in told


async def test_a_helper_sends_the_token(swarming, guarded):
    """It is asked once: the command keeps what it got."""
    cli = swarming(guarded)
    env = helper(cli, TOKEN)
    bot = SwarmingBot(guarded, "s1", token=TOKEN)
    await bot.handshake()
    made = await cli.trigger("-idempotent", "--", "make", env=env)
    task = await bot.take()
    assert task is not None
    await task.start()
    await task.write(b"made\n")
    await task.end(0)
    done = await cli("collect", "-task-output-stdout", "console", made["task_id"], env=env)
    assert done.out == f"{made['task_id']}: COMPLETED, exit code 0\nmade\n\n", done
    assert (await cli("bots", "-count", env=env)).json["count"] == 1
    assert len((cli.folder / "asked").read_text().splitlines()) == 1


async def test_a_token_of_somebody_else_is_ignored_where_none_is_needed(cli: Cli):
    """A user who is logged in for other servers sends one."""
    done = await cli("bots", "-count", env=helper(cli, "ya29.of-another-server"))
    assert done.json["count"] >= 1


# ------------------------------------------------------------------ addresses, and too much


async def test_the_daemon_goes_by_the_name_of_the_machine_it_is_on(swarming, lab: RealLab):
    port = lab.url.rpartition(":")[2]
    for address in (f"http://localhost:{port}", f"http://127.0.0.1:{port}/some/path?x=1"):
        assert (await swarming(address)("bots", "-count")).code == 0, address


async def test_too_much_is_refused_at_once(cli: Cli):
    tags = [word for number in range(12) for word in ("-tag", f"a{number}:" + "x" * 100_000)]
    told = await cli.refused("cancel-tasks", *tags)
    assert "InvalidArgument desc = the body has more than 1048576 bytes; send less" in told
