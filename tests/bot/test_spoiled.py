"""What a command does to the folder of its own attempt, with real processes: it ends nobody but itself.

Commands run as the bot's own user, so they can; the bot goes on and its next task ends well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmd.bot.process import PosixRunner
from swarmd.core.model import Command
from tests.bot.fake_daemon import open_lab

WITHIN_S = 30  # for a loaded machine; a quick one never waits for it


def shell(script: str) -> Command:
    return Command(argv=("sh", "-c", script))


SPOILED = {
    "output is a folder": "echo a; rm ../stdout; mkdir ../stdout; sleep 0.2",
    "output is a FIFO": "echo a; rm ../stdout; mkfifo ../stdout; sleep 0.2",
    "output is a link": "echo a; ln -sf /etc/hostname ../stdout; sleep 0.2",
    "output is a link to itself": "rm ../stdout; ln -s stdout ../stdout; sleep 0.2",
    "output is a device": "rm ../stdout; ln -s /dev/zero ../stdout; sleep 0.2",
    "output is gone": "echo a; rm ../stdout ../stderr; sleep 0.2",
    "output is shorter": "seq 1000; sleep 0.2; : > ../stdout; sleep 0.2",
    "the work folder is gone": "rm -rf ../work; sleep 0.1",
    "the work folder is a link": "mv ../work ../other; ln -s / ../work; sleep 0.1",
    "the work folder is a FIFO": "mv ../work ../other; mkfifo ../work; sleep 0.1",
    "everything is gone": 'rm -rf "$(dirname "$PWD")"; sleep 0.1',
}


@pytest.mark.parametrize("how", SPOILED)
async def test_a_command_that_spoils_its_folder_ends_only_itself(tmp_path: Path, how):
    async with open_lab(tmp_path / "bot", PosixRunner()) as lab:
        spoiled = lab.daemon.add(commands=(shell(SPOILED[how]),), outputs=("hostname", "etc/hostname"))
        good = lab.daemon.add(commands=(shell("echo fine"),))
        await lab.start_bot()
        await lab.daemon.until(lambda: len(lab.daemon.finished) == 2, within_s=WITHIN_S)
        assert lab.daemon.finished[spoiled].exit_code == 0 and not lab.daemon.finished[spoiled].died
        assert lab.daemon.finished[spoiled].outputs == []
        assert lab.daemon.finished[good].ok and lab.daemon.output[good, "stdout"] == b"fine\n"
        assert b"/" not in lab.daemon.output.get((spoiled, "stdout"), b"")


@pytest.mark.parametrize("what", ["mkfifo", "mkdir", "ln -s /etc/hostname"])
async def test_a_record_that_is_spoiled_between_two_commands(tmp_path: Path, what):
    """Neither this bot nor the next one waits for a writer, or a reader, of a FIFO."""
    async with open_lab(tmp_path / "bot", PosixRunner()) as lab:
        spoil = shell(f"sleep 0.2; rm -f ../state.json; {what} ../state.json")
        spoiled = lab.daemon.add(commands=(spoil, shell("echo second")))
        good = lab.daemon.add(commands=(shell("echo fine"),))
        await lab.start_bot()
        await lab.daemon.until(lambda: len(lab.daemon.finished) == 2, within_s=WITHIN_S)
        assert "state.json" in lab.daemon.finished[spoiled].reason and not lab.daemon.finished[spoiled].ok
        assert lab.daemon.finished[good].ok
