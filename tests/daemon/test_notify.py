"""What systemd would read: a datagram socket of our own takes its place."""

import os
import socket

import pytest
import trio
import trio.testing

from swarmd.daemon.notify import MAX_STATUS_CHARS, Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """(the NOTIFY_SOCKET value, the socket that listens there)"""
    name = f"@swarmd-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.setblocking(False)
        yield name, sock


def heard(sock: socket.socket) -> list[bytes]:
    messages = []
    while True:
        try:
            messages.append(sock.recv(4096))
        except BlockingIOError:
            return messages


def test_each_state_is_one_datagram(systemd):
    name, sock = systemd
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("3 bots\nREADY=1   now")
    notifier.reloading()
    notifier.stopping()
    ready, status, reloading, stopping = heard(sock)
    assert (ready, status, stopping) == (b"READY=1", b"STATUS=3 bots READY=1 now", b"STOPPING=1")
    first, second = reloading.split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=") and int(second.split(b"=")[1]) > 0


def test_a_long_status_is_cut(systemd):
    name, sock = systemd
    Notifier.from_environ({"NOTIFY_SOCKET": name}).status("x" * 10_000)
    assert heard(sock) == [b"STATUS=" + b"x" * MAX_STATUS_CHARS]


async def test_watchdog_speaks_at_half_the_time(systemd, autojump_clock):
    name, sock = systemd
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Notifier.from_environ(environ).watchdog)
        await trio.sleep(25)
        assert heard(sock) == [b"WATCHDOG=1"] * 3  # at 0, 10 and 20 s
        await trio.sleep(5.5)
        assert heard(sock) == [b"WATCHDOG=1"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "²"},
    ],
)
async def test_no_watchdog_unless_asked_for(systemd, environ, autojump_clock):
    name, sock = systemd
    with trio.fail_after(1):
        await Notifier.from_environ({"NOTIFY_SOCKET": name, **environ}).watchdog()
    assert heard(sock) == []


@pytest.mark.parametrize(
    "address", ["", "/nowhere/at/all", "@nobody-listens", "relative", "/a\0b", "/" + "x" * 200]
)
async def test_a_missing_socket_is_no_error(address, autojump_clock):
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.status("fine")
    notifier.reloading()
    notifier.stopping()
    with trio.move_on_after(3):
        await notifier.watchdog()
