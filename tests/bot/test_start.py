"""What keeps a bot from starting is said in one line on standard error, with what to do; nothing is logged."""

from __future__ import annotations

import pytest

from swarmd.cli import main


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """Runs `swarmd bot` with these words; gives the exit code and the one line."""
    monkeypatch.chdir(tmp_path)
    for name in ("SWARMD_URL", "SWARMD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str]:
        code = main(["bot", "--id", "b1", *words])
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("swarmd: ")
        return code, err.removeprefix("swarmd: ").rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--id", "-b"), "'-b' cannot be a bot's id; give --id with"),
        (("--dimension", "id=x"), "dimension 'id=x': the id is not a dimension"),
        (("--server", "lab:8710"), "is not one of a server; write it as http://127.0.0.1:8710"),
        (("--token-file", "none"), "the token file none cannot be read: No such file or directory; check --token-file"),
    ],
)  # fmt: skip
def test_options_that_no_bot_can_have(said, words, says):
    code, line = said(*words)
    assert code == 2 and says in line


def test_a_token_file_that_the_environment_names_is_called_by_its_variable(said, monkeypatch):
    monkeypatch.setenv("SWARMD_TOKEN_FILE", "none")
    code, line = said()
    assert code == 2 and line.endswith("check SWARMD_TOKEN_FILE")
    assert said("--token-file", "other")[1].endswith("check --token-file")


def test_a_work_folder_that_cannot_be_used(said, tmp_path):
    (tmp_path / "file").write_text("")
    code, line = said("--work-dir", "file")
    assert code == 1 and line.startswith(f"work folder {tmp_path / 'file'} cannot be used: ")
    assert line.endswith("; choose another with --work-dir")


def test_a_folder_in_which_the_bot_cannot_work(said, tmp_path):
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "attempts").write_text("")
    code, line = said("--work-dir", "bot")
    assert code == 1 and "cannot be written: " in line and line.endswith("; choose another with --work-dir")
