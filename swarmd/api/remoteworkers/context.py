"""What all handlers of the package share: configuration, sessions of bots, and errors in the protocol's words.

Source: protocol reference, names and instances, status codes.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from swarmd.api.remoteworkers import worker
from swarmd.api.remoteworkers.ids import ACTIVE, CANCELLED, COMPLETED, attempt_of
from swarmd.api.remoteworkers.worker import MAX_CAPACITY
from swarmd.api.rpc import Code, RpcError
from swarmd.config_remoteworkers import COMMAND, InstanceRules, RemoteWorkersConfig
from swarmd.core.dimensions import FEATURE, ID, POOL
from swarmd.core.engine import Engine
from swarmd.core.features import COMMAND as ANY_COMMAND
from swarmd.core.features import EMPTY, IO_LIMIT, PAYLOAD
from swarmd.core.model import AttemptId, Bot, BotId, Session, SessionId
from swarmd.core.sessions import Newcomer
from swarmd.daemon.daemon import Daemon, NoSpace, Stopping
from swarmd.daemon.sessions import Holds
from swarmd.store.errors import StoreBroken

if TYPE_CHECKING:
    from swarmd.api.remoteworkers.proto.bots_pb2 import BotSession

PROTOCOL = "remoteworkers"
KEPT = (ACTIVE, COMPLETED)
MOST_NAMED = 20  # instances, to who named one that there is not
MAX_LEFT_OUT = 20  # properties that could not be dimensions, as people are shown
MAX_VERSION = (1 << 63) - 1  # it grows, and Python reads longer numbers than it writes
RETRY_S = (25.0, 35.0)  # after which a bot that the daemon cannot serve now is told to try again

T = TypeVar("T")


class Ledger(Struct):
    """What a session was told last: how often that has changed, and of which attempts. In memory only: after a restart
    the first update says what the bot knows."""

    revision: int = 0
    told: frozenset[AttemptId] = frozenset()


class Context:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.config: RemoteWorkersConfig = daemon.config.remoteworkers
        self.holds = Holds(daemon)
        self._ledgers: dict[SessionId, Ledger] = {}

    def become(self, config: RemoteWorkersConfig) -> None:
        """Goes by another configuration from now on."""
        self.config = config

    # ------------------------------------------------------------- instances

    def rules(self, instance: str) -> InstanceRules:
        """Raises `RpcError` for an instance that is not configured."""
        found = self.config.rules(instance)
        if found is None:
            known = ", ".join(f"[{name}]" for name in sorted(self.config.instances)[:MOST_NAMED])
            raise RpcError(
                Code.INVALID_ARGUMENT, f"Invalid instance name: [{instance[:200]}]; configured: {known}"
            )
        return found

    # ------------------------------------------------------------- sessions

    def newcomer(self, given: BotSession, rules: InstanceRules, capacity: int) -> Newcomer:
        """A bot that opens a session. It keeps the leases that it says it runs or has run to their end: it had an older
        session, which ended, or which a daemon that was away did not answer for. Raises `RpcError`.
        """
        found, odd = worker.dimensions(given.worker, self.config.worker_properties)
        if rules.property_sets and not any(_has_all(found, needed) for needed in rules.property_sets):
            raise RpcError(Code.FAILED_PRECONDITION, f"Could not find property set for {found}")
        state = {
            "instance": instance_of(given.name), "session": given.name, "status": worker.status_name(given.status),
            **({"properties_left_out": odd[:MAX_LEFT_OUT]} if odd else {}),
        }  # fmt: skip
        return Newcomer(
            bot=BotId(given.bot_id), protocol=PROTOCOL, session_key=given.name, key_hash="",
            dimensions={**found, ID: (given.bot_id,)}, features=features(rules),
            slots=max(0, min(capacity, MAX_CAPACITY)), state=msgspec.json.encode(state),
            keeps=tuple(attempt_of(lease) for lease in given.leases if lease.state in KEPT),
            assigned={POOL: rules.pools}, deadline_s=self.config.keep_alive_s, enforces_limits=False,
            always_wins=True,
        )  # fmt: skip

    def reconfigured(self, bot: Bot, session: Session, rules: InstanceRules) -> Newcomer | None:
        """A bot as the present configuration has it; None when that has not changed. What the bot says of its worker
        counts when it opens a session, and no more."""
        assigned = {POOL: rules.pools, FEATURE: features(rules)}
        if bot.assigned == assigned:
            return None
        return Newcomer(
            bot=bot.id, protocol=PROTOCOL, session_key=session.key, key_hash="", dimensions=bot.dimensions,
            features=assigned[FEATURE], slots=session.slots, state=bot.state, assigned={POOL: rules.pools},
        )  # fmt: skip

    @staticmethod
    def note_status(engine: Engine, bot: Bot, status: int) -> None:
        """Keeps the status in the bot's state, for people."""
        state, name = state_of(bot), worker.status_name(status)
        if state.get("status") != name:
            bot.state = msgspec.json.encode({**state, "status": name})
            engine.touch_bot(bot)

    def session(self, given: BotSession, capacity: int) -> Session:
        """The open session that an update speaks of. Raises `RpcError`."""
        bot = self.daemon.engine.bots.get(BotId(given.bot_id))
        session = bot.session if bot is not None and bot.protocol == PROTOCOL else None
        if session is None or instance_of(session.key) != instance_of(given.name):
            raise RpcError(
                Code.INVALID_ARGUMENT,
                f"Bot does not exist while validating leases. {_about(given, capacity)}",
            )
        if session.key != given.name:
            raise RpcError(
                Code.INVALID_ARGUMENT,
                "Mismatch between client supplied bot_id/bot_name and buildgrid database record. "
                f"db.bot_name=[{session.key}] {_about(given, capacity)}",
            )
        return session

    def gone(self, given: BotSession, capacity: int) -> RpcError:
        """Why a session that was there when the call came is not there any more."""
        try:
            self.session(given, capacity)
        except RpcError as error:
            if error.message.startswith("Mismatch"):
                return error
        return RpcError(Code.DATA_LOSS, f"Bot not found to fetch expiry. {_about(given, capacity)}")

    def ledger(self, session: Session) -> Ledger | None:
        """What the session was told; None when that was before the daemon started."""
        return self._ledgers.get(session.id)

    def keep(self, session: Session, ledger: Ledger) -> None:
        sessions = self.daemon.engine.sessions
        if len(self._ledgers) > 2 * len(sessions) + 64:
            self._ledgers = {id: known for id, known in self._ledgers.items() if id in sessions}
        self._ledgers[session.id] = ledger


def features(rules: InstanceRules) -> tuple[str, ...]:
    """What the bots of an instance can express."""
    own = (ANY_COMMAND, EMPTY, IO_LIMIT) if COMMAND in rules.payloads else ()
    return tuple(sorted({*own, *(PAYLOAD + type for type in rules.payloads if type != COMMAND)}))


def _has_all(found: Mapping[str, Sequence[str]], needed: Mapping[str, Sequence[str]]) -> bool:
    return all(value in found.get(key, ()) for key, values in needed.items() for value in values)


def state_of(bot: Bot) -> dict[str, Any]:
    """What is kept of a bot's session, for people: instance, name, status."""
    known = msgspec.json.decode(bot.state)
    return known if isinstance(known, dict) else {}


def instance_of(name: str) -> str:
    """The instance in the name of a session."""
    return name.rpartition("/")[0]


def _about(given: BotSession, capacity: int) -> dict[str, Any]:
    return {
        "instance_name": instance_of(given.name), "request.bot_id": given.bot_id,
        "request.bot_status": given.status, "request.bot_name": given.name, "request.capacity": capacity,
    }  # fmt: skip


def illegal(given: BotSession, capacity: int, state: int) -> RpcError:
    """A lease in a state that it cannot have come to."""
    sentence = (
        "Illegal attempt from session to set state as cancelled."
        if state == CANCELLED
        else "Unsupported lease state transition."
    )
    about = {**_about(given, capacity), "request.lease_state": state, "db.lease_state": ACTIVE}
    return RpcError(Code.DATA_LOSS, f"{sentence} {about}")


def whole(text: str) -> int:
    """The number that a bot sent as a text. Raises `RpcError`, as the bots of this dialect know it."""
    try:
        return int(text)
    except ValueError as error:
        raise RpcError(Code.INTERNAL, str(error)) from None


def version_of(given: BotSession) -> int:
    """Raises `RpcError`."""
    version = whole(given.version or "0")
    if abs(version) > MAX_VERSION:
        raise RpcError(Code.INTERNAL, f"version {given.version[:40]!r} is above {MAX_VERSION}")
    return version


def answered(handler: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """A handler whose bot is told when to try again, where the daemon cannot serve it now."""

    @wraps(handler)
    async def guarded(*args: Any) -> T:
        try:
            return await handler(*args)
        except (NoSpace, StoreBroken, Stopping) as error:
            from google.rpc import error_details_pb2

            wait_s = 1.0 if isinstance(error, Stopping) else random.uniform(*RETRY_S)
            told = error_details_pb2.RetryInfo()
            told.retry_delay.FromMilliseconds(round(wait_s * 1000))
            message = str(error) or "the daemon is stopping"
            raise RpcError(Code.UNAVAILABLE, message, [told]) from None

    return guarded
