"""A bot of one's own with the Python client: runs one command at a time, says that it lives, obeys a stop.

    python lab_bot.py http://127.0.0.1:8710 lab-1

Its tests, in test_lab_bot.py, run it against a whole daemon, most of them on virtual time.
"""

import secrets
import subprocess
import sys

import msgspec
import trio

from swarmd.api.native import messages as m
from swarmd.client import ApiError, open_client
from swarmd.core.model import Work

ALIVE_S = 20.0  # a session ends after 60 s of silence


async def run_command(argv):
    """The exit code of a command, and what it printed."""
    done = await trio.run_process(argv, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


class LabBot:
    def __init__(self, client, id, run=run_command):
        self.client, self.id, self.run = client, id, run
        self.session, self.seq, self.key = "", 0, secrets.token_hex(16)

    async def serve(self):
        """Works until it is cancelled. When its session has ended it opens another one."""
        while True:
            hello = m.SessionRequest(
                session_key=secrets.token_hex(16), bot_key=self.key, dimensions={"kind": ["lab"]}
            )
            self.session, self.seq, said = (await self.client.open_session(self.id, hello)).session, 0, {}
            try:
                while True:
                    answer = await self.sync(**(said or {"free": 1, "wait_s": 30.0}))
                    said = await self.work_on(answer.offers[0]) if answer.offers else {}
            except ApiError as error:
                if error.code != "unknown_session":
                    raise

    async def sync(self, **said):
        self.seq += 1
        return await self.client.sync(self.session, m.SyncRequest(seq=self.seq, **{"wait_s": 0.0, **said}))

    async def work_on(self, offer):
        """Runs an offered task; gives what the next `sync` has to say of it."""
        argv = msgspec.json.decode(offer.work, type=Work).commands[0].argv
        code, printed = -15, b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.live_with, offer.attempt, nursery.cancel_scope)
            code, printed = await self.run(argv)
            nursery.cancel_scope.cancel()
        ended = m.FinishedAttempt(attempt=offer.attempt, ok=code == 0, exit_code=code)
        piece = m.OutputPiece(attempt=offer.attempt, stream="stdout", offset=0, data=printed)
        return {"finished": [ended], "output": [piece]}

    async def live_with(self, attempt, scope):
        """Says that `attempt` runs; cancels `scope` when the daemon wants it stopped."""
        while True:
            answer = await self.sync(running=[attempt])
            if any(order.kind == "stop" for order in answer.orders):
                scope.cancel()
            await trio.sleep(ALIVE_S)


async def main(url, id):
    async with open_client(url) as client:
        await LabBot(client, id).serve()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
