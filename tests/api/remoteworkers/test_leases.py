"""What a bot says of its leases, and what is made of it. Source: protocol reference, lease state machine."""

from __future__ import annotations

import pytest

from swarmd.testing import Lab
from swarmd.testing.remote_bots import ACTIVE, PENDING, command_of

from .worlds import CONFIG, KEEP_ALIVE_S, came, one, reconfigure, session_of, with_rules

pytestmark = pytest.mark.swarmd(config=CONFIG)
AS_PENDING = with_rules(leases="pending")


async def test_an_echo_is_a_heartbeat_and_changes_nothing(swarmd: Lab):
    bot, id, _ = await one(swarmd)
    before = session_of(bot)
    await swarmd.sleep(1)
    await bot.update()
    assert bot.session.expire_time.seconds - before.expire_time.seconds == 1
    before.expire_time.CopyFrom(bot.session.expire_time)
    assert bot.session == before
    await swarmd.check_state(id, "RUNNING")


async def test_a_bot_is_told_again_what_it_does_not_name_with_all_that_it_carries(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    payload = bot.leases[0].payload
    for version in ("1", "0", ""):
        bot.drop(lease)
        bot.session.version = version
        await bot.update()
        [again] = bot.leases
        assert (again.id, again.state, again.payload) == (lease, ACTIVE, payload)
    await swarmd.check_attempts(id, "RUNNING")


async def test_a_lease_that_was_never_its_own_is_not_told_any_more(swarmd: Lab):
    _, id, lease = await one(swarmd)
    other = await came(swarmd, "w2")
    for name, state in ((lease, ACTIVE), ("nobody's", ACTIVE), ("nobody's", 5), (lease, 0)):
        other.session.leases.add(id=name, state=state)
        await other.update()
        assert not other.leases
    await swarmd.check_attempts(id, "RUNNING")


async def test_the_end_of_a_lease_that_is_not_its_own_changes_nothing(swarmd: Lab):
    _, id, lease = await one(swarmd)
    other = await came(swarmd, "w2")
    for name in (lease, "nobody's", ""):
        other.session.leases.add(id=name, state=4)
        await other.update()
        assert not other.leases
    await swarmd.check_state(id, "RUNNING")
    assert other.session.version == "3", "each of them is a new revision, as with BuildGrid"


async def test_an_end_that_is_told_twice_counts_once(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    bot.complete(lease, 0)
    twice = session_of(bot)
    await bot.update()
    bot.session.CopyFrom(twice)
    bot.complete(lease, 7)
    await bot.update()
    task = await swarmd.check_state(id, "COMPLETED")
    assert task.ok and not bot.leases and bot.session.version == "3"


async def test_an_end_without_a_beginning_counts(swarmd: Lab):
    bot, id, lease = await one(swarmd, started=False)
    await swarmd.check_state(id, "PENDING")
    bot.complete(lease, 3)
    await bot.update()
    task = await swarmd.check_state(id, "COMPLETED")
    assert (task.ok, task.exit_code) == (False, 3)


async def test_the_same_lease_twice_in_one_call_counts_once(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    bot.complete(lease, 0)
    bot.session.leases.add().CopyFrom(bot.leases[0])
    bot.session.leases.add(id=lease, state=ACTIVE)
    await bot.update()
    assert (await swarmd.check_state(id, "COMPLETED")).ok


# ------------------------------------------------------------------ the revision


async def test_the_revision_grows_with_each_change_that_the_daemon_makes(swarmd: Lab):
    bot = await came(swarmd, capacity=3)
    assert bot.session.version == ""
    await bot.update()
    assert bot.session.version == "0"
    ids = await swarmd.submit_many(3, "make")
    await bot.update()
    assert bot.session.version == "3", "one for each lease"
    await bot.update()
    assert bot.session.version == "3"
    first, second, _ = (lease.id for lease in bot.leases)
    bot.complete(first)
    bot.complete(second)
    await bot.update()
    assert bot.session.version == "4", "one for all that have ended in this call"
    await swarmd.client.cancel([ids[2]], kill=True)
    await bot.update()
    assert bot.session.version == "5" and not bot.leases
    await bot.update()
    assert bot.session.version == "5"
    await swarmd.check_state(ids[2], "KILLED")


async def test_a_lease_in_the_first_answer_is_the_first_revision(swarmd: Lab):
    await swarmd.submit("make")
    bot = await came(swarmd)
    assert bot.session.version == "1"


# ------------------------------------------------------------------ canceled, and out of time


async def test_a_canceled_lease_is_not_told_any_more_and_ends_when_the_bot_has_let_it_go(swarmd: Lab):
    bot, id, _ = await one(swarmd)
    await swarmd.client.cancel([id], kill=True)
    await bot.update()
    assert not bot.leases
    await swarmd.check_state(id, "RUNNING")
    await bot.update()
    task = await swarmd.check_state(id, "KILLED")
    assert task.attempts[0].reason == "its bot let it go"


async def test_a_canceled_lease_whose_bot_goes_on_ends_after_the_grace(swarmd: Lab):
    bot, id, lease = await one(swarmd, grace_s=6)
    held = bot.leases[0]
    await swarmd.client.cancel([id], kill=True)
    for _ in range(3):
        bot.session.leases.add().CopyFrom(held)
        await bot.update()
        assert not bot.leases
        await swarmd.check_state(id, "RUNNING")
        await swarmd.sleep(2.01)
    await swarmd.check_state(id, "KILLED")
    bot.session.leases.add().CopyFrom(held)
    bot.complete(lease)
    await bot.update()
    await swarmd.check_state(id, "KILLED")


async def test_the_end_of_a_canceled_lease_is_kept(swarmd: Lab):
    bot, id, lease = await one(swarmd)
    await swarmd.client.cancel([id], kill=True)
    bot.complete(lease, code=1, message="stopped it")
    await bot.update()
    task = await swarmd.check_state(id, "KILLED")
    assert task.attempts[0].reason == "CANCELLED: stopped it"


async def test_a_lease_that_is_canceled_before_its_bot_named_it_is_simply_gone(swarmd: Lab):
    bot, id, _ = await one(swarmd, started=False)
    await swarmd.client.cancel([id])
    await swarmd.check_state(id, "CANCELED")
    await bot.update()
    assert not bot.leases


async def test_a_lease_above_its_hard_limit_is_taken_away(swarmd: Lab):
    bot, id, _ = await one(swarmd, hard_limit_s=10, grace_s=5)
    await swarmd.sleep(9.9)
    await bot.update()
    assert bot.leases
    await swarmd.sleep(0.2)
    await bot.update()
    assert not bot.leases
    await bot.update()
    await swarmd.check_state(id, "TIMED_OUT")


# ------------------------------------------------------------------ pending first


@pytest.mark.swarmd(config=AS_PENDING)
async def test_a_lease_is_pending_until_the_bot_says_that_it_is_active(swarmd: Lab):
    bot, id, lease = await one(swarmd, started=False)
    assert bot.lease(lease).state == PENDING
    await bot.update()
    assert bot.lease(lease).state == PENDING
    await swarmd.check_attempts(id, "OFFERED")
    bot.begin(lease)
    await bot.update()
    assert bot.lease(lease).state == ACTIVE
    await swarmd.check_attempts(id, "RUNNING")
    bot.complete(lease)
    await bot.update()
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.swarmd(config=AS_PENDING)
async def test_a_bot_may_go_from_pending_to_the_end(swarmd: Lab):
    bot, id, lease = await one(swarmd, started=False)
    bot.complete(lease)
    await bot.update()
    await swarmd.check_state(id, "COMPLETED")


@pytest.mark.swarmd(config=AS_PENDING)
async def test_a_bot_that_says_that_a_lease_is_pending_has_it_as_long_as_it_likes(swarmd: Lab):
    bot, id, _ = await one(swarmd)
    for _ in range(5):
        await swarmd.sleep(KEEP_ALIVE_S - 1)
        await bot.update()
    await swarmd.check_attempts(id, "OFFERED")


@pytest.mark.parametrize("as_pending", [False, True])
async def test_a_lease_that_its_bot_never_names_goes_back(swarmd: Lab, as_pending: bool):
    if as_pending:
        await reconfigure(swarmd, {"lab": {"leases": "pending"}})
    bot, id, lease = await one(swarmd, started=False)
    for _ in range(2):
        await swarmd.sleep(KEEP_ALIVE_S - 5)
        bot.drop(lease)
        await bot.update(status=6)
    await swarmd.check_attempts(id, "DROPPED")
    await swarmd.check_state(id, "PENDING")


# ------------------------------------------------------------------ how many, and which


@pytest.mark.parametrize(
    ("capacity", "holds"), [(None, 1), (0, 0), (-3, 0), (1, 1), (2, 2), (5, 3), (10**30, 3)]
)
async def test_a_bot_gets_as_many_leases_as_it_can_hold(swarmd: Lab, capacity: int | None, holds: int):
    await swarmd.submit_many(3, "make")
    bot = await came(swarmd, capacity=capacity)
    assert len(bot.leases) == holds
    await bot.update()
    assert len(bot.leases) == holds


async def test_what_an_update_says_of_the_capacity_gives_it_no_more(swarmd: Lab):
    await swarmd.submit_many(3, "make")
    bot = await came(swarmd, capacity=1)
    bot.session.worker.configs[0].value = "3"
    await bot.update()
    assert len(bot.leases) == 1


async def test_order_is_priority_then_age(swarmd: Lab):
    ids = {await swarmd.submit("make", priority=priority): priority for priority in (5, 0, -3, 0)}
    bot = await came(swarmd)
    order = []
    while bot.leases:
        [lease] = bot.leases
        env = {v.name: v.value for v in command_of(lease).inputs.environment_variables}
        order.append(env["SWARMD_TASK_ID"])
        bot.complete(lease.id)
        await bot.update()
    oldest = list(ids)
    assert order == [oldest[2], oldest[1], oldest[3], oldest[0]]


async def test_several_leases_begin_and_end_in_one_call(swarmd: Lab):
    ids = await swarmd.submit_many(3, "make")
    bot = await came(swarmd, capacity=3)
    await bot.update()
    for lease, code in zip(bot.leases, (0, 1, 2), strict=True):
        bot.complete(lease.id, code)
    await bot.update()
    for id, code in zip(ids, (0, 1, 2), strict=True):
        assert (await swarmd.check_state(id, "COMPLETED")).exit_code == code
