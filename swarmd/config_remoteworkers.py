"""The `[remoteworkers]` table of the configuration: bots of the Remote Workers API. Source: docs/remoteworkers.md."""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct, field, structs

LeaseMode = Literal["active", "pending"]
COMMAND = "command"  # in `payloads`: a CommandTask that the daemon makes of any task with one command
EVERY = "*"  # the instance whose bots take the work of all


class InstanceRules(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The bots that name this instance when they open a session."""

    pools: tuple[str, ...] = ("default",)  # whose tasks they take
    leases: str = (
        "active"  # a `LeaseMode`: as what a lease is given, at once or until the bot says that it is active
    )
    payloads: tuple[str, ...] = (COMMAND,)  # what they understand: "command", type URLs
    # A bot must have all properties of one of these, or it may not come; none: anybody may.
    property_sets: tuple[dict[str, tuple[str, ...]], ...] = ()


class RemoteWorkersConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What bots of the Remote Workers API are told. Spans are in seconds."""

    instances: dict[str, InstanceRules] = field(default_factory=lambda: {"": InstanceRules()})
    keep_alive_s: float = 600.0  # a session so long silent has ended
    hold_s: float = 86_400.0  # a call that waits for work is held at most so long, whatever its deadline says
    assumed_deadline_s: float = 300.0  # of a call that has none
    label_key: str = "OSFamily"  # the property by which bots are counted
    worker_properties: bool = False  # the worker's own properties count as the first device's do
    events: bool = False  # keep what a bot posts with PostBotEventTemp, instead of answering UNIMPLEMENTED

    def faults(self) -> list[tuple[str, str]]:
        """Values that cannot be: what, and what to do."""
        found = [
            (f"remoteworkers.{name} is {getattr(self, name)}", f"give {low:g} to {high:g}")
            for name, low, high in (
                ("keep_alive_s", 1, 86_400), ("hold_s", 0, 86_400), ("assumed_deadline_s", 1, 86_400),
            )
            if not low <= getattr(self, name) <= high
        ]  # fmt: skip
        if not self.instances:
            found.append(
                (
                    "remoteworkers.instances is empty",
                    'name one; "" is the one without a name',
                )
            )
        for name, rules in self.instances.items():
            where = name or '""'
            found += _faults_of(f"remoteworkers.instances.{where}", name, rules)
        return found

    def rules(self, instance: str) -> InstanceRules | None:
        """The rules of an instance; those of `*` have the pools of all others."""
        found = self.instances.get(instance)
        if found is None or instance != EVERY or len(self.instances) == 1:
            return found
        others = [rules for name, rules in self.instances.items() if name != EVERY]
        pools = dict.fromkeys(pool for rules in others for pool in rules.pools)
        return structs.replace(found, pools=tuple(pools))


def _faults_of(where: str, name: str, rules: InstanceRules) -> list[tuple[str, str]]:
    found = []
    if len(name) > 200 or not (name.isprintable() and name == name.strip()):
        found.append((f"{where[:80]!r} is no name of an instance", "give at most 200 printable characters"))
    if name.startswith("/") or name.endswith("/"):
        found.append((f"{where} begins or ends with '/'", "leave it out: names of sessions begin with it"))
    pools = rules.pools
    if not pools or len(set(pools)) != len(pools) or not all(map(_is_value, pools)):
        found.append((f"{where}.pools is {list(pools)}", 'name pools, each once, as in pools = ["default"]'))
    if rules.leases not in get_args(LeaseMode):
        found.append((f"{where}.leases is {rules.leases!r}", 'give "active" or "pending"'))
    payloads = rules.payloads
    if not payloads or not all(_is_value(p) and (p == COMMAND or "/" in p) for p in payloads):
        found.append(
            (
                f"{where}.payloads is {list(payloads)}",
                f'give "{COMMAND}", or type URLs that they take, as in "type.googleapis.com/…"',
            )
        )
    return found


def _is_value(text: str) -> bool:
    """Whether it may be a value of a dimension."""
    return 1 <= len(text) <= 200 and text == text.strip() and text.isprintable() and "|" not in text
