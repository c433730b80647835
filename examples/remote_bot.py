"""A bot of the Remote Workers API: takes leases by gRPC, runs the commands in them, reports how they ended.

    pip install grpcio
    python examples/remote_bot.py http://127.0.0.1:8710 remote-1 [INSTANCE]

SWARMD_TOKEN_FILE names a file with the token, where one is needed; for https, SSL_CERT_FILE names the certificates to
trust instead of grpcio's own.

It holds one lease at a time and runs its command in the folder where it was started. A lease that the daemon does not
name any more was canceled, or is above its limit: the command is killed. What a command prints goes where this program
prints: a lease has no place for it. The rules are in docs/remoteworkers.md. Ended in the middle of a command, it leaves
the rest to the daemon: the session expires, and the task is tried again if it may be. While the daemon is away, the
command runs on, and the bot tries again.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import grpc

from swarmd.api.remoteworkers.proto import bots_pb2, command_pb2

SERVICE = "/google.devtools.remoteworkers.v1test2.Bots/"
BEAT_S = 1.0  # between two updates while a command runs: who holds all it can is not made to wait
POLL_S = 30.0  # deadline of an idle bot's update: it is held for four fifths of that
ACTIVE, COMPLETED = bots_pb2.LeaseState.ACTIVE, bots_pb2.LeaseState.COMPLETED
PAUSE_S = 2.0  # between two tries to open a session
COULD_NOT_START = 9  # FAILED_PRECONDITION, as the status of a lease: no other bot needs to try it


USAGE = "usage: remote_bot.py URL BOT_ID [INSTANCE], as in: remote_bot.py http://127.0.0.1:8710 remote-1 lab"
HOPELESS = (  # to say the same again would not help
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)


def fail(sentence: str) -> NoReturn:
    sys.exit(f"remote_bot.py: {sentence}")


def file_named_by(variable: str) -> bytes | None:
    path = os.environ.get(variable)
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        fail(f"{variable}: {error}")


def channel_to(url: str) -> grpc.Channel:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fail(f"{url!r} is no URL of a daemon; {USAGE}")
    options = [("grpc.max_reconnect_backoff_ms", round(PAUSE_S * 1000))]  # it would become two minutes
    if parts.scheme == "http":
        return grpc.insecure_channel(parts.netloc, options)
    return grpc.secure_channel(
        parts.netloc, grpc.ssl_channel_credentials(file_named_by("SSL_CERT_FILE")), options
    )


class Bot:
    def __init__(self, channel: grpc.Channel, id: str, instance: str) -> None:
        answer = bots_pb2.BotSession.FromString
        as_bytes = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": answer,
        }
        self._create = channel.unary_unary(SERVICE + "CreateBotSession", **as_bytes)
        self._update = channel.unary_unary(SERVICE + "UpdateBotSession", **as_bytes)
        self._instance = instance
        token = file_named_by("SWARMD_TOKEN_FILE")
        self._metadata = [("authorization", f"Bearer {token.decode().strip()}")] if token else None
        self.session = bots_pb2.BotSession(bot_id=id, status=bots_pb2.BotStatus.OK)
        device = self.session.worker.devices.add(handle="primary")
        device.properties.add(key="OSFamily", value="linux")
        device.properties.add(key="kind", value="remote")

    def open(self) -> None:
        """A new session, as soon as the daemon is there; what this one still runs, it names, and keeps.

        With 3 s the call is not held.
        """
        request = bots_pb2.CreateBotSessionRequest(parent=self._instance, bot_session=self.session)
        while True:
            try:
                self.session = self._create(request, timeout=3, metadata=self._metadata)
                return
            except grpc.RpcError as error:
                said = f"cannot open a session: {error.code().name}: {error.details()}"
                if error.code() in HOPELESS:
                    fail(said)
                print(f"{said}; trying again", file=sys.stderr, flush=True)
                time.sleep(PAUSE_S)

    def update(self, deadline_s: float) -> None:
        """Says what it holds and takes over what it is told. After a failure it opens a new session."""
        request = bots_pb2.UpdateBotSessionRequest(name=self.session.name, bot_session=self.session)
        try:
            self.session = self._update(request, timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr, flush=True)
            time.sleep(BEAT_S)
            self.open()

    def has(self, lease: bots_pb2.Lease) -> bool:
        return any(known.id == lease.id for known in self.session.leases)

    def run(self, lease: bots_pb2.Lease) -> None:
        """Runs one command to its end and tells the daemon; kills it when the daemon has taken the lease away."""
        task = command_pb2.CommandTask.FromString(lease.payload.value)
        env = {variable.name: variable.value for variable in task.inputs.environment_variables}
        result = command_pb2.CommandResult()
        began = time.monotonic()
        try:
            process = subprocess.Popen(list(task.inputs.arguments), env=os.environ | env)
        except OSError as error:
            lease.status.code, lease.status.message = COULD_NOT_START, str(error)
        else:
            while process.poll() is None:
                try:
                    process.wait(BEAT_S)
                except subprocess.TimeoutExpired:
                    self.update(deadline_s=10)
                if not self.has(lease):
                    process.kill()
                    process.wait()
                    return
            result.exit_code = process.returncode
            result.duration.FromMilliseconds(round((time.monotonic() - began) * 1000))
        lease.state = COMPLETED
        lease.result.Pack(result)
        del self.session.leases[:]
        self.session.leases.append(lease)
        self.update(deadline_s=10)


def main() -> None:
    if not 3 <= len(sys.argv) <= 4:
        fail(USAGE)
    url, id, instance = (*sys.argv[1:], "")[:3]
    with channel_to(url) as channel:
        bot = Bot(channel, id, instance)
        bot.open()
        print(f"{bot.session.name} until {bot.session.expire_time.ToJsonString()}", flush=True)
        while True:
            for lease in list(bot.session.leases):
                lease.state = ACTIVE
                bot.run(lease)
            if not bot.session.leases:
                began = time.monotonic()
                bot.update(POLL_S)
                if not bot.session.leases and time.monotonic() - began < BEAT_S:
                    time.sleep(BEAT_S)  # the daemon holds no calls: it is told so, or it is stopping


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
