"""Files whose names come from a bot, written on the machine of whoever asks for them."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from swarmd.cli import main
from tests.cli.fake import ID, Reply, details

ONE = f"/api/v1/tasks/{ID}"
DATA = b"data"
BLOB = hashlib.sha256(DATA).hexdigest()


def download(fake, folder: Path, *names: str, force: bool = False) -> int:
    files = [{"path": name, "blob": BLOB, "size": len(DATA)} for name in names]
    fake.table["GET", ONE] = Reply(details(outputs=files))
    fake.table["GET", f"/api/v1/blobs/{BLOB}"] = Reply(DATA)
    return main(["outputs", ID, "--to", str(folder), *(["--force"] if force else [])])


@pytest.mark.parametrize(
    "name",
    [
        "..\\..\\up",
        "%2e%2e%2fup",
        "C:\\up",
        "...",
        "~",
        "$HOME",
        "-rf",
        "a b",
        "\x1b]0;x\x07",
        "e\u0301",
        " ",
    ],
)
def test_a_strange_name_is_just_a_name(fake, capsys, tmp_path, name):
    assert download(fake, tmp_path / "to", name) == 0
    assert [p.name for p in (tmp_path / "to").iterdir()] == [name] and len(list(tmp_path.iterdir())) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_a_name_that_no_file_can_have_is_one_sentence(fake, capsys, tmp_path):
    assert download(fake, tmp_path, "x" * 300) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("swarmd: ") and "too long" in told
    assert list(tmp_path.iterdir()) == []


SPECIAL = {
    "fifo": os.mkfifo,
    "socket": lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK),
    "link": lambda path: path.symlink_to("../victim"),
    "link to nothing": lambda path: path.symlink_to("../nothing"),
    "file": lambda path: path.write_bytes(b"mine"),
    "hard link": lambda path: path.hardlink_to(path.parent.parent / "victim"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_there_is_replaced_only_when_told_and_never_written_through(fake, capsys, tmp_path, kind):
    (tmp_path / "victim").write_bytes(b"as it was")
    (tmp_path / "to").mkdir()
    SPECIAL[kind](tmp_path / "to" / "name")
    assert download(fake, tmp_path / "to", "name") == 1
    assert "give --force" in capsys.readouterr().err
    assert download(fake, tmp_path / "to", "name", force=True) == 0
    found = (tmp_path / "to" / "name").lstat()
    assert stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    assert (tmp_path / "to" / "name").read_bytes() == DATA
    assert (tmp_path / "victim").read_bytes() == b"as it was" and not (tmp_path / "nothing").exists()


def test_a_folder_in_the_place_of_a_file_is_one_sentence(fake, capsys, tmp_path):
    (tmp_path / "to" / "name").mkdir(parents=True)
    assert download(fake, tmp_path / "to", "name", force=True) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "name" in told and "Is a directory" in told
    assert os.listdir(tmp_path / "to") == ["name"]


@pytest.mark.parametrize("kind", ["fifo", "link", "file"])
def test_what_is_no_folder_is_not_gone_through(fake, capsys, tmp_path, kind):
    (tmp_path / "victim").mkdir()
    (tmp_path / "to").mkdir()
    SPECIAL[kind](tmp_path / "to" / "folder")
    assert download(fake, tmp_path / "to", "folder/name", force=True) == 1
    assert "folder is not a folder" in capsys.readouterr().err
    assert os.listdir(tmp_path / "victim") == []
