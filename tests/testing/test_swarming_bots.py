"""The scripted Swarming bot keeps what a real one keeps, and is as strict with answers."""

from __future__ import annotations

import msgspec
import pytest

from swarmd.client import ApiError, StrangeAnswer, Unreachable
from swarmd.testing import Lab, SwarmingBot
from swarmd.testing.swarming_bots import Said, SwarmingTask


class Recorded(SwarmingBot):
    """Answers come from a list; what was sent is kept."""

    def __init__(self, *answers: tuple[int, bytes] | Exception) -> None:
        super().__init__("http://127.0.0.1:1", "s1", dimensions={"os": ["Linux"], "pool": ["mine"]})
        self.answers = list(answers)
        self.sent: list[Said] = []

    async def _post(self, call: Said) -> tuple[int, bytes]:
        self.sent.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def bodies(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(call.body) for call in self.sent]


def ok(**fields: object) -> tuple[int, bytes]:
    return 200, msgspec.json.encode(fields)


HELLO = ok(
    session="t1",
    bot_config_name="lab.py",
    bot_config_rev="7",
    bot_group_cfg={"dimensions": {"pool": ["lab"]}},
)
SLEEP = ok(cmd="sleep", duration=1, session="t2")
MANIFEST = {
    "task_id": "a11", "dimensions": {}, "hard_timeout": 1, "io_timeout": 0, "grace_period": 1, "bot_id": "s1",
    "bot_dimensions": {}, "command": ["x"],
}  # fmt: skip
RUN = ok(cmd="run", manifest=MANIFEST, session="t2")
UPDATED = ok(must_stop=False, ok=True, session="t3")


async def test_it_takes_over_what_a_handshake_tells():
    bot = Recorded(HELLO, SLEEP)
    await bot.handshake()
    await bot.poll()
    said = bot.bodies[1]
    assert said["dimensions"] == {"id": ["s1"], "os": ["Linux"], "pool": ["lab"], "bot_config": ["lab.py"]}
    assert said["state"] == {"sleep_streak": 0, "bot_config": {"name": "lab.py", "revision": "7"}}
    assert (said["session"], bot.session) == ("t1", "t2")


async def test_the_request_id_stays_until_a_poll_succeeds():
    bot = Recorded(HELLO, (500, b"{}"), Unreachable("x", "reset", True), SLEEP, SLEEP)
    await bot.handshake()
    with pytest.raises(ApiError):
        await bot.poll()
    with pytest.raises(Unreachable):
        await bot.poll()
    await bot.poll()
    await bot.poll()
    first, second, third, fourth = [said["request_uuid"] for said in bot.bodies[1:]]
    assert first == second == third != fourth


async def test_what_is_repeated_is_the_same_bytes():
    bot = Recorded(HELLO, HELLO, RUN, RUN, UPDATED, UPDATED, UPDATED)
    bot.loses_answers = True
    await bot.handshake()
    task = await bot.take()
    assert task is not None
    await task.write(b"once")
    bot.loses_answers = False
    await bot.repeat()
    assert (
        bot.sent[0] == bot.sent[1]
        and bot.sent[2] == bot.sent[3]
        and bot.sent[4] == bot.sent[5] == bot.sent[6]
    )
    assert bot.sent[0].body == msgspec.json.encode(bot.bodies[0], order="sorted")


async def test_offsets_and_tokens_of_a_task():
    bot = Recorded(HELLO, RUN, UPDATED, UPDATED, UPDATED, ok(must_stop=False, ok=True, session="t4"))
    await bot.handshake()
    task = await bot.take()
    assert task is not None
    await task.start()
    await task.write(b"four")
    await task.write(b"more")
    assert bot.session == "t2", "the process of the bot has its own until the task has ended"
    await task.end(0)
    assert bot.session == "t4"
    updates = bot.bodies[2:]
    assert [said.get("output_chunk_start") for said in updates] == [None, 0, 4, None]
    assert [said["session"] for said in updates] == ["t2", "t3", "t3", "t3"]
    costs = [float(str(said["cost_usd"])) for said in updates]
    assert costs == sorted(costs) and len(set(costs)) == 4


async def test_a_task_that_outlives_its_process_hands_nothing_back():
    bot = Recorded(HELLO, RUN, HELLO, UPDATED)
    await bot.handshake()
    task = await bot.take()
    assert task is not None
    before = bot.session_id
    await bot.restart()
    assert bot.session_id != before
    await task.end(0)
    assert bot.session == "t1"
    assert bot.bodies[3]["session"] == "t2"


@pytest.mark.parametrize(
    "answer",
    [ok(), ok(error="no"), (200, b"[]"), (200, b""), (404, b"page not found"), ok(cmd="sleep"), ok(cmd="run"),
     ok(duration=1)],
    ids=["empty", "error", "no object", "nothing", "text", "sleep without a duration", "run without a manifest",
         "no command"],
)  # fmt: skip
async def test_a_poll_fails_at_an_answer_that_a_real_bot_would_trip_over(answer: tuple[int, bytes]):
    with pytest.raises(StrangeAnswer):
        await Recorded(answer).poll()


async def test_an_event_must_be_answered_with_nothing():
    assert await Recorded(ok()).event("bot_log") == {}
    with pytest.raises(StrangeAnswer):
        await Recorded(ok(ok=True)).event("bot_log")


@pytest.mark.parametrize(
    "name", ["task_id", "dimensions", "hard_timeout", "io_timeout", "grace_period", "bot_id"]
)
def test_a_manifest_must_have_what_the_bot_needs(name: str):
    with pytest.raises(StrangeAnswer, match=name):
        SwarmingTask(Recorded(), {key: value for key, value in MANIFEST.items() if key != name})


async def test_it_says_why_it_was_refused(swarmd: Lab):
    bot = swarmd.swarming_bot()
    with pytest.raises(ApiError) as refused:
        await bot.handshake(session_id="CAPITALS")
    assert (refused.value.status, refused.value.code) == (400, "bad_field")
    await swarmd.stop()
    with pytest.raises(Unreachable):
        await bot.handshake()
    await swarmd.start()
