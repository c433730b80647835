"""Every reason why a task waits, word by word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmd.core import explain
from swarmd.core.ids import to_text
from swarmd.core.model import OpId, Share, Work

from .builders import FAILED, World, spec

Story = Callable[[World], OpId]


def blocked(world: World) -> OpId:
    return world.submit(after=[world.submit()])


def blocked_by_many(world: World) -> OpId:
    return world.submit(after=[world.submit() for _ in range(5)])


def doomed(world: World) -> OpId:
    graph = world.graph(is_open=True)
    first, second = world.submit_all([spec(), spec(after=[0])], graph)
    world.cancel(first.id)
    return second.id


def lookup(world: World) -> OpId:
    return world.submit(sameness="k", share=Share.FINISHED)


def stopping(world: World) -> OpId:
    op = world.submit(grace_s=10.0)
    world.bot().take()
    world.cancel(op)
    world.pass_time(20.0)
    return op


def running(world: World) -> OpId:
    op = world.submit()
    world.bot().take()
    world.pass_time(12.0)
    return op


def queued_in_bot(world: World) -> OpId:
    op = world.submit()
    bot = world.bot()
    bot.holds(queued=bot.poll())
    return op


def offered(world: World) -> OpId:
    op = world.submit()
    world.bot().poll()
    return op


def retry_wait(world: World) -> OpId:
    op = world.submit(retries=1, retry_wait_s=60.0)
    bot = world.bot()
    bot.finish(bot.take(), FAILED)
    world.pass_time(15.0)
    return op


def one_busy(world: World) -> OpId:
    world.submit()
    op = world.submit()
    world.bot().take()
    return op


def two_busy(world: World) -> OpId:
    first, _, op = (world.submit() for _ in range(3))
    world.bot("a"), world.bot("b").take()
    assert first
    return op


def away(world: World) -> OpId:
    world.bot().close()
    return world.submit()


def away_for_long(world: World) -> OpId:
    world.bot().close()
    world.pass_time(100.0)
    return world.submit()


def quarantined(world: World) -> OpId:
    world.bot().change(quarantine="bad disk")
    return world.submit()


def maintained(world: World) -> OpId:
    world.bot().change(maintenance="new fan")
    return world.submit()


def draining(world: World) -> OpId:
    for name in "ab":
        world.bot(name).change(drain=True)
    return world.submit()


def restarting(world: World) -> OpId:
    world.bot().change(order="restart")
    return world.submit()


def no_bots(world: World) -> OpId:
    return world.submit()


def no_pool(world: World) -> OpId:
    world.bot(pool="lab")
    return world.submit()


def lacks_a_dimension(world: World) -> OpId:
    world.bot("a", os="mac")
    world.bot("b", os="linux", gpu="a10")
    return world.submit(gpu="h200", os="linux|mac")


def lacks_a_key(world: World) -> OpId:
    world.bot("a")
    return world.submit(gpu="h200")


def lacks_a_feature(world: World) -> OpId:
    world.bot("a", protocol="swarming", features=())
    return world.submit()


def another_id(world: World) -> OpId:
    world.bot("a")
    return world.submit(dimensions={"id": ["b"]}, pool="", work=Work())


GOLDEN: list[tuple[Story, str, str]] = [
    (blocked, "blocked", "it waits for {first} (PENDING)"),
    (blocked_by_many, "blocked", "it waits for {first} (PENDING), {second} (PENDING), {third} (PENDING) and 2 more"),
    (doomed, "doomed", "something it depends on did not end as required; it is skipped when its graph is closed, "
     "unless its dependencies are changed before"),
    (lookup, "lookup", "everything it depends on is done; a finished task that is the same is being looked for"),
    (stopping, "stopping", "it is being stopped on bot b (canceled); it ends in 70 s even if the bot says nothing"),
    (running, "running", "it has been running on bot b (attempt 1) for 12 s"),
    (queued_in_bot, "queued_in_bot", "bot b has taken it and will start it as soon as one of its slots is free"),
    (offered, "offered", "it was offered to bot b, which has not said yet that it started it"),
    (retry_wait, "retry_wait", "its last attempt did not end ok; the next one may begin in 45 s"),
    (one_busy, "bots_busy",
     "1 bot can run it and is busy or about to take it; it is next"),
    (two_busy, "bots_busy",
     "2 bots can run it and are busy or about to take it; 1 task with the same requirements comes first"),
    (away, "bots_away", "bot b could run it but is not connected; start it again"),
    (away_for_long, "bots_away", "bot b could run it but is not connected; start it again"),
    (quarantined, "bots_refuse", "bot b could run it but is quarantined (bad disk): swarmd quarantine b --undo"),
    (maintained, "bots_refuse",
     "bot b could run it but is under maintenance (new fan): it takes work again when that ends"),
    (draining, "bots_refuse",
     "bot a could run it but is draining, and none of 2 such bots takes work: swarmd drain a --undo"),
    (restarting, "bots_refuse", "bot b could run it but is about to restart: wait until it is back"),
    (no_bots, "no_bots", "no bot has ever connected: start one with swarmd bot"),
    (no_pool, "no_pool", "no bot is in pool default; there are bots in lab"),
    (lacks_a_dimension, "no_bot_matches",
     "no bot in pool default has gpu=h200, os=linux|mac; nearest: a lacks gpu=h200"),
    (lacks_a_key, "no_bot_matches", "no bot in pool default has gpu=h200; nearest: a lacks gpu=h200"),
    (lacks_a_feature, "no_bot_matches", "no bot in pool default can run it; "
     "nearest: a lacks the feature noop (its protocol, swarming, cannot express it)"),
    (another_id, "no_bot_matches", "no bot has id=b; nearest: a lacks id=b (it has id=a)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("story", "reason", "sentence"), GOLDEN, ids=[story.__name__ for story, _, _ in GOLDEN]
)
def test_each_reason_has_its_sentence(story: Story, reason: str, sentence: str) -> None:
    world = World()
    op = story(world)
    alive = [to_text(id) for id in sorted(world.engine.tasks)]
    names = dict(zip(("first", "second", "third"), alive, strict=False))
    version = world.engine.version
    assert world.explain(op) == (reason, sentence.format(**names))
    assert world.engine.version == version, "explaining changes nothing"


def test_the_table_has_every_reason_that_there_is() -> None:
    text = Path(explain.__file__).read_text()
    codes = set(re.findall(r'return \(?\s*"([a-z_]+)",', text)) | set(
        re.findall(r'reason = "([a-z_]+)"', text)
    )
    codes |= set(re.findall(r'reason, sentence = \(?\s*"([a-z_]+)",', text))
    assert codes == {reason for _, reason, _ in GOLDEN}


def test_what_is_final_is_not_explained() -> None:
    world = World()
    op = world.submit()
    world.cancel(op)
    assert world.engine.explain(world.now, op) is None
    assert world.engine.explain(world.now, OpId(1)) is None


def test_the_sentence_of_a_task_that_found_no_bot_names_what_it_lacked() -> None:
    world = World()
    world.bot("a", os="mac")
    world.pass_time(61.0)
    op = world.submit(os="linux", wait_for_capacity=False)
    world.act()
    assert (
        world.reason(op) == "no bot in pool default has os=linux; nearest: a lacks os=linux (it has os=mac)"
    )
