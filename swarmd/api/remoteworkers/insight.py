"""What of an instance is to be seen: how many of its bots call, how they are, what more they can hold.

All of it is read from the engine, at the moment when somebody asks. Source: protocol reference, metrics and
introspection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from swarmd.api.native import messages as m
from swarmd.api.remoteworkers import worker
from swarmd.api.remoteworkers.context import PROTOCOL, Context, instance_of, state_of
from swarmd.core.dimensions import POOL
from swarmd.daemon.meters import Gauge

if TYPE_CHECKING:
    from swarmd.api.calls import Call
    from swarmd.core.model import Bot, Session

COUNTED = worker.STATUSES[:5]  # statuses that are counted also where no bot has them
UNNAMED = "unnamed"  # the instance without a name, where one must be written


class InsightHandlers:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._daemon = context.daemon

    async def list_instances(self, call: Call) -> m.InstanceList:
        found = [self.instance(name) for name in sorted(self._context.config.instances)]
        await self._daemon.tellable()
        return m.InstanceList(items=found)

    def instance(self, name: str) -> m.InstanceInfo:
        """An instance, with the bots of others that take its work too: those of `*`, and those of a common pool."""
        rules = self._context.rules(name)
        info = m.InstanceInfo(name=name, pools=list(rules.pools), connected=0)
        for status in COUNTED:
            info.bots[status] = info.capacity[status] = 0
            info.bots_by_label[status] = {worker.UNKNOWN: 0}
            info.capacity_by_label[status] = {worker.UNKNOWN: 0}
        for bot, session in self._sessions():
            if not set(bot.assigned.get(POOL, ())) & set(rules.pools):
                continue
            own = instance_of(session.key) == name
            info.connected += own and session.held > 0
            status = str(state_of(bot).get("status"))
            free = max(0, session.slots - len(session.attempts))
            info.bots[status] = info.bots.get(status, 0) + 1
            info.capacity[status] = info.capacity.get(status, 0) + free
            by_label = info.bots_by_label.setdefault(status, {worker.UNKNOWN: 0})
            free_by_label = info.capacity_by_label.setdefault(status, {worker.UNKNOWN: 0})
            for label in bot.dimensions.get(self._context.config.label_key, (worker.UNKNOWN,)):
                by_label[label] = by_label.get(label, 0) + 1
                free_by_label[label] = free_by_label.get(label, 0) + free
        return info

    def _sessions(self) -> Iterator[tuple[Bot, Session]]:
        for session in self._daemon.engine.sessions.values():
            if session.protocol == PROTOCOL:
                yield self._daemon.engine.bots[session.bot], session

    def gauges(self) -> list[Gauge]:
        """The same for Prometheus; nothing while no bot of this protocol has a session."""
        if next(self._sessions(), None) is None:
            return []
        instances = [self.instance(name) for name in sorted(self._context.config.instances)]
        named = [({"instance": i.name or UNNAMED}, i) for i in instances]
        return [
            Gauge(
                "swarmd_remoteworkers_connected",
                "Bots of an instance with a call that waits or runs.",
                [(labels, i.connected) for labels, i in named],
            ),
            Gauge(
                "swarmd_remoteworkers_bots",
                "Bots of an instance by status and label.",
                [
                    ({**labels, "status": status, "label": label}, count)
                    for labels, i in named
                    for status, by_label in i.bots_by_label.items()
                    for label, count in by_label.items()
                ],
            ),
            Gauge(
                "swarmd_remoteworkers_free_leases",
                "Leases that the bots of an instance can take, by status and label.",
                [
                    ({**labels, "status": status, "label": label}, count)
                    for labels, i in named
                    for status, by_label in i.capacity_by_label.items()
                    for label, count in by_label.items()
                ],
            ),
        ]
