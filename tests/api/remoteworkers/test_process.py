"""The example bot and a daemon, each a process of its own: over TLS, with a token, and when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make_pair
from tests.daemon.test_main import eventually, serving

pytest.importorskip("grpc", reason="needs grpcio, see the extra test")

ROOT = Path(__file__).parents[3]
INSTANCES = "[remoteworkers.instances.lab]\n[remoteworkers.instances.east]\n"
TOKEN = "0123456789abcdef0123"
COMMAND = (sys.executable, str(ROOT / "examples" / "remote_bot.py"))


@contextmanager
def bot(folder: Path, *args: str, **environment: str) -> Iterator[Path]:
    """The bot, until the block is left; what it says is in the file."""
    said = folder / "bot"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, *args], stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )  # fmt: skip
    try:
        yield said
    finally:
        process.kill()
        process.wait()


def refused(*args: str, **environment: str) -> str:
    """What the bot says when it gives up."""
    done = subprocess.run(
        [*COMMAND, *args], capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environment}
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("remote_bot.py: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture
def config(tmp_path) -> tuple[str, str]:
    path = tmp_path / "lab.toml"
    path.write_text(INSTANCES)
    return "--config", str(path)


def answer(url: str, path: str, body: Any) -> Any:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as told:
        return json.loads(told.read().decode().removeprefix(")]}'\n"))


def test_a_task_of_a_swarming_client_runs_on_it(tmp_path, config):
    properties = {
        "command": ["sh", "-c", "exit 4"], "executionTimeoutSecs": 60, "ioTimeoutSecs": 30, "gracePeriodSecs": 5,
        "dimensions": [{"key": "pool", "value": "default"}, {"key": "kind", "value": "remote"}],
    }  # fmt: skip
    new = {"name": "it", "priority": 50, "taskSlices": [{"expirationSecs": 60, "properties": properties}]}
    with serving(tmp_path, *config) as (_, url), bot(tmp_path, url, "r1", "lab"):
        id = answer(url, "/prpc/swarming.v2.Tasks/NewTask", new)["taskId"]
        found: dict[str, Any] = {}

        def ended() -> bool:
            found.update(answer(url, "/prpc/swarming.v2.Tasks/GetResult", {"taskId": id}))
            return found["state"] not in ("PENDING", "RUNNING")

        eventually(ended)
    assert (found["state"], found["exitCode"], found["botId"]) == ("COMPLETED", "4", "r1")


def test_it_comes_over_tls_with_a_token(tmp_path, config):
    pair, token = make_pair(tmp_path), tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    Path(config[1]).write_text(f'trust_loopback = false\ntoken_file = "{token}"\n{INSTANCES}')
    flags = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    trusting = {"SSL_CERT_FILE": str(pair.cert)}
    with serving(tmp_path, *config, *flags) as (_, url):
        assert url.startswith("https://")
        with bot(tmp_path, url, "r1", "lab", **trusting, SWARMD_TOKEN_FILE=str(token)) as said:
            eventually(lambda: said.read_text().startswith("lab/"))
        with bot(tmp_path, url, "r1", "lab") as said:
            eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in said.read_text())
        with bot(tmp_path, url.replace("https", "http"), "r1", "lab") as said:
            eventually(lambda: "UNAVAILABLE" in said.read_text() and "Socket closed" in said.read_text())
        text = refused(url, "r1", "lab", **trusting)
        assert "UNAUTHENTICATED: 127.0.0.1 may not be a bot here without a token" in text


def test_what_was_typed_wrong_is_said_in_a_line(tmp_path, config):
    with serving(tmp_path, *config) as (_, url):
        text = refused(url, "r1", "nope")
        assert "INVALID_ARGUMENT: Invalid instance name: [nope]; configured: [east], [lab]" in text
        assert "Invalid instance name: []; configured: " in refused(url, "r1")
        assert "cannot be a value of dimension id" in refused(url, " r1", "lab")
        assert "is no URL of a daemon" in refused(url.removeprefix("http://"), "r1", "lab")
        assert "SWARMD_TOKEN_FILE: " in refused(url, "r1", "lab", SWARMD_TOKEN_FILE="/no/such")
        with bot(tmp_path, url.replace("http", "https"), "r1", "lab") as said:
            eventually(lambda: "WRONG_VERSION_NUMBER" in said.read_text())
    assert "usage: " in refused("http://127.0.0.1:1")


def test_it_waits_for_a_daemon_that_is_not_there_yet(tmp_path, config):
    with serving(tmp_path, *config) as (_, url):
        pass
    with bot(tmp_path, url, "r1", "lab") as said:
        eventually(lambda: "Connection refused; trying again" in said.read_text())
        with serving(tmp_path, *config, "--listen", url.removeprefix("http://")):
            eventually(lambda: "lab/" in said.read_text())
