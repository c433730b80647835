"""One bot and its work, from end to end."""

from __future__ import annotations

from swarmd.testing import Lab
from swarmd.testing.remote_bots import ACTIVE, command_of


async def test_a_task_of_the_native_api_runs_as_a_command(swarmd: Lab):
    id = await swarmd.submit("make", "test", env={"A": "b", "EMPTY": ""}, hard_limit_s=20.5, grace_s=3)
    bot = swarmd.remote_bot("w1")
    await bot.create()
    [lease] = bot.leases
    assert lease.state == ACTIVE
    command = command_of(lease)
    assert list(command.inputs.arguments) == ["make", "test"]
    env = {v.name: v.value for v in command.inputs.environment_variables}
    assert env == {
        "A": "b",
        "EMPTY": "",
        "SWARMD_TASK_ID": id,
        "SWARMD_ATTEMPT": lease.id,
        "SWARMD_BOT_ID": "w1",
    }
    assert command.timeouts.execution.ToMilliseconds() == 20_500
    assert command.timeouts.shutdown.ToMilliseconds() == 3_000
    assert not command.timeouts.HasField("idle")
    await swarmd.check_state(id, "PENDING")
    await bot.update()
    await swarmd.check_state(id, "RUNNING")
    bot.complete(lease.id, 0)
    await bot.update()
    task = await swarmd.check_state(id, "COMPLETED")
    assert task.ok and task.exit_code == 0
    assert bot.leases == []
