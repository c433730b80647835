"""`swarmd serve` as a real process: its first line, signals, systemd, and what it says when it cannot start."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from swarmd.cli import main
from swarmd.client import open_client, task
from swarmd.config import read_file
from swarmd.store.check import check_file
from swarmd.testing.bots import NativeBot
from tests.api.wire import connect, head, send
from tests.daemon.test_daemon import rows

PATIENCE_S = 30.0
TOKEN = "correct-horse-battery-staple"


@contextmanager
def serving(folder: Path, *flags: str, env: dict[str, str] | None = None, log: Path | None = None):
    """A daemon process on a free port; gives (process, url). Killed at the end if it still runs."""
    command = [sys.executable, "-m", "swarmd", "serve", "--db", str(folder / "swarmd.db"), *flags]
    if not any(flag.startswith("--listen") for flag in flags) and "--unix" not in flags:
        command += ["--listen", "127.0.0.1:0"]
    log = log or folder / "log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(env or {})}
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("swarmd ready "), (line, log.read_text())
        yield process, line.removeprefix("swarmd ready ").strip()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


def eventually(look) -> None:
    """Waits for another process: at most PATIENCE_S."""
    until = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_the_first_line_stops_it_in_order(number, tmp_path):
    with serving(tmp_path) as (process, _):
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
    assert "stopped" in (tmp_path / "log").read_text()
    assert check_file(tmp_path / "swarmd.db") == []


def test_a_reload_right_after_the_first_line_does_not_end_it(tmp_path):
    with serving(tmp_path) as (process, _):
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in (tmp_path / "log").read_text())
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


async def test_a_stop_changes_nothing_in_the_file(tmp_path):
    with serving(tmp_path) as (process, url):
        async with open_client(url) as client:
            ids = await client.submit([task(argv=["x"]), task(argv=["y"])])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.wait_once, ids, 0.1)
            before = rows(tmp_path / "swarmd.db")
        process.terminate()
        assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 0
    assert rows(tmp_path / "swarmd.db") == before


async def test_a_stop_answers_a_held_call_and_ends_a_stream_in_order(tmp_path):
    with serving(tmp_path) as (process, url):
        async with open_client(url, patience_s=0) as client, await connect(url) as stream:
            bot = NativeBot(client, "b1")
            await bot.open()
            await stream.send_all(head("GET", "/api/v1/events/stream?after=0000000000001", []))
            streamed = b""
            while b"event: bot.connected" not in streamed:
                streamed += await stream.receive_some(65536)
            answers = []

            async def hold() -> None:
                answers.append(await bot.take(1, wait_s=50.0))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold)
                with trio.fail_after(PATIENCE_S):
                    while b"swarmd_held_calls 1.0" not in (await send(url, "GET", "/metrics")).body:
                        await trio.sleep(0.02)
                assert not answers
                process.terminate()
            assert answers == [[]]
            while data := await stream.receive_some(65536):
                streamed += data
            assert streamed.endswith(b"\r\n0\r\n\r\n")  # the last chunk: it was ended, not cut off
        assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 0


def clock_of(path: Path) -> float:
    """Engine time of the last commit."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        return conn.execute("SELECT now FROM clock").fetchone()[0]


async def test_a_stop_waits_until_its_moment_is_in_the_file(tmp_path):
    """Else the quiet time before it would count as time that the daemon was down."""
    quiet_s = 1.0
    with serving(tmp_path) as (process, url):
        async with open_client(url) as client:
            await client.submit([task(argv=["x"])])
        before = clock_of(tmp_path / "swarmd.db")
        await trio.sleep(quiet_s)
        process.terminate()
        assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 0
    assert clock_of(tmp_path / "swarmd.db") >= before + quiet_s


async def test_sighup_reads_the_token_and_the_networks_anew(tmp_path):
    token, config = tmp_path / "token", tmp_path / "swarmd.toml"
    token.write_text(TOKEN)
    token.chmod(0o600)
    config.write_text(f'token_file = "{token}"\ntrust_loopback = false\n')
    log = tmp_path / "log"
    with serving(tmp_path, "--config", str(config)) as (process, url):
        async with open_client(url, token=TOKEN) as client, open_client(url, token="new" * 8) as newer:
            await client.counts()
            token.write_text("new" * 8)
            config.write_text(config.read_text() + 'log_level = "debug"\nsession_deadline_s = 5.0\n')
            process.send_signal(signal.SIGHUP)
            await trio.to_thread.run_sync(lambda: eventually(lambda: "reloaded" in log.read_text()))
            await newer.counts()
            with pytest.raises(Exception, match="may not read here without a token"):
                await client.counts()
            assert "needs_restart=session_deadline_s" in log.read_text()
            config.write_text("listn = 1\n")  # a mistake: told, and everything stays as it was
            process.send_signal(signal.SIGHUP)
            await trio.to_thread.run_sync(lambda: eventually(lambda: "reload.refused" in log.read_text()))
            await newer.counts()
            assert "did you mean listen?" in log.read_text()
        process.terminate()
        assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 0


def test_systemd_is_told_of_start_reload_life_and_stop(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(PATIENCE_S)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with serving(tmp_path, env=env) as (process, _):
            said: list[str] = []

            def until(wanted: str) -> None:
                while not said or wanted not in said[-1]:
                    said.append(notify.recv(4096).decode())

            until("READY=1")
            until("WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            until("RELOADING=1")
            assert "MONOTONIC_USEC=" in said[-1]
            until("READY=1")
            process.terminate()
            until("STOPPING=1")
            assert process.wait(PATIENCE_S) == 0


def test_a_unix_socket_is_named_and_removed(tmp_path):
    with serving(tmp_path, "--unix", str(tmp_path / "s")) as (process, url):
        assert url == f"unix:{tmp_path / 's'}" and (tmp_path / "s").is_socket()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert not (tmp_path / "s").exists()


# --------------------------------------------------------------------- what keeps it from starting


def serve(capsys, *flags: str) -> tuple[int, str]:
    """Runs `swarmd serve`, which must not come to live; gives its exit code and what it said."""
    code = main(["serve", "--listen", "127.0.0.1:0", *flags])
    said = capsys.readouterr()
    assert "swarmd ready" not in said.out
    return code, said.err


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE t (a)")


def newer(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("INSERT INTO migrations (owner, number, name, at) VALUES ('core', 999, 'later', '')")
        conn.execute("PRAGMA user_version = 999")
        conn.commit()


def made(path: Path) -> None:
    import trio_asyncio

    from swarmd.api.migrations import MIGRATIONS
    from swarmd.store.backend import open_backend

    async def make() -> None:
        async with trio_asyncio.open_loop():
            await (await open_backend(path, migrations=MIGRATIONS)).close()

    trio.run(make)


def damaged(path: Path) -> None:
    made(path)
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xa5" * 3996
    path.write_bytes(data)


FILES = {
    "not_swarmd: another program's": (foreign, "another program"),
    "not_swarmd: no database": (lambda path: path.write_text("hello, this is a letter " * 100), "not an SQLite"),
    "newer_file": (newer, "999"),
    "damaged_file": (damaged, "swarmd check"),
    "not_a_file": (lambda path: path.mkdir(), "not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_used_is_named_and_not_touched(name, tmp_path, capsys):
    make, says = FILES[name]
    path = tmp_path / "some.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    code, said = serve(capsys, "--db", str(path))
    assert code == 1 and str(path) in said and says in said, said
    assert (path.read_bytes() if path.is_file() else None) == before


@contextmanager
def mounted(folder: Path, options: str):
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("cannot mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    with mounted(tmp_path / "ro", "size=1m,ro") as folder:
        code, said = serve(capsys, "--db", str(folder / "some.db"))
        assert code == 1 and str(folder / "some.db") in said and "writable" in said


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    code, said = serve(capsys, "--db", str(tmp_path / "no" / "some.db"))
    assert code == 1 and str(tmp_path / "no") in said and "Make it" in said


def test_a_second_daemon_on_the_same_file_is_refused_and_the_first_goes_on(tmp_path, capsys):
    with serving(tmp_path) as (process, _):
        code, said = serve(capsys, "--db", str(tmp_path / "swarmd.db"))
        assert code == 1 and f"pid {process.pid}" in said and "One daemon per file" in said
        assert process.poll() is None


def test_a_port_in_use_is_named(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code = main(["serve", "--listen", address, "--db", str(tmp_path / "a.db")])
        said = capsys.readouterr().err
    assert code == 1 and address in said
    assert list(tmp_path.iterdir()) == []  # a daemon that cannot listen makes no file


SETTINGS = {
    "unprotected": (["--listen", "0.0.0.0:0"], "", ("0.0.0.0:0", "--token-file")),
    "unknown key, near": ([], "retention_day = 3\n", ("'retention_day'", "did you mean retention_days?")),
    "unknown key, far": ([], "zzz = 3\n", ("'zzz'", "known keys: accept_s")),
    "wrong type": ([], 'accept_s = "soon"\n', ("accept_s must be a number",)),
    "wrong choice": ([], 'durability = "none"\n', ("durability", "'none'")),
    "out of range": ([], "bot_back_s = -1.0\n", ("bot_back_s is -1.0", "above 0")),
    "no number": ([], "accept_s = nan\n", ("accept_s is nan",)),
    "too much output": ([], "output_limit_mib = 99999\n", ("output_limit_mib is 99999", "16384")),
    "not TOML": ([], "a = \n", ("is not TOML", "line 1")),
    "bad network": (["--allow-network", "10.0.0.1/8"], "", ("'10.0.0.1/8'", "write 10.0.0.0/8")),
    "bad address": (["--listen", "localhost"], "", ("'localhost'", "HOST:PORT")),
    "missing token": (["--token-file", "/no/such/token"], "", ("/no/such/token", "openssl rand")),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_cannot_be_used_is_named(name, tmp_path, capsys):
    flags, text, says = SETTINGS[name]
    if text:
        file = tmp_path / "swarmd.toml"
        file.write_text(text)
        flags = [*flags, "--config", str(file)]
    code, said = serve(capsys, "--db", str(tmp_path / "a.db"), *flags)
    assert code == 1
    for part in says:
        assert part in said
    assert not (tmp_path / "a.db-wal").exists()


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (TOKEN, 0o644, "chmod 600"),
        (TOKEN, 0o640, "chmod 600"),
        ("x7q", 0o600, "at least 16"),
        ("ö" * 20, 0o600, "ASCII"),
    ],
)
def test_a_token_that_protects_nothing_is_refused(text, mode, says, tmp_path, capsys):
    token = tmp_path / "token"
    token.write_text(text)
    token.chmod(mode)
    code, said = serve(capsys, "--db", str(tmp_path / "a.db"), "--token-file", str(token))
    assert code == 1 and str(token) in said and says in said and text not in said


def test_a_command_that_does_not_exist_suggests_the_nearest(capsys):
    assert main(["serv"]) == 2
    assert 'no command "serv"; did you mean "serve"?' in capsys.readouterr().err


def test_flags_win_over_the_environment_over_the_file(tmp_path, monkeypatch):
    from swarmd.cli.options import ServeOptions
    from swarmd.config import config_of

    file = tmp_path / "swarmd.toml"
    file.write_text('db = "from-file.db"\nretention_days = 3\nlisten = ["127.0.0.1:1"]\n')
    config = config_of(ServeOptions(config=str(file), db="from-flag.db"))
    assert (config.db, config.retention_days, config.addresses) == ("from-flag.db", 3.0, [("127.0.0.1", 1)])
    assert read_file(file)["retention_days"] == 3


# --------------------------------------------------------------------- a full disk


async def test_a_real_full_disk_loses_nothing(tmp_path):
    """2 MiB: new work is refused, reads are answered; with room again it goes on."""
    with mounted(tmp_path / "small", "size=2m") as folder, serving(folder) as (process, url):
        async with open_client(url, patience_s=0) as client:
            ids = await client.submit([task(argv=["x"])])
            ballast = folder / "ballast"
            free = os.statvfs(folder)
            ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 8192))
            codes = []
            has_room = trio.Event()

            async def fill() -> None:
                for number in range(50):
                    if has_room.is_set():
                        return  # else it would fill the disk a second time
                    try:
                        await client.submit([task(argv=["y" * 60_000 + str(number)])])
                    except Exception as error:
                        codes.append(getattr(error, "code", repr(error)))
                        return

            with trio.fail_after(90):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fill)
                    while not (await client.health()).out_of_space:
                        await trio.sleep(0.1)
                    assert (await client.get(ids[0])).state == "PENDING"
                    with pytest.raises(Exception, match="disk is full"):
                        await client.submit([task(argv=["z"])])
                    has_room.set()
                    ballast.unlink()
                    while (await client.health()).out_of_space:
                        await trio.sleep(0.1)
                    nursery.cancel_scope.cancel()
            await client.submit([task(argv=["after"])])
        process.terminate()
        assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 0
        assert check_file(folder / "swarmd.db") == []


async def test_a_stop_on_a_full_disk_ends_with_a_sentence(tmp_path):
    log = tmp_path / "log"
    with mounted(tmp_path / "small", "size=2m") as folder, serving(folder, log=log) as (process, url):
        async with open_client(url, patience_s=0) as client:
            [id] = await client.submit([task(argv=["x"])])
            free = os.statvfs(folder)
            (folder / "ballast").write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 8192))
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:

                    async def fill() -> None:
                        for number in range(50):
                            try:
                                await client.submit([task(argv=["y" * 60_000 + str(number)])])
                            except Exception:  # whatever it is told: it is not accepted
                                return

                    nursery.start_soon(fill)
                    while not (await client.health()).out_of_space:
                        await trio.sleep(0.1)
                    process.terminate()
                    assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 1
                    (folder / "ballast").unlink()
        said = log.read_text()
        assert (
            said.count("swarmd: Stopped while there was no space to commit") == 1
            and "daemon.failed" not in said
        )
        assert check_file(folder / "swarmd.db") == []
        with serving(folder, log=log) as (_, url):
            async with open_client(url) as client:
                assert (await client.get(id)).state == "PENDING"
