"""What of a task's work not every bot protocol can express: each becomes a required feature, so nothing is
silently dropped."""

from __future__ import annotations

from swarmd.core.model import Work

COMMANDS = "commands"  # several commands in a row
FILES = "files"  # texts written to files
INPUTS = "inputs"
OUTPUTS = "outputs"
UNSET = "unset"  # variables taken away
NOOP = "noop"
IO_LIMIT = "io_limit"
TERMINATE = "terminate"
PAYLOAD = "payload."

NATIVE = (COMMANDS, FILES, INPUTS, OUTPUTS, UNSET, NOOP, IO_LIMIT, TERMINATE)


def features_of(work: Work) -> tuple[str, ...]:
    """The features that `work` needs of a bot's protocol, sorted."""
    needed: set[str] = set()
    if len(work.commands) > 1:
        needed.add(COMMANDS)
    if any(command.write_to for command in work.commands):
        needed.add(FILES)
    if work.inputs:
        needed.add(INPUTS)
    if work.outputs:
        needed.add(OUTPUTS)
    if work.noop:
        needed.add(NOOP)
    if work.io_limit_s:
        needed.add(IO_LIMIT)
    if None in work.env.values() or any(None in command.env.values() for command in work.commands):
        needed.add(UNSET)
    if work.payload is not None and not work.commands:
        needed.add(PAYLOAD + work.payload.type)
    return tuple(sorted(needed))
