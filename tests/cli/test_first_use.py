"""What a new user does: empty values, wrong ids, forgotten dashes, and what the commands answer."""

from __future__ import annotations

import io
import sys

import msgspec
import pytest

from swarmd.api.native import messages
from swarmd.cli import main, spans
from tests.cli.fake import ID, OTHER, Reply, bot_info, details, info, problem

TASKS = "/api/v1/tasks"
GRAPH = {
    "id": ID, "name": "", "open": False, "owner": "", "created_at": "2026-01-02T03:04:05.678Z",
    "counts": {"COMPLETED": 1, "SKIPPED": 1}, "done": True, "ok": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["submit", "--pool", "", "--", "x"], "'--pool': it is empty"),
        (["tasks", "--pool", ""], "'--pool': it is empty"),
        (["bot", "--id", ""], "'--id': it is empty"),
        (["submit", "--", ""], "the name of the program to run is empty"),
        (
            ["submit", "--name", "n" * 257, "--", "x"],
            "'--name': 257 characters are too many; it may have at most 256",
        ),
        (["submit", "--tag", "t" * 257, "--", "x"], "'--tag': 257 characters"),
        (["submit", "--grace", "2h", "--", "x"], "'--grace': 2h is too long; it may be at most 1h"),
        (["submit", "--parent", "abc", "--", "x"], "'--parent': \"abc\" is no id"),
        (["submit", "--env", "n" * 257 + "=1", "--", "x"], "env: expected `str` of length <= 256 (see:"),
        (["run"], "as in: swarmd run -- echo hello"),
        (
            ["run", "ls", "-la"],
            "if that is part of the command to run, put -- before it: swarmd run -- ls -la",
        ),
        (["quarantine", "lab-1", "broken", "fan"], 'quote the reason: swarmd quarantine lab-1 "broken fan"'),
    ],
)
def test_usage_errors_name_the_option_and_the_remedy(line, words, capsys):
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1


def test_limits_of_options_are_those_of_the_api():
    assert (spans.MAX_SPAN_S, spans.MAX_NAME) == (messages.MAX_SPAN_S, messages.MAX_NAME)
    at_most = {"grace_s": spans.MAX_GRACE_S, "priority": spans.MAX_PRIORITY}
    for field, most in at_most.items():
        assert msgspec.convert({field: most}, messages.TaskRequest)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({field: most + 1}, messages.TaskRequest)


@pytest.mark.parametrize("command", ["wait", "cancel", "retry"])
def test_a_wrong_id_is_named_before_anything_is_sent(fake, capsys, monkeypatch, command):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{OTHER} rubbish"))
    for given, named in ((["garbage"], "garbage"), ([ID, "-"], "rubbish")):
        assert main([command, *given]) == 1
        assert f"there is no task '{named}': ids have 13 characters" in capsys.readouterr().err
    assert not fake.seen


def test_a_wait_survives_the_loss_of_its_very_first_answer(fake):
    fake.table["POST", f"{TASKS}/wait"] = [Reply(drop=True), Reply({"items": [info()], "pending": 0})]
    assert main(["wait", ID]) == 0
    assert len(fake.seen) == 2


def test_a_wait_that_times_out_says_how_many_are_left(fake, capsys):
    fake.table["POST", f"{TASKS}/wait"] = Reply({"items": [info()], "pending": 1})
    assert main(["wait", ID, OTHER, "--timeout", "0"]) == 124
    assert capsys.readouterr().err == "swarmd: 1 of 2 have not ended in time\n"


@pytest.mark.parametrize(("ok", "code", "word"), [(True, 0, "ok"), (False, 1, "failed")])
def test_a_graph_is_as_good_as_it_says_itself(fake, capsys, tmp_path, ok, code, word):
    fake.table["POST", "/api/v1/graphs"] = Reply({"id": ID, "ids": [ID], "states": ["PENDING"]}, 201)
    fake.table["GET", f"/api/v1/graphs/{ID}"] = Reply({**GRAPH, "ok": ok})
    fake.table["GET", TASKS] = Reply({"items": [info(), info(OTHER, "SKIPPED", ok=False)]})
    (tmp_path / "g.toml").write_text('[[tasks]]\nargv = ["x"]\n')
    for line in (["wait", "--graph", ID], ["submit", "--file", str(tmp_path / "g.toml"), "--wait"]):
        assert main(line) == code
        assert f"graph {ID} is {word}: 1 COMPLETED, 1 SKIPPED\n" in capsys.readouterr().err


def test_lines_are_taken_as_they_are(fake, tmp_path):
    fake.table["POST", TASKS] = lambda seen: Reply({"ids": [], "states": []}, 201)
    for text, lines in ((b"a\n\n b \n\n", ["a", "", " b ", ""]), (b"a\r\nb", ["a", "b"]), (b"\n", [""])):
        (tmp_path / "lines").write_bytes(text)
        assert main(["submit", "--each-line", str(tmp_path / "lines"), "--", "x"]) == 0
        assert fake.seen[-1].json["tasks"][0]["lines"] == lines


def test_a_backup_into_no_folder_names_the_folder(fake, capsys, tmp_path):
    assert main(["backup", f"{tmp_path}/none/x.db"]) == 1
    assert (
        capsys.readouterr().err
        == f"swarmd: there is no folder {tmp_path}/none; make it, or give another path\n"
    )
    assert not fake.seen


def test_an_order_to_a_dead_bot_says_how_to_forget_it(fake, capsys):
    fake.table["PATCH", "/api/v1/bots/bot1"] = problem(409, "bot_dead", "no session", "start it")
    for command in ("terminate", "restart"):
        assert main([command, "bot1"]) == 1
        err = capsys.readouterr().err
        assert err == "swarmd: no session; start it, or forget it with: swarmd delete-bot bot1\n"


def test_a_bots_own_dimensions_come_first(fake, capsys):
    bot = bot_info(
        dimensions={"cpu": ["x86"], "feature": ["sse"], "gpu": ["a100"], "os": ["linux"], "rack": ["7"]}
    )
    fake.table["GET", "/api/v1/bots"] = Reply({"items": [bot]})
    fake.table["GET", "/api/v1/bots/bot1"] = Reply(bot)
    assert main(["bots"]) == 0
    assert capsys.readouterr().out.endswith("gpu=a100 rack=7 cpu=x86 os=linux\n")
    assert main(["bots", "bot1"]) == 0
    assert "dimensions  gpu=a100\n            rack=7\n            cpu=x86\n" in capsys.readouterr().out


def test_events_use_our_words(fake, capsys):
    event = {"id": "1", "at": "T", "kind": "task.done", "detail": {"ok": True, "late": False, "code": None}}
    fake.table["GET", "/api/v1/events"] = Reply({"items": [event]})
    assert main(["events"]) == 0
    assert capsys.readouterr().out == "T  task.done  ok=true late=false\n"


def test_a_final_state_is_told_once(fake, capsys):
    answer = {"id": ID, "state": "CANCELED", "reason": "", "sentence": "it is CANCELED on bot b: by me"}
    fake.table["GET", f"{TASKS}/{ID}/explain"] = Reply(answer)
    assert main(["explain", ID]) == 0
    assert capsys.readouterr().out == "CANCELED on bot b: by me\n"


def test_round_spans_have_the_largest_unit(fake, capsys):
    work = {"commands": [{"argv": ["x"]}], "hard_limit_s": 86_400.0, "grace_s": 60.0}
    fake.table["GET", f"{TASKS}/{ID}"] = Reply(details(work=work))
    assert main(["show", ID]) == 0
    assert "hard 1d, grace 1m" in capsys.readouterr().out
