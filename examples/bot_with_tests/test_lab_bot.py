"""The tests of lab_bot.py: each has a whole daemon, `swarmd`, in its nursery. Hours pass at once.

pip install /path/to/swarmd pytest pytest-trio, then: pytest
"""

import sys
from pathlib import Path

import pytest
import trio
from lab_bot import LabBot

LAB = {"kind": "lab"}


async def test_it_runs_what_it_is_given(swarmd, nursery):
    async def run(argv):
        assert argv == ("measure", "7")
        return 3, b"42 mV\n"

    id = await swarmd.submit("measure", "7", dimensions=LAB)
    nursery.start_soon(LabBot(swarmd.client, "lab-1", run).serve)
    done = await swarmd.until(id, "COMPLETED")
    assert (done.ok, done.exit_code, done.bot) == (False, 3, "lab-1")
    await swarmd.check_output(id, b"42 mV\n")


async def test_it_keeps_a_task_of_three_hours(swarmd, nursery):
    async def run(argv):
        await trio.sleep(3 * 3600)
        return 0, b""

    id = await swarmd.submit("soak", dimensions=LAB, hard_limit_s=4 * 3600)
    nursery.start_soon(LabBot(swarmd.client, "lab-1", run).serve)
    await swarmd.until(id, "COMPLETED")
    await swarmd.check_attempts(id, "ENDED")  # it was never taken for dead


async def test_it_stops_what_was_canceled(swarmd, nursery):
    async def run(argv):
        await trio.sleep_forever()

    id = await swarmd.submit("soak", dimensions=LAB)
    nursery.start_soon(LabBot(swarmd.client, "lab-1", run).serve)
    await swarmd.until(id, "RUNNING")
    await swarmd.client.cancel([id])
    began = swarmd.now
    await swarmd.until(id, "KILLED")
    assert swarmd.now - began <= 20, "it looks for orders as often as it says that it lives"


@pytest.mark.parametrize("name", ["before_commit", "after_commit"])
async def test_its_report_arrives_when_the_daemon_dies_at_it(swarmd, nursery, name):
    async def run(argv):
        swarmd.fail_at(name)
        return 0, b"done\n"

    id = await swarmd.submit("measure", dimensions=LAB)
    nursery.start_soon(LabBot(swarmd.client, "lab-1", run).serve)
    await swarmd.until(id, "COMPLETED")
    await swarmd.check_output(id, b"done\n")
    await swarmd.check_attempts(id, "ENDED")


@pytest.mark.swarmd(tcp=True, real_time=True)
async def test_the_program_itself(swarmd, nursery):
    command = [sys.executable, str(Path(__file__).with_name("lab_bot.py")), swarmd.url, "lab-1"]
    nursery.start_soon(trio.run_process, command)
    id = await swarmd.submit("echo", "hello", dimensions=LAB)
    await swarmd.until(id, "COMPLETED", within_s=30)
    await swarmd.check_output(id, b"hello\n")
