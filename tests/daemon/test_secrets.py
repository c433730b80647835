"""Secrets stay where they are: a run with a token, and everything that it wrote, said or showed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

TOKEN = "correct-horse-battery-staple-0123456789"
END_S = 20.0


class Watched:
    """Processes and what they wrote; `seen` has every text and file, by a name for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, bytes] = {}
        self.token_file = folder / "token"
        self.token_file.touch(0o600)
        self.token_file.write_text(TOKEN + "\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}
        self.environment = {**kept, "SWARMD_TOKEN_FILE": str(self.token_file)}

    @contextmanager
    def process(self, name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """`swarmd` with these words in the background, ended with the block; its output and arguments are seen."""
        with open(self.folder / f"{name}.out", "wb") as out, open(self.folder / f"{name}.err", "wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "swarmd", *words],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.environment,
            )  # fmt: skip
        try:
            yield process
            self.seen[f"arguments of {name}"] = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, *words: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "swarmd", *words], capture_output=True, env=self.environment, timeout=60
        )
        self.seen[" ".join(words)[:60]] = done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, url: str, head: str) -> bytes:
        """One request, exactly so; the answer is seen."""
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), END_S) as sock:
            sock.sendall(head.replace("\n", "\r\n").encode("latin-1"))
            sock.settimeout(END_S)
            answer = b""
            while data := sock.recv(65536):
                answer += data
        self.seen[f"answer {len(self.seen)} to {head[:20]!r}"] = answer
        return answer

    def look(self) -> None:
        """Reads every file that was left, but the token's own."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path != self.token_file:
                self.seen[str(path.relative_to(self.folder))] = path.read_bytes()


def first_line(path: Path) -> str:
    end = time.monotonic() + END_S
    while not (text := path.read_text()).endswith("\n"):
        assert time.monotonic() < end, text
        time.sleep(0.05)
    return text.split("\n")[0]


SPY = "env; tr '\\0' '\\n' < /proc/$PPID/cmdline"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_token_is_in_nothing_that_a_run_leaves_behind(tmp_path, form):
    watched = Watched(tmp_path)
    (tmp_path / "swarmd.toml").write_text("trust_loopback = false\n")
    log = ("--log-level", "debug", "--log-format", form)
    serve = ("serve", "--db", str(tmp_path / "swarmd.db"), "--listen", "127.0.0.1:0", "--config",
             str(tmp_path / "swarmd.toml"), "--token-file", str(watched.token_file), *log)  # fmt: skip
    with watched.process("daemon", *serve) as daemon:
        url = first_line(tmp_path / "daemon.out").removeprefix("swarmd ready ")
        watched.environment["SWARMD_URL"] = url
        bot = (
            "bot",
            "--id",
            "b1",
            "--work-dir",
            str(tmp_path / "bot"),
            "--token-file",
            str(watched.token_file),
        )
        with watched.process("bot", *bot, *log):
            assert b"SWARMD_ATTEMPT" in watched.run("run", "--", "sh", "-c", SPY)
            watched.run("tasks", "--json")
            watched.run("events")
            watched.run("bots", "b1")
        shown = f"Host: localhost\nAuthorization: Bearer {TOKEN}\nConnection: close\n\n"
        bare = "Host: localhost\nConnection: close\n\n"
        assert b" 200 " in watched.ask(url, f"GET /metrics HTTP/1.1\n{shown}")
        assert b" 200 " in watched.ask(url, f"GET /{TOKEN}/api/v1/tasks HTTP/1.1\n{bare}")
        for path, status in (
            (f"/{TOKEN}/nothing", 404), (f"/{TOKEN}/api/v1/tasks/zzz", 404), (f"/{TOKEN}", 404),
            (f"/{TOKEN}/api/v1/tasks?limit=x", 400), (f"/{TOKEN}/api/v1/blobs/zzz", 400),
        ):  # fmt: skip
            assert b" %d " % status in watched.ask(url, f"GET {path} HTTP/1.1\n{bare}"), path
        assert b" 405 " in watched.ask(url, f"DELETE /{TOKEN}/api/v1/tasks HTTP/1.1\n{bare}")
        assert b" 401 " in watched.ask(url, f"GET /metrics HTTP/1.1\n{shown.replace('Bearer', 'Basic')}")
        assert b" 400 " in watched.ask(url, f"GET /metrics HTTP/1.1\nAuthorization: Bearer {TOKEN}\n\n")
        watched.ask(url, f"GARBAGE {TOKEN}\n{shown}")
        watched.run("backup", str(tmp_path / "copy.db"))
        watched.token_file.chmod(0o644)
        daemon.send_signal(signal.SIGHUP)  # refused: others may read it
        end = time.monotonic() + END_S
        while b"reload.refused" not in (tmp_path / "daemon.err").read_bytes():
            assert time.monotonic() < end
            time.sleep(0.05)
    watched.run("check", "--db", str(tmp_path / "swarmd.db"))
    watched.look()
    assert {"daemon.err", "bot.err", "swarmd.db", "copy.db", "arguments of bot"} <= set(watched.seen)
    key = (tmp_path / "bot" / "bot_key").read_bytes().strip()
    assert [name for name, data in watched.seen.items() if TOKEN.encode() in data] == []
    assert [name for name, data in watched.seen.items() if key in data and name != "bot/bot_key"] == []
