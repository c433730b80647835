"""The doors of the daemon: sockets to listen on, TCP and Unix, and who is let in.

Says in a sentence why a socket cannot be opened.
"""

import errno
import logging
import os
import resource
import select
import socket
import stat
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import trio

log = logging.getLogger("swarmd.server")

BACKLOG = 4096  # clients that come at once and wait in the kernel; it may cut this to somaxconn
TAKEN = 1024  # clients taken from the kernel at each turn of trio's loop
ADMITTED = 32  # of them let in at each turn
PROBE_S = 1.0  # for the question whether somebody answers on a Unix socket
REFUSALS = 64  # connections over the limit that are told so at a time; more are closed without a word
REFUSE_S = 2.0  # for such a connection
RETRY_AFTER_S = 5
ACCEPT_PAUSE_S = 0.1  # after accept() failed, mostly for want of descriptors
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: %d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    % RETRY_AFTER_S
)
UNIX_MODE = 0o600  # a Unix peer is trusted like a local user, so only the owner may connect


class ListenError(Exception):
    """An address cannot be listened on; the message is for the person who chose it."""


class Listener(trio.abc.AsyncResource):
    """A listening socket whose clients can all be taken at once; trio's own gives one at each turn of its loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.socket = trio.socket.from_stdlib_socket(sock)

    async def wait(self) -> None:
        """Returns when somebody may be waiting. Raises `trio.ClosedResourceError`."""
        await trio.lowlevel.wait_readable(self._sock)

    def take(self) -> trio.SocketStream | None:
        """Who waits longest, None if nobody does. Raises OSError."""
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return None
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    def has_left(self, stream: trio.SocketStream) -> bool:
        """Whether a client has closed its side, perhaps behind a request that nobody has read yet."""
        poll = select.poll()
        poll.register(stream.socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    async def aclose(self) -> None:
        self.socket.close()
        await trio.lowlevel.checkpoint()


async def open_listeners(tcp: list[tuple[str, int]], unix: Path | None) -> list[Listener]:
    """Listening sockets for each (host, port) and for the Unix path, in that order; port 0 picks a free one.

    A host name that stands for several addresses gives one listener each, on the same port. The Unix socket
    has mode 0600; what a dead daemon left there is replaced. The caller closes the listeners and then calls
    `remove_unix_socket`. Raises `ListenError`; then nothing stays open.
    """
    listeners: list[Listener] = []
    try:
        for host, port in tcp:
            listeners += await _open_tcp(host, port)
        if unix is not None:
            listeners.append(await _open_unix(unix))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _open_tcp(host: str, port: int) -> list[Listener]:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(
            f"cannot listen on {_address(host, port)}: no such host here ({error}); "
            "give an IP address or a name of this machine with --listen"
        ) from error
    listeners: list[Listener] = []
    for family, kind, protocol, _, address in found:
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            sock.listen(BACKLOG)
        except (OSError, OverflowError) as error:
            if sock is not None:
                sock.close()
            absent = getattr(error, "errno", None) in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
            if absent and len(found) > 1 and (listeners or address != found[-1][4]):
                continue  # "localhost" often names ::1 on machines without IPv6
            for listener in listeners:
                listener.socket.close()
            raise ListenError(_why_not_tcp(host, port, error)) from error
        port = sock.getsockname()[1]
        listeners.append(Listener(sock))
    return listeners


def _why_not_tcp(host: str, port: int, error: Exception) -> str:
    where = _address(host, port)
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return (
                f"cannot listen on {where}: the port is in use; choose another with --listen, "
                "or find the process that has it with `ss -ltnp`"
            )
        case errno.EADDRNOTAVAIL:
            return f"cannot listen on {where}: not an address of this machine; `ip address` lists those"
        case errno.EACCES:
            return f"cannot listen on {where}: not permitted; choose a port of 1024 or above with --listen"
    return f"cannot listen on {where}: {error}; choose another address with --listen"


async def _open_unix(path: Path) -> Listener:
    await _clear_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), UNIX_MODE)  # before bind: there is no moment with a wider mode
        sock.bind(os.fspath(path))
        os.chmod(path, UNIX_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(
            f"cannot listen on unix:{path}: {error}; choose a path of at most 107 bytes in a folder "
            "that you may write to with --unix"
        ) from error
    return Listener(sock)


async def _clear_way(path: Path) -> None:
    """Removes the socket of a dead daemon; refuses a live one and anything that is not a socket."""
    try:
        mode = os.lstat(path).st_mode  # lstat: a link is not followed
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(
            f"cannot listen on unix:{path}: {error}; choose another path with --unix"
        ) from error
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"cannot listen on unix:{path}: something that is not a socket is there and stays untouched; "
            "remove it yourself or choose another path with --unix"
        )
    if await _answers(path):
        raise ListenError(
            f"cannot listen on unix:{path}: a running process answers there; stop it "
            "(`ss -lxp` names it) or choose another path with --unix"
        )
    try:
        os.unlink(path)
    except OSError as error:
        raise ListenError(
            f"cannot listen on unix:{path}: the socket of a dead process cannot be removed ({error}); "
            "remove it yourself or choose another path with --unix"
        ) from error


async def _answers(path: Path) -> bool:
    """Whether somebody listens there. In doubt (no right to ask, no answer in time): yes."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, trio.move_on_after(PROBE_S):
        try:
            await sock.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def remove_unix_socket(path: Path) -> None:
    """Removes the socket file that our closed listener left; leaves whatever else is there.

    Call it after the listener was closed: a socket on which a process answers belongs to the next daemon.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.connect(os.fspath(path))
    except ConnectionRefusedError:
        try:
            os.unlink(path)
        except OSError:
            pass  # the next start removes it
    except OSError:
        pass  # gone, or its owner is busy


def listener_url(listener: Listener, tls: bool = False) -> str:
    """`http://127.0.0.1:8710`, `https://[::1]:8710` or `unix:/absolute/path`."""
    address = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        return f"unix:{os.path.abspath(os.fsdecode(address))}"
    return f"http{'s' if tls else ''}://{_address(address[0], address[1])}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def raise_open_files_limit() -> tuple[int, int]:
    """Raises the soft limit of open files to the hard one; returns both as they are now.

    Each held connection needs a descriptor. Where the system refuses, the soft limit stays as it was.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # an unlimited hard limit over the kernel's own maximum
    return resource.getrlimit(resource.RLIMIT_NOFILE)


class Door:
    """Counts connections and turns away those over `limit`; `handle` serves one and must not raise."""

    def __init__(self, limit: int, handle: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        self._limit = limit
        self._handle = handle
        self._inside = 0
        self._refusing = 0
        self._full = False  # and that was logged

    @property
    def room(self) -> int:
        """How many may still come in."""
        return max(0, self._limit - self._inside)

    async def welcome(self, stream: trio.SocketStream) -> None:
        if self._inside >= self._limit:
            await self._refuse(stream)
            return
        self._full = False
        self._inside += 1
        try:
            await self._handle(stream)
        finally:
            self._inside -= 1

    async def _refuse(self, stream: trio.SocketStream) -> None:
        """A bare 503 with Retry-After."""
        if not self._full:
            log.warning("connection.refused", extra={"max_connections": self._limit})
        self._full = True
        self._refusing += 1
        try:
            if self._refusing <= REFUSALS:
                with trio.move_on_after(REFUSE_S):
                    await stream.send_all(REFUSAL)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass  # so that the answer is not lost in a reset
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._refusing -= 1
            await trio.aclose_forcefully(stream)


class Waiting(Protocol):
    """What `accept` needs of a listener."""

    async def wait(self) -> None: ...

    def take(self) -> trio.SocketStream | None: ...

    def has_left(self, stream: trio.SocketStream) -> bool: ...

    async def aclose(self) -> None: ...


async def accept(listener: Waiting, door: Door, connections: trio.Nursery) -> None:
    """Lets clients in until cancelled, each in a task of `connections`; closes the listener.

    Everybody is taken from the kernel at once: its queue is short, and who does not fit in there is told nothing and
    tries again after seconds. They are let in a few at each turn of the loop, so that those who came first are answered
    first, and not all of ten thousand in the end; and who lost patience meanwhile costs nothing more.
    """
    lobby: deque[trio.SocketStream] = deque()
    failing = False
    try:
        while True:
            if not lobby:
                await listener.wait()
            try:
                for _ in range(min(TAKEN, max(door.room, REFUSALS) - len(lobby))):
                    stream = listener.take()
                    if stream is None:
                        break
                    lobby.append(stream)
                    failing = False
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                    raise
                # Out of descriptors or memory, or the peer's network failed before we came to it (accept(2)).
                if not failing:
                    log.error("accept.failed", extra={"error": str(error)})
                failing = True
                if not lobby:
                    await trio.sleep(ACCEPT_PAUSE_S)
            _admit(lobby, listener, door, connections)
            await trio.lowlevel.checkpoint()
    finally:
        for stream in lobby:
            stream.socket.close()
        await trio.aclose_forcefully(listener)


def _admit(lobby: deque[trio.SocketStream], listener: Waiting, door: Door, connections: trio.Nursery) -> None:
    """Lets in who came first."""
    crowded = len(lobby) > ADMITTED
    for _ in range(min(ADMITTED, len(lobby))):
        stream = lobby.popleft()
        if crowded and listener.has_left(stream):
            stream.socket.close()
        else:
            connections.start_soon(door.welcome, stream)
