import errno
import os
import resource
import socket
import stat
from pathlib import Path

import pytest
import trio

from swarmd.daemon import listeners as module
from swarmd.daemon.listeners import (
    ACCEPT_PAUSE_S,
    Door,
    ListenError,
    accept,
    listener_url,
    open_listeners,
    raise_open_files_limit,
    remove_unix_socket,
)


async def close(listeners):
    for listener in listeners:
        await listener.aclose()


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


async def test_port_0_and_unix_both_accept(tmp_path):
    path = tmp_path / "s"
    listeners = await open_listeners([("127.0.0.1", 0)], path)
    tcp, unix = listeners
    port = tcp.socket.getsockname()[1]
    assert [listener_url(each) for each in listeners] == [f"http://127.0.0.1:{port}", f"unix:{path}"]
    async with await trio.open_tcp_stream("127.0.0.1", port), await tcp.accept():
        pass
    async with await trio.open_unix_socket(path), await unix.accept():
        pass
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert tcp.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    await close(listeners)


async def test_ipv6_is_in_brackets():
    try:
        listeners = await open_listeners([("::1", 0)], None)
    except ListenError as error:
        pytest.skip(str(error))
    port = listeners[0].socket.getsockname()[1]
    assert listener_url(listeners[0]) == f"http://[::1]:{port}"
    await close(listeners)


async def test_a_relative_path_is_shown_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listeners = await open_listeners([], Path("s"))
    assert listener_url(listeners[0]) == f"unix:{tmp_path}/s"
    await close(listeners)


async def test_a_used_port_names_address_and_remedy(tmp_path):
    first = await open_listeners([("127.0.0.1", 0)], None)
    port = first[0].socket.getsockname()[1]
    path = tmp_path / "s"
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError) as caught:
        await open_listeners([("127.0.0.1", 0), ("127.0.0.1", port)], path)
    for words in (f"127.0.0.1:{port}", "in use", "--listen", "`ss -ltnp`"):
        assert words in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before  # the first of the two was closed again
    assert not path.exists()
    await close(first)


async def test_a_foreign_address_is_refused():
    with pytest.raises(ListenError, match=r"192\.0\.2\.1:0: not an address of this machine"):
        await open_listeners([("192.0.2.1", 0)], None)


async def test_an_impossible_port_is_refused():
    with pytest.raises(ListenError, match=r"127\.0\.0\.1:70000"):
        await open_listeners([("127.0.0.1", 70000)], None)


async def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path):
    path = tmp_path / "s"
    dead_socket(path)
    old = os.stat(path).st_ino
    listeners = await open_listeners([], path)
    async with await trio.open_unix_socket(path):
        pass
    assert os.stat(path).st_ino != old or stat.S_IMODE(os.stat(path).st_mode) == 0o600
    await close(listeners)


async def test_the_socket_of_a_live_daemon_is_refused(tmp_path):
    path = tmp_path / "s"
    first = await open_listeners([], path)
    with pytest.raises(ListenError, match=r"a running process answers there.*--unix"):
        await open_listeners([], path)
    async with await trio.open_unix_socket(path):
        pass  # still the first one's
    await close(first)


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "link to a socket", "dangling link"])
async def test_what_is_not_a_socket_stays_untouched(tmp_path, kind):
    path, target = tmp_path / "s", tmp_path / "target"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link to a file":
            target.write_text("precious")
            path.symlink_to(target)
        case "link to a socket":
            dead_socket(target)
            path.symlink_to(target)
        case "dangling link":
            path.symlink_to(target)
    before = os.lstat(path)
    with pytest.raises(ListenError, match=r"unix:.*not a socket.*--unix"):
        await open_listeners([], path)
    remove_unix_socket(path)
    assert os.lstat(path) == before
    if kind == "link to a socket":
        assert target.is_socket()


async def test_a_missing_folder_and_a_long_path_are_refused(tmp_path):
    for path in (tmp_path / "no" / "s", tmp_path / ("x" * 120)):
        with pytest.raises(ListenError, match="107 bytes"):
            await open_listeners([], path)


async def test_the_file_goes_after_the_listener_but_never_a_live_ones(tmp_path):
    path = tmp_path / "s"
    listeners = await open_listeners([], path)
    remove_unix_socket(path)
    assert path.is_socket()  # somebody answers: it is the next daemon's
    await close(listeners)
    remove_unix_socket(path)
    assert not path.exists()
    remove_unix_socket(path)  # nothing there: nothing happens


def test_the_soft_limit_becomes_the_hard_one(monkeypatch):
    limits = [(1024, 4096)]

    def raised(which, pair):
        assert which == resource.RLIMIT_NOFILE
        limits[0] = pair

    monkeypatch.setattr(module.resource, "getrlimit", lambda which: limits[0])
    monkeypatch.setattr(module.resource, "setrlimit", raised)
    assert raise_open_files_limit() == (4096, 4096)


def test_a_refused_limit_stays_as_it_was(monkeypatch):
    def refused(which, pair):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(module.resource, "getrlimit", lambda which: (1024, -1))
    monkeypatch.setattr(module.resource, "setrlimit", refused)
    assert raise_open_files_limit() == (1024, -1)


async def test_accept_outlives_a_lack_of_descriptors(caplog, autojump_clock):
    answers = [OSError(errno.EMFILE, "too many"), OSError(errno.EMFILE, "too many"), "client", None]

    class Poor(trio.abc.Listener):
        async def accept(self):
            match answers.pop(0):
                case OSError() as error:
                    raise error
                case None:
                    await trio.sleep_forever()
                case stream:
                    return stream

        async def aclose(self):
            pass

    served = []

    async def handle(stream):
        served.append((stream, trio.current_time() - begun))

    begun = trio.current_time()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, Poor(), Door(1, handle), nursery)
    assert served == [("client", pytest.approx(2 * ACCEPT_PAUSE_S))]
    assert [record.message for record in caplog.records] == ["accept.failed"]  # once, not each time
