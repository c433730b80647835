"""Held calls: a session's call waits until there is something to say to it.

The engine decides who is woken; this module only holds the call, and sees to it that a session never
waits twice and that nothing is forgotten when a caller goes away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from swarmd.core.model import Session, SessionId
from swarmd.daemon.daemon import Daemon


@contextmanager
def held(daemon: Daemon, session: Session) -> Iterator[None]:
    """While a call of a session is held, the session cannot expire; its deadline counts from the end of the call."""
    session.held += 1
    try:
        yield
    finally:
        session.held -= 1
        if not session.held and session.id in daemon.engine.sessions:
            with daemon.step() as (engine, now):
                engine.seen(now, session.id)
                engine.moved.add(session.id)


class Hold:
    """One held call. `called_back` becomes true when a newer call of the same session takes its place."""

    def __init__(self, daemon: Daemon, session_id: SessionId) -> None:
        self.called_back = False
        self._daemon = daemon
        self._session_id = session_id

    async def wait(self, free: int, until: float) -> int:
        """Waits at most until `until` (trio's time); returns how many offers to take now.

        Returns early with 0 for an order, the session's end, a newer call, or the daemon's stop: the
        caller looks itself.
        """
        daemon, id = self._daemon, self._session_id
        with daemon.step() as (engine, now):
            if engine.wait(now, id, free):
                return free
        event = daemon.held[id] = trio.Event()
        woken = 0
        try:
            with trio.move_on_at(until):
                await event.wait()
        except trio.Cancelled:
            self._leave(event, pass_on=True)
            raise
        woken = self._leave(event, pass_on=self.called_back)
        return 0 if self.called_back else woken

    def _leave(self, event: trio.Event, pass_on: bool) -> int:
        daemon, id = self._daemon, self._session_id
        if daemon.held.get(id) is not event:
            return 0  # a newer call has taken over, and has ended this wait
        del daemon.held[id]
        with daemon.step() as (engine, _):
            woken = engine.unwait(id)
            if woken and pass_on:
                engine.pass_on(id)
        return woken


class Holds:
    """The held call of each session: at most one."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._holds: dict[SessionId, Hold] = {}

    @contextmanager
    def take_over(self, session_id: SessionId) -> Iterator[Hold]:
        """Makes this the session's current call; an older one that is held answers at once, with nothing."""
        daemon = self._daemon
        older = self._holds.get(session_id)
        if older is not None:
            older.called_back = True
            event = daemon.held.pop(session_id, None)
            if event is not None:
                with daemon.step() as (engine, _):
                    if engine.unwait(session_id):
                        engine.pass_on(session_id)
                event.set()
        hold = self._holds[session_id] = Hold(daemon, session_id)
        try:
            yield hold
        finally:
            if self._holds.get(session_id) is hold:
                del self._holds[session_id]
