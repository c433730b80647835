"""The two ends of a lease: what it carries, made of a task's work, and what came back, read as an outcome.

`payload_of` and `report_of` are the only places that know what is in there. Source: protocol reference, payload and
result, completion; docs/remoteworkers.md, "What a lease carries".
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from swarmd.api.remoteworkers.proto import command_pb2
from swarmd.api.rpc import Code
from swarmd.core.ids import to_text
from swarmd.core.model import Outcome, Payload, Work

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status

    from swarmd.api.remoteworkers.proto.bots_pb2 import Lease
    from swarmd.core.model import Attempt
    from swarmd.daemon.works import WorkText

TYPES = "type.googleapis.com/"
PACKAGE = TYPES + "google.devtools.remoteworkers.v1test2."
COMMAND_TASK = PACKAGE + "CommandTask"
COMMAND_RESULT = PACKAGE + "CommandResult"
COMMAND_OUTPUTS = PACKAGE + "CommandOutputs"
ACTION_RESULT = TYPES + "build.bazel.remote.execution.v2.ActionResult"
MAX_RESULT_BYTES = 4 << 20  # a larger one is not kept
MAX_REASON = 2_000

RETRIED = (Code.INTERNAL, Code.UNAVAILABLE)  # the bot's own trouble: the task is tried again
NOT_RUNNABLE = (
    Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED,
    Code.UNAUTHENTICATED,
)  # fmt: skip


class Report(NamedTuple):
    """The end of a lease: the outcome, and what of its output came with it."""

    outcome: Outcome
    stdout: bytes = b""
    stderr: bytes = b""


# --------------------------------------------------------------------- what a lease carries


def payload_of(work: Work, text: WorkText, attempt: Attempt) -> any_pb2.Any:
    """What the bot gets: the submitter's own message, or a command.

    Everything else that a `Work` can say is a feature that these bots do not have.
    """
    if work.payload is not None and not work.commands:
        return any_pb2.Any(type_url=work.payload.type, value=work.payload.data)
    task = _command_task(work, text, attempt)
    return any_pb2.Any(type_url=COMMAND_TASK, value=task.SerializeToString(deterministic=True))


def _command_task(work: Work, text: WorkText, attempt: Attempt) -> command_pb2.CommandTask:
    [command] = work.commands
    env = {
        "SWARMD_TASK_ID": to_text(attempt.task), "SWARMD_ATTEMPT": to_text(attempt.id), "SWARMD_BOT_ID": attempt.bot,
    }  # fmt: skip
    if text.index is not None:
        env["SWARMD_INDEX"] = str(text.index)
    if text.line is not None:
        env["SWARMD_LINE"] = text.line
    variables = {**env, **work.env, **command.env}
    made = command_pb2.CommandTask()
    made.inputs.arguments.extend(command.argv)
    for name, value in variables.items():
        made.inputs.environment_variables.add(name=name, value=value or "")
    _span(made.timeouts.execution, work.hard_limit_s)
    if work.io_limit_s:
        _span(made.timeouts.idle, work.io_limit_s)
    _span(made.timeouts.shutdown, work.grace_s)
    return made


def _span(field: Any, seconds: float) -> None:
    field.FromNanoseconds(round(seconds * 1e6) * 1000)


# --------------------------------------------------------------------- what comes back


def report_of(lease: Lease) -> Report:
    """What a lease that the bot calls completed says. Never raises: the end counts, however it is told.

    The status is that of the lease; a command that ran and failed says so in the result.
    """
    result = lease.result
    payload, left_out = None, ""
    if result.type_url and len(result.value) <= MAX_RESULT_BYTES:
        payload = Payload(result.type_url, result.value)
    elif result.type_url:
        left_out = f"its result has {len(result.value)} bytes and was not kept"
    if lease.status.code != Code.OK:
        return Report(_failed(lease.status, payload))
    try:
        read = _read(result)
    except DecodeError:
        reason = f"its result is not one of type {result.type_url}"
        return Report(Outcome(ok=False, reason=reason[:MAX_REASON], payload=payload))
    if read.status is not None and read.status.code != Code.OK:
        return Report(_command_failed(read, payload), read.stdout, read.stderr)
    outcome = Outcome(
        ok=read.exit_code in (None, 0), exit_code=read.exit_code, duration_s=read.duration_s, reason=left_out,
        payload=payload,
    )  # fmt: skip
    return Report(outcome, read.stdout, read.stderr)


class _Read(NamedTuple):
    exit_code: int | None = 0  # of a result that was left out: it is accepted, and means success
    status: Status | None = None
    duration_s: float | None = None
    stdout: bytes = b""
    stderr: bytes = b""


def _read(result: any_pb2.Any) -> _Read:
    """Raises `DecodeError` for bytes that are not of the type that they are called."""
    if not result.type_url:
        return _Read()
    if result.type_url == COMMAND_RESULT:
        told = command_pb2.CommandResult.FromString(result.value)
        duration_s = told.duration.seconds + told.duration.nanos / 1e9 if told.HasField("duration") else None
        return _Read(
            told.exit_code, told.status, duration_s if duration_s is None or duration_s >= 0 else None
        )
    if result.type_url == COMMAND_OUTPUTS:
        return _Read(command_pb2.CommandOutputs.FromString(result.value).exit_code)
    if result.type_url == ACTION_RESULT:
        return _action_result(result.value)
    return _Read(exit_code=None)


def _action_result(value: bytes) -> _Read:
    """How the command ended and what it printed."""
    told = _action_end().FromString(value)
    return _Read(told.exit_code, stdout=told.stdout_raw, stderr=told.stderr_raw)


@cache
def _action_end() -> Any:
    """The message type with those fields of an ActionResult that are read here: what else is in it, perhaps millions of
    files, costs no Python. In a pool of its own: the real type may come with other modules."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="swarmd/action_end.proto", package="swarmd", syntax="proto3"
    )
    message = file.message_type.add(name="ActionEnd")
    for name, number, type in (
        ("exit_code", 4, field.TYPE_INT32), ("stdout_raw", 5, field.TYPE_BYTES), ("stderr_raw", 7, field.TYPE_BYTES),
    ):  # fmt: skip
        message.field.add(name=name, number=number, type=type, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("swarmd.ActionEnd"))


def _failed(status: Status, payload: Payload | None) -> Outcome:
    """The end of a lease that did not work."""
    code = status.code
    return Outcome(
        ok=False,
        timed_out=code == Code.DEADLINE_EXCEEDED,
        client_error=code in NOT_RUNNABLE,
        died=code in RETRIED,
        reason=_sentence(status),
        payload=payload,
    )


def _command_failed(read: _Read, payload: Payload | None) -> Outcome:
    """The end of a command that ran, by its own status."""
    assert read.status is not None
    return Outcome(
        ok=False, exit_code=read.exit_code, duration_s=read.duration_s,
        timed_out=read.status.code == Code.DEADLINE_EXCEEDED, reason=_sentence(read.status), payload=payload,
    )  # fmt: skip


def _sentence(status: Status) -> str:
    name = Code(status.code).name if status.code in Code._value2member_map_ else str(status.code)
    return (f"{name}: {status.message}" if status.message else name)[:MAX_REASON]
