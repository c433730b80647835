"""What of a task's work not every bot protocol can express: each becomes a required feature, so nothing is
silently dropped."""

from __future__ import annotations

from swarmd.core.model import Work

COMMAND = "command"  # a command at all: some bots take nothing but their protocol's own messages
COMMANDS = "commands"  # several commands in a row
FILES = "files"  # texts written to files
INPUTS = "inputs"
OUTPUTS = "outputs"
CWD = "cwd"  # a working folder
UNSET = "unset"  # variables taken away
EMPTY = "empty"  # variables set to nothing
NOOP = "noop"
IO_LIMIT = "io_limit"
TERMINATE = "terminate"
PAYLOAD = "payload."

NATIVE = (COMMAND, COMMANDS, CWD, FILES, INPUTS, OUTPUTS, UNSET, EMPTY, NOOP, IO_LIMIT, TERMINATE)


def features_of(work: Work) -> tuple[str, ...]:
    """The features that `work` needs of a bot's protocol, sorted."""
    needed: set[str] = set()
    if work.commands:
        needed.add(COMMAND)
    if len(work.commands) > 1:
        needed.add(COMMANDS)
    if any(command.write_to for command in work.commands):
        needed.add(FILES)
    if any(command.cwd for command in work.commands):
        needed.add(CWD)
    if work.inputs:
        needed.add(INPUTS)
    if work.outputs:
        needed.add(OUTPUTS)
    if work.noop:
        needed.add(NOOP)
    if work.terminate:
        needed.add(TERMINATE)
    if work.io_limit_s:
        needed.add(IO_LIMIT)
    values = {v for env in (work.env, *(command.env for command in work.commands)) for v in env.values()}
    if None in values:
        needed.add(UNSET)
    if "" in values:
        needed.add(EMPTY)
    if work.payload is not None and not work.commands:
        needed.add(PAYLOAD + work.payload.type)
    return tuple(sorted(needed))
