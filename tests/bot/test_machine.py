import os
import platform

import pytest

from swarmd.bot.machine import (
    check_dimension,
    machine_dimensions,
    os_names,
    parse_dimension,
    parse_os_release,
    version_steps,
)


def test_this_machine():
    found = machine_dimensions()
    assert set(found) == {"os", "cpu", "cores", "hostname", "python", "kernel", "memory_gib"}
    assert found["os"][0] == "Linux" and found["kernel"] == [platform.release()]
    assert int(found["cores"][0]) == len(os.sched_getaffinity(0)) and int(found["memory_gib"][0]) >= 1
    assert found["python"][0] == "3" and found["python"][-1] == platform.python_version()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('NAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n', ["Linux", "Debian", "Debian-12"]),
        ("NAME='Ubuntu'\nVERSION_ID='24.04'\n", ["Linux", "Ubuntu", "Ubuntu-24.04"]),
        ("NAME=Arch Linux\n# VERSION_ID=1\n", ["Linux", "Arch"]),
        ("ID=alpine\nVERSION_ID=3.20\nnot a field\n", ["Linux", "Alpine", "Alpine-3.20"]),
        ('NAME="We|rd"\n', ["Linux", "Werd"]),
        ("", ["Linux"]),
    ],
)
def test_os_names(text, names):
    assert os_names("Linux", parse_os_release(text)) == names


def test_versions_go_from_the_general_to_the_particular():
    assert version_steps("3.11.7") == ["3", "3.11", "3.11.7"]


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("gpu=h100", ("gpu", "h100")),
        ("a.b-c_9=x=y", ("a.b-c_9", "x=y")),
        ("_=" + "v" * 256, ("_", "v" * 256)),
        ("k" * 64 + "=a b", ("k" * 64, "a b")),
    ],
)
def test_dimensions_of_the_operator(text, pair):
    assert parse_dimension(text) == pair


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpu", "has no '='"),
        ("=x", "dimension key ''"),
        ("9a=x", "not a digit first"),
        ("a b=x", "dimension key 'a b'"),
        ("a\n=x", "dimension key"),
        ("k" * 65 + "=x", "1 to 64"),
        ("a=", "1 to 256 characters"),
        ("a=" + "v" * 257, "1 to 256 characters"),
        ("a= x", "no blanks around"),
        ("a=x\n", "no blanks around"),
        ("a=x|y", "means 'or'"),
        ("id=b1", "use --id"),
    ],
)
def test_dimensions_that_are_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse_dimension(text)


def test_id_is_a_good_key_elsewhere():
    check_dimension("id", "b1")
