import hashlib
import os
import socket

import pytest

from swarmd.bot import outputs
from swarmd.bot.outputs import (
    Collected,
    Output,
    OutsideError,
    clean_path,
    collect,
    create_input,
    open_output,
    place_input,
    sha256_of,
)


@pytest.fixture
def work(tmp_path):
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture
def root(work):
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    before = sorted(os.listdir("/proc/self/fd"))
    os.close(fd)
    assert len(before) - len(os.listdir("/proc/self/fd")) == 1


def paths(found: Collected) -> list[str]:
    return [output.path for output in found.files]


def write(work, *names):
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(name)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a", ("a",)), ("./a//b/", ("a", "b")), ("a/.../b", ("a", "...", "b")), ("ä" * 127, ("ä" * 127,))],
)
def test_clean_paths(text, parts):
    assert clean_path(text) == parts


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no file"),
        ("./", "names no file"),
        ("/etc/passwd", "is absolute"),
        ("a/../../b", "has a '..'"),
        ("a\0b", "NUL"),
        ("ä" * 128, "too long"),
        ("a/" * 2100, "too long"),
        ("\udcff", "not valid Unicode"),
    ],
)
def test_bad_paths(text, why):
    with pytest.raises(ValueError, match=why):
        clean_path(text)


# Inputs


def test_inputs_are_placed_with_their_mode(work, root):
    mask = os.umask(0o077)
    try:
        assert place_input(root, "a/b/data", [b"one", b"", b"two"]) == 6
        assert place_input(root, "a/tool", [b"#!/bin/sh\n"], executable=True) == 10
    finally:
        os.umask(mask)
    assert (work / "a/b/data").read_bytes() == b"onetwo"
    assert (work / "a/b/data").stat().st_mode & 0o777 == 0o644
    assert (work / "a/tool").stat().st_mode & 0o777 == 0o755


def test_inputs_never_go_through_links_or_over_files(work, root):
    (work / "out").symlink_to("..")
    (work / "link").symlink_to("../secret")
    write(work, "file")
    for path in ("out/new", "link", "file", "file/below"):
        with pytest.raises(ValueError, match="its place is taken"):
            create_input(root, path)
    assert (work / "../secret").read_text() == "secret" and not (work / "../new").exists()
    with pytest.raises(ValueError, match=r"has a '\.\.'"):
        create_input(root, "../new")


# Outputs


def test_a_plain_path_with_size_and_mode(work, root):
    write(work, "log", "bin/tool")
    (work / "bin/tool").chmod(0o755)
    found = collect(root, ["log", "./bin//tool", "log"])
    assert found == Collected([Output("bin/tool", 8, True), Output("log", 3, False)], [])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.txt", "b.log"]),
        ("*.txt", ["a.txt"]),
        ("?.log", ["b.log"]),
        ("d/*", ["d/.hidden", "d/x.txt"]),
        ("*/*.txt", ["d/x.txt"]),
        ("**/*.txt", ["a.txt", "d/e/y.txt", "d/x.txt"]),
        ("d/**", ["d/.hidden", "d/e/[z].log", "d/e/y.txt", "d/x.txt"]),
        ("d/**/e/**/*.log", ["d/e/[z].log"]),
        ("d/e/[z]*", ["d/e/[z].log"]),
        ("d", ["d/.hidden", "d/e/[z].log", "d/e/y.txt", "d/x.txt"]),
        ("**", ["a.txt", "b.log", "d/.hidden", "d/e/[z].log", "d/e/y.txt", "d/x.txt"]),
    ],
)
def test_patterns(work, root, pattern, expected):
    write(work, "a.txt", "b.log", "d/x.txt", "d/.hidden", "d/e/y.txt", "d/e/[z].log")
    found = collect(root, [pattern])
    assert (paths(found), found.problems) == (expected, [])


@pytest.mark.parametrize("pattern", ["missing", "*.missing", "missing/*.txt", "a.txt/b"])
def test_what_was_not_made_is_a_problem(work, root, pattern):
    write(work, "a.txt")
    found = collect(root, [pattern])
    assert found.files == [] and len(found.problems) == 1 and repr(pattern)[1:-1] in found.problems[0]


def test_an_empty_folder_is_no_problem(work, root):
    (work / "empty").mkdir()
    assert collect(root, ["empty"]) == Collected([], [])


def test_bad_patterns_are_problems(root):
    found = collect(root, ["/etc/*", "../*"])
    assert found.files == [] and ["absolute" in p or "'..'" in p for p in found.problems] == [True, True]


def test_links_inside_are_followed_and_links_out_are_reported(work, root):
    write(work, "d/real", "e/other")
    (work / "d/inside").symlink_to("../e/./other")
    (work / "d/out").symlink_to("../../secret")
    (work / "d/absolute").symlink_to("/etc/passwd")
    (work / "d/again").symlink_to("out")
    (work / "d/loop").symlink_to("loop")
    (work / "d/dead").symlink_to("nothing")
    (work / "folder").symlink_to("e")
    (work / "away").symlink_to("..")
    found = collect(root, ["d/*", "folder/other", "away/secret", "away/*"])
    assert paths(found) == ["d/inside", "d/real", "folder/other"]
    left = [p for p in found.problems if "leaves the work folder" in p]
    assert len(left) == 5 and len(found.problems) == 6  # and the loop
    assert "secret" not in [os.path.basename(path) for path in paths(found)]


def test_opening_an_output_stays_inside(work, root):
    write(work, "d/real")
    (work / "out").symlink_to("../secret")
    (work / "d/up").symlink_to("../d/real")
    fd = open_output(root, "d/up")
    assert os.read(fd, 100) == b"d/real"
    os.close(fd)
    with pytest.raises(OutsideError):
        open_output(root, "out")
    with pytest.raises(ValueError, match="is a folder"):
        open_output(root, "d")


def test_special_files_are_reported_and_never_opened(work, root):
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(work)  # the path of a socket has at most 107 bytes
        listener.bind("socket")
        os.chdir(here)
        found = collect(root, ["*"])
    assert found.files == []
    assert ["'fifo' is a FIFO" in found.problems[0], "'socket' is a socket" in found.problems[1]] == [
        True,
        True,
    ]
    with pytest.raises(ValueError, match="is a FIFO"):
        open_output(root, "fifo")


def test_a_name_that_is_no_unicode_is_reported(work, root):
    write(work, "good")
    with open(os.fsencode(work) + b"/bad\xff", "w"):
        pass
    found = collect(root, ["*"])
    assert paths(found) == ["good"] and "not valid Unicode" in found.problems[0]


def test_too_many_files(work, root, monkeypatch):
    monkeypatch.setattr(outputs, "MAX_OUTPUT_FILES", 3)
    write(work, *"abcde")
    found = collect(root, ["a", "*"])
    assert paths(found) == ["a", "b", "c"]
    assert found.problems == ["more than 3 output files (MAX_OUTPUT_FILES); the rest is lost: pack them"]


def test_too_many_entries(work, root, monkeypatch):
    monkeypatch.setattr(outputs, "MAX_ENTRIES", 3)
    write(work, *"abcde")
    found = collect(root, ["**"])
    assert len(found.files) <= 3 and any("MAX_ENTRIES" in problem for problem in found.problems)


def test_stars_cost_no_exponential_time(work, root):
    write(work, "a" * 100)
    assert paths(collect(root, ["*" * 50 + "b", "**/" * 20 + "*a"])) == ["a" * 100]


def test_sha256_from_the_beginning_in_chunks(work, root, monkeypatch):
    monkeypatch.setattr(outputs, "HASH_CHUNK", 1000)
    data = os.urandom(2500)
    (work / "data").write_bytes(data)
    fd = open_output(root, "data")
    os.lseek(fd, 10, os.SEEK_SET)
    assert sha256_of(fd) == (hashlib.sha256(data).hexdigest(), 2500)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 10
    os.close(fd)
