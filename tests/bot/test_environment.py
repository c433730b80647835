import pytest

from swarmd.bot.environment import command_environment

OWN = {
    "PATH": "/bin",
    "HOME": "/home/lab",
    "LC_ALL": "C",
    "SSL_CERT_FILE": "/certs",
    "AWS_SECRET": "s",
    "CUDA_HOME": "/cuda",
    "SWARMD_TOKEN": "secret",
    "SWARMD_TOKEN_FILE": "/secret",
    "SWARMD_URL": "bot's own",
    "LD_LIBRARY_PATH": "/bundle",
    "LD_LIBRARY_PATH_ORIG": "/usr/local/lib",
}
FACTS = {"SWARMD_TASK_ID": "t1", "SWARMD_ATTEMPT": "t1-1", "SWARMD_BOT_ID": "b1", "SWARMD_URL": "http://h:1"}
KEPT = {"PATH": "/bin", "HOME": "/home/lab", "LC_ALL": "C", "SSL_CERT_FILE": "/certs"}


def environment(own=OWN, **more):
    return command_environment(own, task_id="t1", attempt="t1-1", bot_id="b1", url="http://h:1", **more)


def test_only_the_allow_list_and_the_facts():
    assert environment() == KEPT | FACTS


def test_the_operator_keeps_more_but_never_a_token():
    found = environment(keep=["CUDA_HOME", "SWARMD_TOKEN", "SWARMD_TOKEN_FILE", "NOT_SET"])
    assert found == KEPT | FACTS | {"CUDA_HOME": "/cuda"}


def test_array_and_line():
    found = environment(index=0, line="")
    assert (found["SWARMD_INDEX"], found["SWARMD_LINE"]) == ("0", "")


def test_what_the_task_sets_wins_null_removes_and_empty_stays():
    found = environment(task={"PATH": None, "HOME": "", "X": "1", "SWARMD_URL": "http://proxy", "GONE": None})
    assert "PATH" not in found and "GONE" not in found
    assert (found["HOME"], found["X"], found["SWARMD_URL"]) == ("", "1", "http://proxy")


def test_a_frozen_bot_gives_the_library_path_that_it_was_started_with():
    assert environment(frozen=True)["LD_LIBRARY_PATH"] == "/usr/local/lib"
    without = {name: value for name, value in OWN.items() if name != "LD_LIBRARY_PATH_ORIG"}
    assert "LD_LIBRARY_PATH" not in environment(without, frozen=True, keep=["LD_LIBRARY_PATH"])
    assert environment(keep=["LD_LIBRARY_PATH"], frozen=False)["LD_LIBRARY_PATH"] == "/bundle"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("", "x", "1 to 256"),
        ("A=B", "x", "'='"),
        ("A\0", "x", "NUL"),
        ("A" * 257, None, "256"),
        ("A", "\0", "'A'"),
    ],
)
def test_what_no_kernel_can_carry_is_refused(name, value, why):
    with pytest.raises(ValueError, match=why):
        environment(task={name: value})
