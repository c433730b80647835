"""The bot as a program: signals, and its restart in place."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from swarmd.api.native.messages import SessionRequest
from swarmd.bot import reexec
from tests.bot.test_wire import Answer, Server

QUIET = {**os.environ, "PYTHONUNBUFFERED": "1"}


class Program:
    """`swarmd bot` as a process, and the server that it talks to."""

    def __init__(self, server: Server, port: int, path: Path) -> None:
        self.server = server
        self.command = [
            sys.executable, "-m", "swarmd", "bot", "--server", f"http://127.0.0.1:{port}",
            "--id", "b1", "--work-dir", str(path / "bot"),
        ]  # fmt: skip

    @property
    def opened(self) -> list[SessionRequest]:
        bodies = [body for method, target, _, body in self.server.requests if target.endswith("/sessions")]
        return [msgspec.json.decode(body, type=SessionRequest) for body in bodies]

    def obey(self, orders_of: Callable[[str], bytes]) -> None:
        """Sessions are s1, s2, …; each `sync` is answered at once, with the orders of its session."""

        def answer(method: str, target: str) -> Answer:
            if target.endswith("/sessions"):
                return 200, b'{"session":"s%d","deadline_s":60,"lost":[]}' % len(self.opened)
            session = target.split("/")[4]
            seq = sum(t == target for _, t, _, _ in self.server.requests)
            return 200, b'{"seq":%d,"offers":[],"deadline_s":60,"orders":[%s]}' % (seq, orders_of(session))

        self.server.answer = answer


@pytest.fixture
async def program(nursery, tmp_path) -> Program:
    server = Server()
    listeners = await nursery.start(trio.serve_tcp, server.handle, 0)
    return Program(server, listeners[0].socket.getsockname()[1], tmp_path)


async def test_a_restart_keeps_the_process_and_opens_a_new_session(program):
    program.obey(lambda session: b'{"kind":"restart"}' if session == "s1" else b'{"kind":"terminate"}')
    with trio.fail_after(30):
        ended = await trio.run_process(program.command, capture_stderr=True, env=QUIET)
    first, second = program.opened
    assert first.state["pid"] == second.state["pid"] and first.session_key != second.session_key
    assert first.bot_key == second.bot_key and second.keeps == []
    assert b"bot.restarting" in ended.stderr
    closed = [target for method, target, _, _ in program.server.requests if method == "DELETE"]
    assert closed == ["/api/v1/sessions/s2"]


async def test_sigterm_ends_an_idle_bot_with_0(program, nursery):
    program.obey(lambda session: b"")
    process = await nursery.start(trio.run_process, program.command)
    with trio.fail_after(30):
        while not program.opened:
            await trio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_server_that_refuses_ends_it_with_3(program):
    program.server.answer = lambda method, target: (
        401,
        b'{"error":{"code":"no_token","message":"give a token"}}',
    )
    with trio.fail_after(30):
        ended = await trio.run_process(program.command, capture_stderr=True, check=False)
    assert ended.returncode == 3 and b"give a token" in ended.stderr


@pytest.mark.parametrize(
    ("frozen", "orig", "argv", "command"),
    [
        (False, ["python", "-m", "swarmd", "bot"], ["x", "bot"], ["/exe", "-m", "swarmd", "bot"]),
        (False, ["python3", "/bin/swarmd", "bot"], ["/bin/swarmd", "bot"], ["/exe", "/bin/swarmd", "bot"]),
        (True, ["swarmd", "bot"], ["swarmd", "bot", "--slots", "2"], ["/exe", "bot", "--slots", "2"]),
    ],
)
def test_the_command_that_started_it_is_found_again(monkeypatch, frozen, orig, argv, command):
    monkeypatch.setattr(sys, "executable", "/exe")
    monkeypatch.setattr(sys, "orig_argv", orig)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    assert reexec.own_command() == command
