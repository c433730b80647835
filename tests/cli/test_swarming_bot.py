"""`swarmd swarming-bot` against a fake daemon: the lines it prints are a script for the machine."""

from __future__ import annotations

import json
import subprocess

import pytest

from swarmd.cli import main
from tests.cli.fake import Reply, problem

PATH = "/api/v1/swarming/bootstrap"
TOLD = {
    "url": "http://lab.example:8710", "token": "ab+/cd==", "expires_at": "2026-09-21T15:13:20.000Z",
    "digest": "0123456789abcdef" * 4, "token_needed": True,
}  # fmt: skip


def printed(fake, capsys, *arguments: str, **told) -> str:
    fake.table["POST", PATH] = Reply({**TOLD, **told})
    assert main(["swarming-bot", *arguments]) == 0
    text = capsys.readouterr().out
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    return text


def in_the_shell(text: str, tmp_path) -> list[str]:
    """What the script would start, and where: `exec` is replaced."""
    lines = text.replace(
        "exec python3", 'printf "%s\\n" "$PWD" "$SWARMING_BOT_ID" "$TMPDIR" "$SWARMING_EXTERNAL_BOT_SETUP"'
    )
    done = subprocess.run(["sh"], input=lines, text=True, check=True, capture_output=True, cwd=tmp_path)
    return done.stdout.splitlines()


def test_the_lines_of_a_daemon_that_needs_a_token(fake, capsys, tmp_path):
    text = printed(fake, capsys, "lab-7")
    assert [seen.method for seen in fake.seen] == ["POST"]
    assert "http://lab.example:8710" in text and "0123456789ab" in text and "2026-09-21T15:13:20" in text
    folder, id, tmp, setup, option, program = in_the_shell(text, tmp_path)
    assert (folder, id, tmp, setup) == (str(tmp_path / "swarming-lab-7"), "lab-7", f"{folder}/tmp", "1")
    assert (tmp_path / "swarming-lab-7/tmp").is_dir()
    assert option == "-c" and '"http://lab.example:8710/bootstrap?tok=ab%2B%2Fcd%3D%3D"' in program
    compile(program, "program", "exec")


def test_the_lines_of_a_daemon_that_needs_none_hold_none(fake, capsys, tmp_path):
    text = printed(fake, capsys, "lab-7", token_needed=False)
    assert "tok" not in text and "ab+" not in text
    assert '"http://lab.example:8710/bootstrap"' in in_the_shell(text, tmp_path)[-1]


def test_without_a_name_the_bot_has_that_of_its_machine(fake, capsys, tmp_path):
    folder, id, *_ = in_the_shell(printed(fake, capsys), tmp_path)
    name = subprocess.run(["hostname"], text=True, capture_output=True, check=True).stdout.strip()
    assert (folder, id) == (str(tmp_path / "swarming-bot"), name)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8710", "http://localhost", "http://[::1]:8710"])
def test_an_address_that_no_other_machine_reaches_is_remarked(fake, capsys, url):
    assert "server_url" in printed(fake, capsys, "lab-7", url=url)
    assert "server_url" not in printed(fake, capsys, "lab-7")


def test_as_json(fake, capsys):
    fake.table["POST", PATH] = Reply(TOLD)
    assert main(["swarming-bot", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == TOLD


def test_a_daemon_without_code_is_told_in_a_sentence(fake, capsys):
    fake.table["POST", PATH] = problem(404, "no_bot_code", "this daemon serves no bot code", "set bot_code")
    assert main(["swarming-bot", "lab-7"]) == 1
    assert capsys.readouterr().err == "swarmd: this daemon serves no bot code; set bot_code\n"


@pytest.mark.parametrize("name", ["a b", "-x", "$(reboot)", "ü", "a/b", "x" * 129, ""])
def test_a_name_that_no_bot_can_have_is_refused_before_anything_is_asked(fake, capsys, name):
    assert main(["swarming-bot", "--", name]) != 0
    assert "cannot be a bot's id" in capsys.readouterr().err and fake.seen == []


def test_its_help_is_short_enough_to_be_read(capsys):
    assert main(["swarming-bot", "--help"]) == 0
    steps = capsys.readouterr().out.partition("1. ")[2].partition("All of it")[0].strip().splitlines()
    assert len(steps) <= 10
