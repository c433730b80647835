"""A bot of the Remote Workers API: takes leases by gRPC, runs the commands in them, reports how they ended.

    pip install grpcio
    python examples/remote_bot.py http://127.0.0.1:8710 remote-1 [INSTANCE]

It holds one lease at a time and runs its command in the folder where it was started. A lease that the daemon does not
name any more was canceled, or is above its limit: the command is killed. What a command prints goes where this program
prints: a lease has no place for it. The rules are in docs/remoteworkers.md. Ended in the middle of a command, it leaves
the rest to the daemon: the session expires, and the task is tried again if it may be.
"""

import os
import subprocess
import sys
import time
from urllib.parse import urlsplit

import grpc

from swarmd.api.remoteworkers.proto import bots_pb2, command_pb2

SERVICE = "/google.devtools.remoteworkers.v1test2.Bots/"
BEAT_S = 1.0  # between two updates while a command runs: who holds all it can is not made to wait
POLL_S = 30.0  # deadline of an idle bot's update: it is held for four fifths of that
ACTIVE, COMPLETED = bots_pb2.LeaseState.ACTIVE, bots_pb2.LeaseState.COMPLETED
COULD_NOT_START = 9  # FAILED_PRECONDITION, as the status of a lease: no other bot needs to try it


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
        self.session = bots_pb2.BotSession(bot_id=id, status=bots_pb2.BotStatus.OK)
        device = self.session.worker.devices.add(handle="primary")
        device.properties.add(key="OSFamily", value="linux")
        device.properties.add(key="kind", value="remote")

    def open(self) -> None:
        """A new session; what this one still runs, it names, and keeps."""
        request = bots_pb2.CreateBotSessionRequest(parent=self._instance, bot_session=self.session)
        self.session = self._create(request, timeout=5, wait_for_ready=True)

    def update(self, deadline_s: float) -> None:
        """Says what it holds and takes over what it is told. After a failure it opens a new session."""
        request = bots_pb2.UpdateBotSessionRequest(name=self.session.name, bot_session=self.session)
        try:
            self.session = self._update(request, timeout=deadline_s)
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
    url, id, instance = (*sys.argv[1:], "")[:3]
    with grpc.insecure_channel(urlsplit(url).netloc) as channel:
        bot = Bot(channel, id, instance)
        bot.open()
        print(f"{bot.session.name} until {bot.session.expire_time.ToJsonString()}", flush=True)
        while True:
            for lease in list(bot.session.leases):
                lease.state = ACTIVE
                bot.run(lease)
            if not bot.session.leases:
                bot.update(POLL_S)


if __name__ == "__main__":
    main()
