"""How a Swarming bot comes, waits and goes. Protocol reference, sections 4, 6, 7, 12 and 16.6 to 16.8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmd.client import ApiError, BotOrderRequest
from swarmd.config_swarming import BotGroup
from swarmd.testing import Lab, SwarmingBot
from tests.api.swarming.worlds import dimensions_of, events_of, kinds_of, polling, reconfigure

DEATH_S = 300.0  # a bot that is silent for so long is dead
SLEEPS = {"quarantined": (30, 60), "maintenance": (10, 20), "draining": (5, 10)}

held = pytest.mark.swarmd(config={"swarming": {"poll_hold_s": 40}})


# ------------------------------------------------------------------ handshake


async def test_what_a_handshake_tells(swarmd: Lab):
    bot = swarmd.swarming_bot("s1", dimensions={"pool": ["mine"], "os": ["Linux"]})
    told = await bot.handshake()
    assert told["bot_group_cfg"] == {"dimensions": {"pool": ["default"]}}
    assert told["bot_version"] == bot.version, "the daemon serves no code: any is right"
    assert told["bot_config_name"] and told["bot_config_rev"] and told["server_version"]
    compile(told["bot_config"], "bot_config.py", "exec")
    assert "--cipd-enabled" in told["bot_config"]
    assert await dimensions_of(swarmd) == {"id": ["s1"], "pool": ["default"]}, "hooks have not run yet"
    await bot.poll()
    assert await dimensions_of(swarmd) == {
        "id": ["s1"], "pool": ["default"], "os": ["Linux"], "bot_config": [told["bot_config_name"]],
    }  # fmt: skip


async def test_a_handshake_made_again_is_the_same_session(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    id = await swarmd.submit("make")
    task = await bot.take()
    assert task is not None
    await task.start()
    await bot.handshake()
    await swarmd.check_state(id, "RUNNING")
    assert (await kinds_of(swarmd)).count("bot.connected") == 1
    await task.end(0)
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.parametrize(
    "wrong", [{"dimensions": {"id": ["s1"], "os": []}}, {"dimensions": {"id": ["s1"], "os": "Linux"}}, {"state": [1]}],
    ids=["no values", "no list", "state"],
)  # fmt: skip
async def test_a_handshake_with_faults_is_taken_and_the_bot_is_in_quarantine(
    swarmd: Lab, wrong: dict[str, Any]
):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake(**wrong)
    info = await swarmd.client.bot("s1")
    assert info.status == "quarantined" and info.quarantined
    await bot.poll()
    assert (await swarmd.client.bot("s1")).status == "idle", "its poll says all of it anew"


async def test_the_dimensions_of_a_group_replace_the_bots_own(swarmd: Lab):
    group = BotGroup(bots=["s*"], dimensions={"pool": ["lab"], "zone": ["bench"]})
    await reconfigure(swarmd, groups=[group])
    bot = swarmd.swarming_bot("s1", dimensions={"zone": ["cellar"], "os": ["Linux"]})
    await bot.handshake()
    await bot.poll(dimensions={"id": ["s1"], "zone": ["cellar"], "os": ["Linux"]})
    info = await swarmd.client.bot("s1")
    assert (info.dimensions["zone"], info.dimensions["pool"]) == (["bench"], ["lab"])
    other = swarmd.swarming_bot("t1", dimensions={"pool": ["lab"]})
    await other.handshake()
    await other.poll()
    assert (await swarmd.client.bot("t1")).dimensions["pool"] == ["default"], (
        "the pool is the daemon's to give"
    )


@pytest.mark.parametrize(
    ("id", "zone"),
    [
        ("s1", "exact"),
        ("s1--left", "exact"),
        ("s2", "prefix"),
        ("s2--s1", "prefix"),
        ("t1", "rest"),
        ("t--s1", "rest"),
    ],
)
async def test_the_group_of_a_bot_is_that_of_its_host(swarmd: Lab, id: str, zone: str):
    groups = {"exact": ["s1"], "prefix": ["s*"], "rest": []}
    await reconfigure(
        swarmd, groups=[BotGroup(bots=bots, dimensions={"zone": [name]}) for name, bots in groups.items()]
    )
    told = await swarmd.swarming_bot(id).handshake()
    assert told["bot_group_cfg"]["dimensions"] == {"zone": [zone], "pool": ["default"]}


async def test_a_bot_of_a_group_with_a_token_must_show_it(swarmd: Lab, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("a secret of bots 1"[2:].replace(" ", "-"))
    secret.chmod(0o600)
    await reconfigure(swarmd, groups=[BotGroup(bots=["s1"], token_file=str(secret)), BotGroup()])
    with pytest.raises(ApiError) as refused:
        await SwarmingBot(swarmd.url, "s1").handshake()
    assert (refused.value.status, refused.value.code) == (401, "token_needed")
    bot = SwarmingBot(swarmd.url, "s1", token=secret.read_text())
    await bot.handshake()
    await bot.poll()
    bare = SwarmingBot(swarmd.url, "s1")
    bare.session = bot.session
    with pytest.raises(ApiError) as refused:  # a token that was stolen is of no use without the secret
        await bare.poll()
    assert refused.value.status == 401


# ------------------------------------------------------------------ poll


@pytest.mark.swarmd(config={"swarming": {"poll_s": 2, "poll_max_s": 10}})
async def test_the_pause_of_an_idle_bot_grows_up_to_a_limit(swarmd: Lab):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    pauses = [(await bot.poll())["duration"] for _ in range(7)]
    assert pauses == pytest.approx([2, 3, 4.5, 6.75, 10, 10, 10])
    await swarmd.submit("make")
    task = await bot.take()
    assert task is not None
    await task.end(0)
    assert (await bot.poll())["duration"] == 2


@pytest.mark.parametrize("streak", [None, -3, 10**30, "many", [], True, 2.5])
async def test_a_streak_that_is_none_is_no_reason_to_fail(swarmd: Lab, streak: Any):
    bot = swarmd.swarming_bot("s1")
    await bot.handshake()
    assert 0 < (await bot.poll(state={"sleep_streak": streak}))["duration"] <= 1


@pytest.mark.swarmd(config={"swarming": {"session_s": 60}})
async def test_an_expired_token_restarts_the_bot_and_the_session_goes_on(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.sleep(61)
    answer = await bot.poll()
    assert answer["cmd"] == "bot_restart" and "expired" in answer["message"]
    for call in (bot.event("bot_shutdown"), bot.event("bot_log")):
        with pytest.raises(ApiError) as refused:
            await call
        assert (refused.value.status, refused.value.code) == (401, "bad_session")
    await bot.handshake()
    assert (await bot.poll())["cmd"] == "sleep"
    assert (await kinds_of(swarmd)).count("bot.connected") == 1


@pytest.mark.swarmd(config={"swarming": {"session_s": 60}})
async def test_each_answer_brings_a_token_and_older_ones_stay_good(swarmd: Lab):
    bot = await polling(swarmd)
    for _ in range(4):
        await swarmd.sleep(50)
        older = bot.session
        assert (await bot.poll())["cmd"] == "sleep"
        assert bot.session != older
    assert (await bot.poll(session=older))["cmd"] == "sleep"


@pytest.mark.parametrize("token", [None, "", "none", "x" * 5_000, 7, {}, "AAAA", "\u00e9"], ids=repr)
async def test_a_poll_without_a_good_token_restarts_the_bot(swarmd: Lab, token: Any):
    bot = await polling(swarmd)
    answer = await bot.poll(session=token)
    assert answer["cmd"] == "bot_restart" and "session" not in answer


async def test_a_token_of_another_bot_or_another_daemon_is_none(swarmd: Lab):
    bot, other = await polling(swarmd), await polling(swarmd, "s2")
    assert (await bot.poll(session=other.session))["cmd"] == "bot_restart"
    forged = bot.session[:-4] + ("AAAA" if bot.session[-4:] != "AAAA" else "BBBB")
    assert (await bot.poll(session=forged))["cmd"] == "bot_restart"


async def test_a_token_outlives_the_daemon(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.crash()
    await swarmd.start()
    assert (await bot.poll())["cmd"] == "sleep"
    assert (await kinds_of(swarmd)).count("bot.connected") == 1


async def test_what_the_configuration_says_anew_restarts_the_bot(swarmd: Lab, tmp_path: Path):
    bot = await polling(swarmd)
    await reconfigure(swarmd, poll_s=2.0)
    assert (await bot.poll())["cmd"] == "sleep", "nothing of it is told in a handshake"
    await reconfigure(swarmd, groups=[BotGroup(dimensions={"zone": ["bench"]})])
    await swarmd.submit("make", dimensions={"zone": "bench"})
    answer = await bot.poll()
    assert answer["cmd"] == "bot_restart" and "configuration" in answer["message"]
    await bot.event("bot_shutdown", "About to restart")
    await bot.restart()
    assert (await bot.poll())["cmd"] == "run"
    hooks = tmp_path / "hooks.py"
    hooks.write_text("def on_bot_startup(bot): pass\n")
    await reconfigure(swarmd, groups=[BotGroup(dimensions={"zone": ["bench"]}, hooks=str(hooks))])
    assert (await bot.poll())["cmd"] == "bot_restart"
    assert "on_bot_startup" in (await bot.restart())["bot_config"]


async def test_a_new_mode_needs_no_restart(swarmd: Lab):
    bot = await polling(swarmd)
    await reconfigure(swarmd, pools={"default": msgspec.convert({"mode": "rbe"}, type_of_rules())})
    assert (await bot.poll())["cmd"] == "rbe"


def type_of_rules() -> Any:
    from swarmd.config_swarming import PoolRules

    return PoolRules


async def test_a_bot_tells_anew_what_it_is(swarmd: Lab):
    bot = await polling(swarmd, dimensions={"os": ["Linux"]})
    id = await swarmd.submit("make", dimensions={"gpu": "h200"})
    assert (await bot.poll())["cmd"] == "sleep"
    bot.dimensions["gpu"] = ["h200"]
    bot.state["temperature"] = 7
    assert (await bot.poll())["cmd"] == "run"
    info = await swarmd.client.bot("s1")
    assert info.dimensions["gpu"] == ["h200"] and info.state["temperature"] == 7
    await swarmd.check_attempts(id, "OFFERED")
    bot.state["temperature"] = 8
    await bot.poll()
    assert (await swarmd.client.bot("s1")).state["temperature"] == 8, "also when nothing else has changed"


# ------------------------------------------------------------------ code


@pytest.fixture
def code(tmp_path: Path) -> str:
    """A folder with something that could be a bot."""
    folder = tmp_path / "bot"
    (folder / "config").mkdir(parents=True)
    (folder / "__main__.py").write_text("print('I am a bot')\n")
    return str(folder)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"session": None},
        {"session": "nonsense"},
        {"request_uuid": "*"},
        {"state": 7},
        {"dimensions": None},
    ],
    ids=str,
)
async def test_an_update_comes_before_everything_else(swarmd: Lab, code: str, broken: dict[str, Any]):
    """So that a broken bot heals."""
    bot = await polling(swarmd)
    await reconfigure(swarmd, bot_code=code)
    if "dimensions" in broken:
        broken = {"dimensions": {"id": ["s1"], "os": 7}}
    answer = await bot.poll(**broken)
    assert answer["cmd"] == "update" and answer["version"] != bot.version
    bot.version = answer["version"]
    assert (await bot.restart())["bot_version"] == bot.version
    assert (await bot.poll())["cmd"] == "sleep"


async def test_who_is_to_be_asked_is_named_with_the_reason(swarmd: Lab):
    await reconfigure(swarmd, groups=[BotGroup(owners=["ann@lab", "bob@lab"])])
    bot = swarmd.swarming_bot("s1")
    bot.state["quarantined"] = "the disk is full"
    await bot.handshake()
    await bot.poll()
    assert (await swarmd.client.bot("s1")).quarantined == "the disk is full (ask ann@lab, bob@lab)"
    id = await swarmd.submit("x")
    assert "(ask ann@lab, bob@lab)" in (await swarmd.client.explain(id)).sentence
    bot.state = {"maintenance": "swap"}
    await bot.poll()
    assert (await swarmd.client.bot("s1")).maintenance == "swap (ask ann@lab, bob@lab)"


async def test_a_bot_that_could_not_take_the_code_is_not_told_again_and_again(swarmd: Lab, code: str):
    bot = await polling(swarmd)
    await reconfigure(swarmd, bot_code=code)
    assert (await bot.poll())["cmd"] == "update"
    assert (await bot.poll())["cmd"] == "update", "nothing says that it failed: the answer may have been lost"
    bot.state["quarantined"] = "Failed to self-update the bot"
    assert (await bot.poll())["cmd"] == "sleep"
    for wait_s in (15, 30, 60, 120, 240, 300, 300):
        await swarmd.sleep(wait_s - 1)
        assert (await bot.poll())["cmd"] == "sleep"
        await swarmd.sleep(1)
        assert (await bot.poll())["cmd"] == "update"


async def test_a_bot_that_could_not_take_the_code_heals_when_that_is_taken_back(swarmd: Lab, code: str):
    """It runs what is wanted then, so no update would end its quarantine: only a new process does."""
    bot = await polling(swarmd)
    await reconfigure(swarmd, bot_code=code)
    bot.state["quarantined"] = "Failed to self-update the bot"
    wanted = (await bot.poll())["version"]
    bot.version = wanted
    assert (await bot.poll())["cmd"] == "sleep", "it was told to take just that a moment ago"
    await swarmd.sleep(15)
    assert (await bot.poll())["cmd"] == "bot_restart"
    assert (await bot.poll())["cmd"] == "sleep", "not again and again"


# ------------------------------------------------------------------ quarantine, maintenance, drain


@pytest.mark.parametrize(
    ("says", "status", "reason"),
    [
        ({"state": {"quarantined": "the disk is full"}}, "quarantined", "the disk is full"),
        ({"state": {"quarantined": True}}, "quarantined", "it says that it is in quarantine"),
        ({"state": {"quarantined": 1}}, "quarantined", "it says that it is in quarantine"),
        ({"state": {"quarantined": ["x"]}}, "quarantined", "it says that it is in quarantine"),
        ({"dimensions": {"quarantined": ["1"]}}, "quarantined", "its dimensions say that it is in quarantine"),
        ({"dimensions": {"quarantined": ["TRUE"]}}, "quarantined", "its dimensions say that it is in quarantine"),
        ({"dimensions": {"quarantined": ["no network"]}}, "quarantined", "no network"),
        ({"dimensions": {"os": []}}, "quarantined", "dimension 'os' has no values"),
        ({"dimensions": {"os": "Linux"}}, "quarantined", "dimension 'os' is no list of texts"),
        ({"dimensions": {"os": [7]}}, "quarantined", "dimension 'os' is no list of texts"),
        ({"dimensions": {"os": ["a", "a"]}}, "quarantined", "each once"),
        ({"dimensions": {"0s": ["a"]}}, "quarantined", "cannot be the name of a dimension"),
        ({"dimensions": {"os": ["a|b"]}}, "quarantined", "'|' is for tasks"),
        ({"dimensions": {"feature": ["noop"]}}, "quarantined", "set by the daemon"),
        ({"dimensions": {f"d{n}": ["x"] for n in range(300)}}, "quarantined", "at most 256"),
        ({"state": "fine"}, "quarantined", "state is no object"),
        ({"state": {"maintenance": "a new fan"}}, "maintenance", "a new fan"),
        ({"state": {"maintenance": True}}, "maintenance", "under maintenance"),
        ({"state": {"quarantined": "", "maintenance": ""}}, "idle", None),
        ({"state": {"quarantined": False, "maintenance": None}}, "idle", None),
        ({"state": None}, "idle", None),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_a_sick_bot_gets_no_work_and_keeps_what_it_was(
    swarmd: Lab, says: dict[str, Any], status: str, reason: str | None
):
    bot = await polling(swarmd, dimensions={"os": ["Linux"]})
    id = await swarmd.submit("make", dimensions={"os": "Linux"})
    changes = {**says}
    if "dimensions" in says:
        changes["dimensions"] = {"id": ["s1"], **says["dimensions"]}
    answer = await bot.poll(**changes)
    info = await swarmd.client.bot("s1")
    assert info.status == (status if status != "idle" else "busy")
    if reason is None:
        assert answer["cmd"] == "run"
        return
    assert reason in (info.quarantined or info.maintenance or "")
    if "os" in says.get("dimensions", {}):
        assert info.dimensions["os"] == ["Linux"], "what cannot be is not kept"
    low, high = SLEEPS[status]
    assert answer["cmd"] == "sleep" and low <= answer["duration"] <= high
    await swarmd.check_state(id, "PENDING")
    if "os" in (await swarmd.client.bot("s1")).dimensions:
        assert (await swarmd.client.explain(id)).reason == "bots_refuse"
    assert (await bot.poll())["cmd"] == "run", "it says that it is well again"
    assert (await swarmd.client.bot("s1")).quarantined is None


@pytest.mark.parametrize("value", [5, None, "x", [5], [None], [["x"]], {"a": 1}, True], ids=repr)
@pytest.mark.parametrize("route", ["poll", "handshake"])
async def test_a_dimension_quarantined_of_a_wrong_type_is_no_reason_to_fail(
    swarmd: Lab, route: str, value: Any
):
    bot = await polling(swarmd)
    wrong = {"id": ["s1"], "quarantined": value}
    await (bot.poll(dimensions=wrong) if route == "poll" else bot.handshake(dimensions=wrong))
    assert (await swarmd.client.bot("s1")).status == "quarantined"
    assert (await bot.poll())["cmd"] == "sleep"


async def test_faults_are_told_once_in_the_history(swarmd: Lab):
    bot = await polling(swarmd)
    for _ in range(3):
        await bot.poll(state={"quarantined": "smoke"})
    for _ in range(3):
        await bot.poll(dimensions={"id": ["s1"], "os": []}, state={})
    assert (await kinds_of(swarmd)).count("bot.changed") == 2


async def test_what_a_person_ordered_stays_whatever_the_bot_says(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(quarantine="it smells"))
    id = await swarmd.submit("make")
    answer = await bot.poll()
    assert answer["cmd"] == "sleep" and answer["duration"] >= 30
    await bot.poll(state={"quarantined": "its own reason"})
    await bot.poll()
    assert (await swarmd.client.bot("s1")).quarantined == "it smells"
    await swarmd.client.order_bot("s1", BotOrderRequest(quarantine=None))
    assert (await bot.poll())["cmd"] == "run"
    await swarmd.check_attempts(id, "OFFERED")


async def test_a_drained_bot_is_told_to_sleep(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(drain=True))
    id = await swarmd.submit("make")
    answer = await bot.poll()
    assert answer["cmd"] == "sleep" and 5 <= answer["duration"] <= 10
    await swarmd.check_state(id, "PENDING")


# ------------------------------------------------------------------ orders


@pytest.mark.parametrize("order", ["restart", "update"])
async def test_a_bot_is_told_to_restart_until_it_has(swarmd: Lab, order: Any):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order=order))
    await swarmd.submit("make")
    for _ in range(2):
        answer = await bot.poll()
        assert (answer["cmd"], answer["message"]) == ("bot_restart", f"told to {order}")
    await bot.event("bot_shutdown", "About to restart")
    assert (await swarmd.client.bot("s1")).status == "dead"
    await bot.restart()
    assert (await swarmd.client.bot("s1")).order is None
    assert (await bot.poll())["cmd"] == "run"


async def test_an_order_waits_for_the_end_of_the_task(swarmd: Lab):
    bot = await polling(swarmd)
    id = await swarmd.submit("make")
    task = await bot.take()
    assert task is not None
    await task.start()
    await swarmd.client.order_bot("s1", BotOrderRequest(order="restart"))
    assert not (await task.update())["must_stop"]
    await task.end(0)
    await swarmd.check_state(id, "COMPLETED")
    assert (await bot.poll())["cmd"] == "bot_restart"


async def test_a_bot_is_told_to_end_itself(swarmd: Lab):
    bot = await polling(swarmd)
    await swarmd.client.order_bot("s1", BotOrderRequest(order="terminate"))
    answer = await bot.poll()
    assert answer["cmd"] == "terminate" and answer["task_id"][-1] == "1"
    assert (await bot.repeat())["task_id"] == answer["task_id"]
    assert not (await bot.confirm_end(answer["task_id"]))["must_stop"]
    await bot.event("bot_shutdown", "Signal was received")
    info = await swarmd.client.bot("s1")
    assert (info.status, info.order) == ("dead", None)
    await bot.restart()
    assert (await bot.poll())["cmd"] == "sleep"


# ------------------------------------------------------------------ events


async def test_what_a_bot_tells_stands_in_its_history(swarmd: Lab):
    bot = await polling(swarmd)
    for kind in ("bot_error", "bot_log"):
        await bot.event(kind, f"text of {kind}")
    told = await events_of(swarmd)
    assert told[-2:] == [
        ("bot.error", {"message": "text of bot_error"}),
        ("bot.log", {"message": "text of bot_log"}),
    ]
    assert (await swarmd.client.bot("s1")).status == "idle"


@pytest.mark.parametrize("goodbye", ["bot_shutdown", "bot_rebooting"])
async def test_a_goodbye_ends_the_session_and_gives_the_task_back(swarmd: Lab, goodbye: str):
    bot = await polling(swarmd)
    id = await swarmd.submit("make", bot_retries=1)
    task = await bot.take()
    assert task is not None
    await task.start()
    await bot.event(goodbye, "Signal was received")
    assert (await swarmd.client.bot("s1")).status == "dead"
    await swarmd.check_state(id, "PENDING")
    await swarmd.check_attempts(id, "LOST")
    assert (await task.update())["must_stop"]


async def test_the_goodbye_of_an_old_process_does_not_end_the_new_one(swarmd: Lab):
    bot = await polling(swarmd)
    old = SwarmingBot(swarmd.url, "s1")
    old.session = bot.session
    await bot.restart()
    await bot.poll()
    await old.event("bot_shutdown", "late")
    assert (await swarmd.client.bot("s1")).status == "idle"


@pytest.mark.parametrize("kind", ["bot_connected", "task_completed", "", "x" * 1000])
async def test_a_bot_cannot_tell_what_is_not_its_own_to_tell(swarmd: Lab, kind: str):
    bot = await polling(swarmd)
    with pytest.raises(ApiError) as refused:
        await bot.event(kind)
    assert refused.value.status == 400
