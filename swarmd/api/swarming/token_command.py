"""The operator's own program that mints the tokens of tasks: JSON in, JSON out, once for each token.

No shell, few variables, a time limit; when that is over, an end for its whole process group. What it says on standard
error goes nowhere, and what it says on standard output into no log: either may hold secrets.

Source: docs/swarming.md, "Tokens inside tasks".
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import msgspec
import trio
from msgspec import Struct

from swarmd.core.errors import Busy
from swarmd.offthread import clock_held

log = logging.getLogger("swarmd.swarming")

AT_ONCE = 4
COMMAND_S = 30.0
PLACE_S = 15.0  # how long to wait for others to end; both together are below the minute that a bot waits
MAX_OUTPUT = 64 << 10
MAX_ERROR = 500  # characters
MAX_LIFE_S = 366 * 86_400.0
RETRY_S = 5.0
END_S = 5.0  # for a killed program to be gone
VARIABLES = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")

Which = Literal["access_token", "id_token"]


class Wanted(Struct, frozen=True):
    """What the program reads: which token, for whom."""

    account: str
    scopes: tuple[str, ...]  # of an access token
    audience: str  # of an ID token
    task: str  # a Swarming task id
    bot: str
    pool: str


class Minted(Struct, frozen=True):
    """What it answers: one of the tokens, good until `expiry` (unix time); or why there is none."""

    access_token: str | None = None
    id_token: str | None = None
    expiry: float = 0.0
    error: str | None = None


class _Failed(Exception):
    """The program did not do what it should. The text holds nothing that the program said."""


class TokenCommand:
    def __init__(self) -> None:
        self._places = trio.Semaphore(AT_ONCE)

    async def mint(
        self, argv: list[str], which: Which, wanted: Wanted, wall: Callable[[], float]
    ) -> tuple[str, int] | str:
        """A token and when it expires (unix time); or the sentence with which the program refuses it.

        Raises `Busy` for everything that may pass: the program failed, or too many run.
        """
        with trio.move_on_after(PLACE_S) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise _unavailable(f"{AT_ONCE} programs that mint tokens run already")
        try:
            output = await _run(argv, msgspec.json.encode(wanted))
            return _checked(output, which, wall())
        except _Failed as failed:
            told = {"task": wanted.task, "account": wanted.account, "reason": str(failed)}
            log.warning("token.command_failed", extra=told)
            raise _unavailable("the program that mints tokens failed: the daemon's log says how") from None
        finally:
            self._places.release()


def _unavailable(why: str) -> Busy:
    return Busy("token_unavailable", why, RETRY_S, "ask again later")


async def _run(argv: list[str], told: bytes) -> bytes:
    """What the program printed. Whatever becomes of it, it has ended then. Raises `_Failed`."""
    env = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    with clock_held():
        try:
            process = await trio.lowlevel.open_process(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise _Failed(f"{argv[0]} cannot be started: {error.strerror}") from None
        except ValueError as error:  # a NUL in a word
            raise _Failed(f"{argv[0]} cannot be started: {error}") from None
        ended = False
        try:
            with trio.move_on_after(COMMAND_S):
                output = await _talk(process, told)
                code = await process.wait()
                ended = True
                if code != 0:
                    raise _Failed(f"exit code {code}" if code > 0 else f"ended by signal {-code}")
                return output
            raise _Failed(f"it took longer than {COMMAND_S:g} s")
        finally:
            await _end(process, ended)


async def _talk(process: trio.Process, told: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    with suppress(trio.BrokenResourceError):  # it need not read
        await process.stdin.send_all(told)
    await process.stdin.aclose()
    output = b""
    while chunk := await process.stdout.receive_some():
        output += chunk
        if len(output) > MAX_OUTPUT:
            raise _Failed(f"it printed more than {MAX_OUTPUT} bytes")
    return output


async def _end(process: trio.Process, ended: bool) -> None:
    """Kills the program, with all of its group, unless it has ended by itself; leaves no zombie and no pipe."""
    assert process.stdin is not None and process.stdout is not None
    with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S):
        if not ended:
            # Nobody has waited for it yet, so its number is its own, even if it has ended.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.stdin.aclose()
        await process.stdout.aclose()
        await process.wait()


def _checked(output: bytes, which: Which, wall: float) -> tuple[str, int] | str:
    """The token in what the program printed. Raises `_Failed`."""
    try:
        minted = msgspec.json.decode(output, type=Minted)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _Failed(f"what it printed is not as expected: {error}") from None
    if minted.error:
        return "".join(c if c.isprintable() else " " for c in minted.error[:MAX_ERROR])
    token = getattr(minted, which)
    if not token or not all("!" <= c <= "~" for c in token):
        raise _Failed(f"it printed no {which}, or one with other characters than visible ASCII")
    if not wall < minted.expiry < wall + MAX_LIFE_S:
        raise _Failed("the expiry that it printed is past, or more than a year away")
    return token, int(minted.expiry)
