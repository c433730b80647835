"""Tells systemd how the daemon is: the protocol of sd_notify(3). Silent where there is no systemd."""

import os
import socket
import time
from collections.abc import Mapping

import trio

SEND_TIMEOUT_S = 0.2  # systemd may be busy; the daemon waits no longer for it
MAX_STATUS_CHARS = 400  # `systemctl status` shows one line


class Notifier:
    """Sends notifications to one socket; does nothing without one, and never raises when it is gone."""

    def __init__(self, address: str | None, watchdog_every_s: float | None = None) -> None:
        """`address`: a path, or a name that begins with @ in the abstract namespace."""
        self._address = address
        self._watchdog_every_s = watchdog_every_s

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Notifier":
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; what is not understood counts as not set."""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address if address.startswith(("/", "@")) else None, _watchdog_every_s(environ))

    def ready(self) -> None:
        """The start, or a reload, is complete."""
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time is what Type=notify-reload demands."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; line ends become spaces, a long text is cut."""
        self._send("STATUS=" + " ".join(text.split())[:MAX_STATUS_CHARS])

    async def watchdog(self) -> None:
        """Says WATCHDOG=1 at half the time that systemd allows; returns at once if it asks for none."""
        if self._address is None or self._watchdog_every_s is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await trio.sleep(self._watchdog_every_s)

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_TIMEOUT_S)
                sock.sendto(text.encode(errors="replace"), name)
        except (OSError, ValueError):
            pass  # systemd is away or restarts: no reason for the daemon to fail


def _watchdog_every_s(environ: Mapping[str, str]) -> float | None:
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isascii() or not usec.isdecimal() or int(usec) == 0:
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(usec) / 1e6 / 2
