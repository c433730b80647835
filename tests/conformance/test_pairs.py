"""Every bot protocol with every client protocol, every story, in calm weather and in a storm of restarts."""

from __future__ import annotations

import pytest

from swarmd.testing import Lab
from tests.conformance.adapters import BotAdapter, ClientAdapter
from tests.conformance.pairs import BOTS, CLIENTS, Story, World
from tests.conformance.stories import STORIES


@pytest.mark.parametrize("weather", ["calm", "storm"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: f"{client.protocol}-client")
@pytest.mark.parametrize(
    "bot", [pytest.param(b, id=f"{b.protocol}-bot", marks=pytest.mark.swarmd(config=b.config)) for b in BOTS]
)
async def test_story(
    swarmd: Lab, bot: type[BotAdapter], client: type[ClientAdapter], story: Story, weather: str
):
    if reason := story.why_not(bot, client):
        pytest.skip(reason)
    if weather == "storm" and story.only_calm:
        pytest.skip(story.only_calm)
    await story.tell(World(swarmd, bot, client, storms=weather == "storm"))
    swarmd.daemon.engine.check()
    await swarmd.check_file()


def test_the_native_pair_tells_every_story():
    native = (
        next(b for b in BOTS if b.protocol == "native"),
        next(c for c in CLIENTS if c.protocol == "native"),
    )
    assert [story.name for story in STORIES if story.why_not(*native)] == []


def test_what_an_adapter_cannot_do_is_said_in_a_sentence_and_asked_for_by_a_story():
    needed = {need for story in STORIES for need in story.needs}
    for adapter in (*BOTS, *CLIENTS):
        for what, why in adapter.cannot.items():
            assert what in needed and len(why) > 20, f"{adapter.__name__}: {what}"


def test_names_are_unique():
    for things in ([s.name for s in STORIES], [b.protocol for b in BOTS], [c.protocol for c in CLIENTS]):
        assert len(set(things)) == len(things)
