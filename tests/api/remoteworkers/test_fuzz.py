"""Whatever a bot says, it is answered with a session or a status, and another bot must never notice."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from google.protobuf import any_pb2

from swarmd.api.remoteworkers.payloads import ACTION_RESULT, COMMAND_RESULT
from swarmd.api.remoteworkers.proto import bots_pb2
from swarmd.api.rpc import Code, RpcError
from swarmd.testing import Lab, RemoteBot

from .worlds import came

ROUNDS = 400
NAMES = ("", "lab", "nope", "lab/east", "lab/", "/", "x" * 5_000, "\x00", "lab/\U0001f9ea")
MEANT = {Code.INVALID_ARGUMENT, Code.INTERNAL, Code.DATA_LOSS, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED}
CONFIG = {"instances": {"": {}, "lab": {}, "lab/east": {"leases": "pending"}}, "keep_alive_s": 100}


class Madness:
    """Messages by chance: some nearly right, some not at all."""

    def __init__(self, seed: int, bot: RemoteBot) -> None:
        self.random = random.Random(seed)
        self.bot = bot

    def call(self) -> tuple[str, Any]:
        pick = self.random.choice
        method = pick(
            (
                "CreateBotSession",
                "UpdateBotSession",
                "UpdateBotSession",
                "UpdateBotSession",
                "PostBotEventTemp",
            )
        )
        session = self.session()
        if method == "CreateBotSession":
            return method, bots_pb2.CreateBotSessionRequest(
                parent=pick((*NAMES, "lab", "lab")), bot_session=session
            )
        if method == "UpdateBotSession":
            name = session.name if self.random.random() < 0.9 else pick(NAMES)
            return method, bots_pb2.UpdateBotSessionRequest(name=name, bot_session=session)
        return method, bots_pb2.PostBotEventTempRequest(name=pick(NAMES), type=self.random.randrange(4))

    def session(self) -> bots_pb2.BotSession:
        pick, chance = self.random.choice, self.random.random
        session = bots_pb2.BotSession()
        session.CopyFrom(self.bot.session)
        if chance() < 0.2:
            session.bot_id = pick(("", "w1", "w2", " ", "x" * 300, "a/b"))
        if chance() < 0.1:
            session.name = pick(NAMES)
        if chance() < 0.3:
            session.version = pick(("", "0", "-1", "9" * 50, "1.5", "9" * 5_000, "٣"))
        session.status = self.random.randrange(-2, 9)
        if chance() < 0.2:
            session.worker.configs.add(key="capacity", value=pick(("", "0", "7", "-7", "1e3", "9" * 20)))
        for lease in session.leases:
            if chance() < 0.5:
                self.lease(lease)
        for _ in range(self.random.randrange(3)):
            self.lease(session.leases.add(id=pick(("", "x", "0" * 13, "z" * 13, "\u00e9" * 13))))
        return session

    def lease(self, lease: bots_pb2.Lease) -> None:
        lease.state = self.random.randrange(-1, 7)  # type: ignore[assignment]
        lease.status.code = self.random.randrange(-1, 18)
        kind = self.random.choice(("", ACTION_RESULT, COMMAND_RESULT, "x.Y", "no type"))
        lease.result.CopyFrom(
            any_pb2.Any(type_url=kind, value=self.random.randbytes(self.random.randrange(20)))
        )


@pytest.mark.swarmd(config={"remoteworkers": CONFIG})
async def test_no_message_ends_the_daemon_or_touches_another_bot(swarmd: Lab):
    seed = int(os.environ.get("SWARMD_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SWARMD_FUZZ_SEED={seed}")
    good_id = await swarmd.submit("good", dimensions={"id": "good"}, bot_retries=0)
    good = await came(swarmd, "good")
    await good.update()
    mad = Madness(seed, await came(swarmd, "mad", capacity=4))
    codes = set()
    for number in range(ROUNDS):
        if number % 10 == 0:
            await swarmd.submit("make", bot_retries=9, expiration_s=1_000)
        method, request = mad.call()
        try:
            answer = await mad.bot.call(method, request, deadline_s=1)
        except RpcError as error:
            codes.add(error.code)
        else:
            if method != "PostBotEventTemp":
                assert answer.name and answer.bot_id == request.bot_session.bot_id
                if answer.bot_id == "mad":
                    mad.bot.session.CopyFrom(answer)
        if number % 20 == 0:
            await good.update()
            swarmd.daemon.engine.check()
            await swarmd.sleep(1)
    assert codes <= MEANT and len(codes) > 3, codes
    await swarmd.check_attempts(good_id, "RUNNING")
    good.complete(good.leases[0].id)
    await good.update()
    assert (await swarmd.check_state(good_id, "COMPLETED")).ok
    await swarmd.check_file()
