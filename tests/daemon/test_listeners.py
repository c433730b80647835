import errno
import os
import resource
import socket
import stat
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from swarmd.daemon import listeners as module
from swarmd.daemon.listeners import (
    ACCEPT_PAUSE_S,
    ADMITTED,
    REFUSALS,
    TAKEN,
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
    for listener, connect in (
        (tcp, partial(trio.open_tcp_stream, "127.0.0.1", port)),
        (unix, partial(trio.open_unix_socket, path)),
    ):
        async with await connect() as one_end:
            await listener.wait()
            async with listener.take() as other_end:
                await one_end.send_all(b"a word")
                assert await other_end.receive_some() == b"a word"
            assert listener.take() is None
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


class Crowd:
    """In place of a listener: who waits, by number; an exception among them is raised when it would be taken."""

    def __init__(self, waiting):
        self.waiting = list(waiting)
        self.gone = set()
        self.closed = []
        self.is_open = True

    async def wait(self):
        if not self.waiting:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    def take(self):
        if not self.waiting:
            return None
        first = self.waiting.pop(0)
        if isinstance(first, Exception):
            raise first
        return Visitor(first, self)

    def has_left(self, visitor):
        return visitor.number in self.gone

    async def aclose(self):
        self.is_open = False
        await trio.lowlevel.checkpoint()


class Visitor:
    def __init__(self, number, crowd):
        self.number, self.socket, self._crowd = number, self, crowd

    def close(self):
        self._crowd.closed.append(self.number)


@asynccontextmanager
async def let_in(crowd, limit=100_000):
    """The numbers of those whom `accept` has let in, with the moment."""
    served, begun = [], trio.current_time()

    async def handle(visitor):
        served.append((visitor.number, trio.current_time() - begun))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, crowd, Door(limit, handle), nursery)
        yield served
        nursery.cancel_scope.cancel()


async def test_accept_outlives_a_lack_of_descriptors(caplog, autojump_clock):
    crowd = Crowd([OSError(errno.EMFILE, "too many"), OSError(errno.EMFILE, "too many"), 1])
    async with let_in(crowd) as served:
        await trio.sleep(5)
    assert served == [(1, pytest.approx(2 * ACCEPT_PAUSE_S))]
    assert [record.message for record in caplog.records] == ["accept.failed"]  # once, not each time


async def test_who_came_in_before_descriptors_ran_out_is_served_at_once(autojump_clock):
    crowd = Crowd([1, 2, *(OSError(errno.EMFILE, "too many") for _ in range(5)), 3])
    async with let_in(crowd) as served:
        await trio.sleep(5)
    assert [number for number, _ in sorted(served)] == [1, 2, 3]
    assert [at for number, at in served if number < 3] == [0, 0]


async def test_all_who_wait_leave_the_kernels_queue_and_come_in_a_few_at_a_time():
    """One at each turn of the loop was too slow: the queue ran over, and its clients came again after seconds."""
    crowd = Crowd(range(TAKEN))
    async with let_in(crowd) as served:
        while not served:
            await trio.lowlevel.checkpoint()
        assert not crowd.waiting
        assert len(served) <= 2 * ADMITTED
        while len(served) < TAKEN:
            await trio.lowlevel.checkpoint()
        order = [number // ADMITTED for number, _ in served]
        assert order == sorted(order), "who came first was not first"


async def test_who_left_while_waiting_is_not_served_in_a_crowd_but_is_without_one():
    crowd = Crowd(range(10 * ADMITTED))
    crowd.gone = set(range(0, 10 * ADMITTED, 3))
    async with let_in(crowd) as served:
        while len(served) + len(crowd.closed) < 10 * ADMITTED:
            await trio.lowlevel.checkpoint()
    stayed = {number for number, _ in served if number < 9 * ADMITTED}
    assert not stayed & crowd.gone
    assert set(crowd.closed) == {number for number in crowd.gone if number < 9 * ADMITTED}
    quiet = Crowd([0])
    quiet.gone = {0}  # has sent all it has to say, perhaps
    async with let_in(quiet) as served:
        while not served:
            await trio.lowlevel.checkpoint()
    assert quiet.closed == []


async def test_no_more_are_taken_than_there_is_room_for_and_some_to_be_refused():
    crowd = Crowd(range(1_000))
    async with let_in(crowd, limit=REFUSALS + 6) as served:
        while not served:
            await trio.lowlevel.checkpoint()
        assert len(crowd.waiting) >= 1_000 - 2 * (REFUSALS + 6)


async def test_who_still_waits_at_the_end_is_let_go():
    crowd = Crowd(range(TAKEN))
    async with let_in(crowd) as served:
        while not served:
            await trio.lowlevel.checkpoint()
        before = len(served)
    assert len(crowd.closed) == TAKEN - len(served) >= TAKEN - before - 2 * ADMITTED
    assert not crowd.is_open


async def test_a_client_that_left_is_seen_behind_its_unread_request():
    [listener] = await open_listeners([("127.0.0.1", 0)], None)
    port = listener.socket.getsockname()[1]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stays:
        await stays.send_all(b"GET / HTTP/1.1")
        async with await trio.open_tcp_stream("127.0.0.1", port) as leaves:
            await leaves.send_all(b"GET / HTTP/1.1")
        await listener.wait()
        first, second = listener.take(), listener.take()
        assert [listener.has_left(each) for each in (first, second)] == [False, True]
        await first.aclose()
        await second.aclose()
    await listener.aclose()
