"""docs/testing.md says what is so: its examples run in a project of their own, its tables name what there is."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from swarmd.testing import Fault, Lab, NativeBot, SwarmingBot, SwarmingTask
from swarmd.testing.faults import FAILPOINTS
from swarmd.testing.plugin import LabSettings

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "testing.md").read_text()
EXAMPLES = re.findall(r"```(?:python|py)\n(.+?)```", TEXT, re.S)
MY_CLIENT = """
    from swarmd.client import open_client, task

    class Report:
        failed = False

    async def run(url, argv):
        async with open_client(url) as client:
            [done] = await client.wait(await client.submit([task(argv=argv)]))
            report = Report()
            report.failed = not done.ok
            return report
"""


def test_every_example_passes_in_a_project_of_its_own(pytester: pytest.Pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.syspathinsert()
    names = [name for example in EXAMPLES for name in re.findall(r"async def (test_\w+)", example)]
    assert len(names) == len(set(names)) >= 7
    pytester.makepyfile(my_client=MY_CLIENT, **{f"test_{n}": text for n, text in enumerate(EXAMPLES)})
    source = (ROOT / "examples" / "bot_with_tests" / "lab_bot.py").read_text()
    pytester.path.joinpath("lab_bot.py").write_text(source.replace('{"kind": ["lab"]}', "{}"))
    program = pytester.path / "my-bot"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} lab_bot.py $1 lab-1\n")
    program.chmod(0o755)
    plugins = ("-p", "pytest_trio.plugin", "-p", "swarmd.testing.plugin", "-p", "no:cacheprovider")
    pytester.runpytest_inprocess(*plugins, "-W", "error").assert_outcomes(passed=len(names))


async def test_the_story_in_the_document_is_the_one_that_is_told(swarmd: Lab):
    [told] = re.findall(r"AssertionError: (task .+?)```", TEXT, re.S)
    id = await swarmd.submit("make")
    first, second = swarmd.bot("b1"), swarmd.bot("b2")
    await first.open()
    await first.run_one()
    await swarmd.sleep(61)
    await second.open()
    await second.run_one()
    with pytest.raises(AssertionError) as failed:
        await swarmd.check_state(id, "COMPLETED")
    found = str(failed.value).replace(id, "1m3250v000000").replace(str(swarmd.seed), "2945269438")
    assert found == told.rstrip("\n")


def test_every_name_is_in_the_document():
    names = [n for n, _ in inspect.getmembers(Lab) if not n.startswith("_")]
    names += [*inspect.signature(Lab.living_bot).parameters][1:]
    names += [
        n for n, _ in inspect.getmembers(NativeBot) if not n.startswith("_") and n not in ("live", "sync")
    ]
    for kind in (SwarmingBot, SwarmingTask):
        names += [n for n, _ in inspect.getmembers(kind) if not n.startswith("_")]
    names += [*FAILPOINTS, *(fault for fault in Fault if fault is not Fault.NONE)]
    names += [name for name in LabSettings._fields if name != "seed"]
    assert [name for name in names if not re.search(rf"\b{name}\b", TEXT)] == []
