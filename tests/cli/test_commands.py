"""The commands against a fake daemon: what they ask, print and exit with."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from swarmd.cli import main
from tests.cli.fake import ID, OTHER, Fake, Reply, bot_info, details, info, problem, sse

TASKS = "/api/v1/tasks"
ONE = f"{TASKS}/{ID}"


def accept(seen):
    count = sum(len(task.get("lines", [0])) for task in seen.json["tasks"])
    return Reply(
        {"ids": [f"{n:013}" for n in range(count)], "states": ["PENDING"] * count, "warnings": []}, 201
    )


# ------------------------------------------------------------------ wrong usage


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sumbit -- x", 'there is no command "sumbit"; did you mean "submit"?'),
        ("qqq", 'there is no command "qqq"'),
        ("submit", "nothing to run; give a command after --"),
        ("run", "nothing to run"),
        ("submit --noop -- x", "--noop starts no process"),
        ("submit --array 5 -- x", '"5" is no range; write it as 1-100'),
        ("submit --array 9-1 -- x", '"9-1" is empty'),
        ("submit --array 1-2 --each-line /dev/null -- x", "do not go together"),
        ("submit --array 0-1000000 -- x", "1,000,001 tasks are more than the 100,000"),
        ("submit --each-line /dev/null -- x", "has no lines"),
        ("submit --each-line /none -- x", "No such file"),
        ("submit --hard-limit 5x -- x", '"5x" is no span of time; write it as 90'),
        ("submit --hard-limit 0 -- x", "'--hard-limit': 0 is too short; it must be more than 0"),
        ("submit --hard-limit 8d -- x", "'--hard-limit': 8d is too long; it may be at most 7d"),
        ("submit -d os -- x", '"os" must have the form KEY=VALUE'),
        ("submit --env =1 -- x", '"=1" must have the form NAME=VALUE'),
        ("submit --after abc:maybe -- x", '"abc:maybe" must be ID, ID:failed or ID:any'),
        ("submit --share join -- x", "--share needs --sameness"),
        ("submit --parent abc -- x", "parent"),
        ("submit --retries -1 -- x", "--retries"),
        ("submit --file /dev/null -- x", "a command does not go with --file"),
        ("submit --file /dev/null --tag x", "--tags does not go with --file"),
        ("submit --files x", "No such option"),
        ("tasks --state DONE", '"DONE" is no state; there are: BLOCKED'),
        ("tasks --limit 0", "--limit"),
        ("wait", "give ids of tasks, or --graph ID"),
        ("wait a --graph b", "give ids of tasks, or --graph ID"),
        ("wait --graph b --any", "--any does not go with --graph"),
        ("cancel", "which tasks?"),
        ("cancel a --tag x", "which tasks?"),
        ("cancel --all", "--all needs --yes"),
        ("retry", "which tasks?"),
        ("retry a --failed", "which tasks?"),
        ("quarantine b", "give a reason, or --undo"),
        ("quarantine b why --undo", "give a reason, or --undo"),
        ("outputs x --force", "--force needs --to"),
        ("events --task a --bot b", "do not go together"),
        ("events --after a", "--after needs -f"),
        ("show", "Missing argument"),
        ("check", "Missing option"),
        ("serve --durability none", "durability"),
        ("bot --slots 0", "slots"),
        ("bot -d gpu", "KEY=VALUE"),
        ("tasks --server ftp://x", "not one of a server"),
        ("tasks --server nonsense", "not one of a server"),
    ],
)
def test_wrong_usage(line, words, capsys, monkeypatch):
    monkeypatch.setenv("SWARMD_URL", "http://127.0.0.1:1")
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1 and err.startswith("swarmd: ")


def test_a_wrong_graph_file_names_the_place(tmp_path, capsys):
    for name, text, words in (
        (
            "a.toml",
            '[[tasks]]\nkey = "a"\nargs = ["x"]\n',
            "task 1 (a): there is no field args; did you mean argv?",
        ),
        ("b.json", '{"tasks": [{"argv": "x"}]}', 'task 1: argv needs a list: ["x"]'),
        ("e.json", '[{"argv": ["x"]}]', 'the top level is a list; write {"tasks": […]}'),
        (
            "f.toml",
            '[[tasks]]\nname = "n"\ndimensions = {gpu = "a100"}',
            'task 1 (n): dimensions.gpu needs a list: ["a100"]',
        ),
        ("g.toml", "[[tasks]]\n[[tasks]]\nretries = 2000\n", "task 2: retries: expected `int` <= 1000"),
        ("h.toml", "task = []\n", "there is no field task; did you mean tasks?"),
        (
            "i.json",
            '{"tasks": [{"array": {"first": 1, "last": "x"}}]}',
            "task 1: array.last: expected `int`, got `str`",
        ),
        ("c.toml", "[[tasks]\n", "line 1"),
        ("d.toml", "\xff", "utf-8"),
    ):
        (tmp_path / name).write_text(text, encoding="latin-1")
        assert main(["submit", "--file", str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert f"{name} is not a graph: " in err and words in err, err


def test_nobody_there(monkeypatch, capsys):
    monkeypatch.setenv("SWARMD_URL", "http://127.0.0.1:1")
    for line in (
        "tasks",
        "run -- x",
        "submit -- x",
        "wait 0123456789abc",
        "events -f",
        "backup /tmp/never.db",
    ):
        assert main(line.split()) == 3
        err = capsys.readouterr().err
        assert "connection refused; is `swarmd serve` running? Set SWARMD_URL or --server" in err
        assert err.count("\n") == 1
    assert not os.path.exists("/tmp/never.db")


@pytest.mark.parametrize(("status", "code"), [(401, 3), (403, 3), (404, 1), (409, 1), (500, 1)])
def test_refusals(fake, capsys, status, code):
    fake.table["GET", ONE] = problem(status, "some_code", "what it is\x1b[2J", "do this")
    assert main(["show", ID]) == code
    assert capsys.readouterr().err == "swarmd: what it is[2J; do this\n"


def test_the_token_comes_from_a_file(fake, capsys, tmp_path, monkeypatch):
    fake.table["GET", ONE] = Reply(details())
    token = tmp_path / "token"
    token.write_text("abc")
    token.chmod(0o644)
    monkeypatch.setenv("SWARMD_TOKEN_FILE", str(token))
    assert main(["show", ID]) == 2
    assert "chmod 600" in capsys.readouterr().err
    token.chmod(0o600)
    assert main(["show", ID]) == 0
    assert fake.seen[0].headers["authorization"] == "Bearer abc"


# ------------------------------------------------------------------ submitting


def test_submit_sends_what_the_options_say(fake, capsys, tmp_path):
    fake.table["POST", TASKS] = accept
    options = (
        "--name n --pool p -d os=linux -d gpu=a|b -d os=debian --priority -3 --hard-limit 90 --io-limit 5m "
        "--grace 2s --expiration 12h --retries 2 --bot-retries 3 --retry-wait 1m30s --after 0123456789abc:failed "
        "--after k --tag t --env A=b=c --cwd sub --output *.log --no-wait-for-capacity "
        "--parent 0123456789abc --sameness s --share join --request-id r --array 1-9:2"
    )
    assert main(["submit", *options.split(), "--", "echo", "--json", "ä b"]) == 0
    assert capsys.readouterr().out == "0000000000000\n"
    [seen] = fake.seen
    assert seen.json == {
        "request_id": "r",
        "tasks": [
            {
                "name": "n", "argv": ["echo", "--json", "ä b"], "cwd": "sub", "env": {"A": "b=c"}, "outputs": ["*.log"],
                "pool": "p", "dimensions": {"os": ["linux", "debian"], "gpu": ["a|b"]}, "priority": -3,
                "hard_limit_s": 90.0, "io_limit_s": 300.0, "grace_s": 2.0, "expiration_s": 43200.0,
                "wait_for_capacity": False, "retries": 2, "bot_retries": 3, "retry_wait_s": 90.0,
                "tags": ["t"], "parent": ID, "sameness": "s", "share": "join",
                "after": [{"on": ID, "condition": "failed"}, {"on": "k"}], "array": {"first": 1, "last": 9, "step": 2},
            }
        ],
    }  # fmt: skip


def test_submit_for_each_line_as_json(fake, capsys, monkeypatch, tmp_path):
    fake.table["POST", TASKS] = accept
    (tmp_path / "lines").write_text("one\n\ntwo\n")
    assert main(["submit", "--json", "--each-line", str(tmp_path / "lines"), "--", "echo"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"id": f"{n:013}", "state": "PENDING"} for n in (0, 1, 2)]
    assert fake.seen[0].json["tasks"][0]["lines"] == ["one", "", "two"]


def test_submit_uploads_only_what_is_missing(fake, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.write_bytes(b"here")
    there.write_bytes(b"there")
    here.chmod(0o755)
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (here, there)}
    fake.table["POST", "/api/v1/blobs/missing"] = Reply({"missing": [digests["here"]]})
    fake.table["PUT", f"/api/v1/blobs/{digests['here']}"] = Reply({"sha256": digests["here"], "size": 4}, 201)
    fake.table["POST", TASKS] = accept
    assert main(["submit", "--input", f"a/b={here}", "--input", f"c={there}", "--noop"]) == 0
    assert [seen.method for seen in fake.seen] == ["POST", "PUT", "POST"]
    assert fake.seen[2].json["tasks"][0]["inputs"] == [
        {"path": "a/b", "blob": digests["here"], "executable": True},
        {"path": "c", "blob": digests["there"]},
    ]
    assert main(["submit", "--input", f"a={tmp_path}/none", "--noop"]) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "g.toml",
            'name = "g"\nopen = true\n[[tasks]]\nkey = "a"\nargv = ["x"]\n[[tasks]]\nafter = ["a"]\nmarker = true\n',
        ),
        (
            "g.json",
            '{"name":"g","open":true,"tasks":[{"key":"a","argv":["x"]},{"after":["a"],"marker":true}]}',
        ),
    ],
)
def test_graph_files_of_both_forms_are_equal(fake, tmp_path, capsys, name, text):
    fake.table["POST", "/api/v1/graphs"] = Reply(
        {
            "id": "g" * 13,
            "ids": [ID, OTHER],
            "states": ["PENDING", "BLOCKED"],
            "warnings": ["no bot yet\x07"],
        },
        201,
    )
    (tmp_path / name).write_text(text)
    assert main(["submit", "--file", str(tmp_path / name), "--name", "mine", "--request-id", "r"]) == 0
    assert fake.seen[0].json == {
        "tasks": [{"key": "a", "argv": ["x"]}, {"marker": True, "after": ["a"]}],
        "name": "mine",
        "open": True,
        "request_id": "r",
    }
    out, err = capsys.readouterr()
    assert out == f"{ID}\n{OTHER}\n" and "graph ggggg" in err and "no bot yet\n" in err


@pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("TIMED_OUT", 1)])
def test_submit_and_wait(fake, state, code):
    fake.table["POST", TASKS] = accept
    fake.table["POST", f"{TASKS}/wait"] = Reply({"items": [info("0" * 13, state)], "pending": 0})
    assert main(["submit", "--wait", "--", "x"]) == code


# ------------------------------------------------------------------ run


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"exit_code": 0}, 0),
        ({"exit_code": 7, "ok": False}, 7),
        ({"exit_code": -9, "ok": False}, 137),
        ({"exit_code": None}, 0),
        ({"exit_code": None, "ok": False}, 125),
        ({"exit_code": 0, "ok": False}, 125),
        ({"state": "TIMED_OUT", "exit_code": -9}, 124),
        ({"state": "KILLED", "exit_code": -15}, 143),
        ({"state": "KILLED"}, 125),
        ({"state": "BOT_DIED", "exit_code": 1}, 125),
        ({"state": "NO_RESOURCE"}, 125),
    ],
)
def test_run_exits_as_the_command_did(fake, capsys, end, code):
    fake.table["POST", TASKS] = Reply({"ids": [ID], "states": ["PENDING"]}, 201)
    fake.table["GET", f"{ONE}/follow"] = sse(
        ("1", "output", {"stream": "stdout", "offset": 0, "data": "aGkK", "attempt": "a"}),
        ("2", "output", {"stream": "stderr", "offset": 0, "data": "b2gK", "attempt": "a"}),
        ("3", "end", {}),
    )
    fake.table["GET", ONE] = Reply(details(**end))
    assert main(["run", "--", "x"]) == code
    out, err = capsys.readouterr()
    assert out == "hi\n" and err.startswith("oh\n")
    assert (f"ended as {end.get('state', 'COMPLETED')}" in err) == (code in (124, 125) or "state" in end)


def start_run(url, *arguments):
    environment = {**os.environ, "SWARMD_URL": url}
    return subprocess.Popen(
        [sys.executable, "-m", "swarmd", "run", *arguments, "--", "x"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(condition):
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_ctrl_c_cancels_and_waits_and_the_second_one_leaves():
    fake = Fake({("POST", TASKS): Reply({"ids": [ID], "states": ["PENDING"]}, 201)})
    fake.table["GET", f"{ONE}/follow"] = Reply(hang=True)
    fake.table["POST", f"{TASKS}/cancel"] = Reply({"matched": 1, "changed": 1})
    with fake.in_thread() as url:
        process = start_run(url)
        until(lambda: fake.asked("GET", f"{ONE}/follow"))
        process.send_signal(signal.SIGINT)
        until(lambda: fake.asked("POST", f"{TASKS}/cancel"))
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out == ""
    assert "canceling; once more to leave at once" in err and "left" in err and "Traceback" not in err
    assert fake.asked("POST", f"{TASKS}/cancel")[0].json == {"filter": {"ids": [ID]}, "reason": "interrupted"}


def test_ctrl_c_ends_as_the_canceled_command_did():
    def follow(_seen):
        if fake.asked("POST", f"{TASKS}/cancel"):
            return sse(("2", "end", {}))
        return sse(("1", "state", {"state": "RUNNING"}))  # ends without an end: the client comes back

    fake = Fake(
        {("POST", TASKS): Reply({"ids": [ID], "states": ["PENDING"]}, 201), ("GET", f"{ONE}/follow"): follow}
    )
    fake.table["POST", f"{TASKS}/cancel"] = Reply({"matched": 1, "changed": 1})
    fake.table["GET", ONE] = Reply(details(state="KILLED", exit_code=-15, reason="canceled"))
    with fake.in_thread() as url:
        process = start_run(url)
        until(lambda: fake.asked("GET", f"{ONE}/follow"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 143 and f"task {ID} ended as KILLED: canceled" in err


# ------------------------------------------------------------------ reading


def test_tasks_as_table_and_as_json(fake, capsys):
    items = [
        info(name="evil\x1b[2J\nname", state="RUNNING", bot="b1"),
        info(OTHER, ok=False, exit_code=3, index=4, name="a"),
    ]
    fake.table["GET", TASKS] = Reply({"items": items, "next": None})
    assert main(["tasks", "--state", "running,PENDING", "--tag", "t", "--failed", "--limit", "7"]) == 0
    assert fake.seen[0].query == {"state": "RUNNING,PENDING", "tag": "t", "failed": "true", "limit": "7"}
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "STATE", "EXIT", "AGE", "TOOK", "BOT", "NAME"]
    assert "\x1b" not in first and first.endswith("b1   evil[2J name")
    assert second.split()[:3] == [OTHER, "FAILED", "3"] and second.endswith("a[4]")
    assert main(["tasks", "--json"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [ID, OTHER]


@pytest.mark.parametrize(
    ("line", "path", "sentence"),
    [
        ("tasks", TASKS, "no tasks yet; swarmd submit -- echo hello"),
        ("tasks --pool p", TASKS, "no task matches"),
        ("bots", "/api/v1/bots", "no bots yet; swarmd bot --server"),
        ("graphs", "/api/v1/graphs", "no graphs yet; swarmd submit --file graph.toml"),
        ("events", "/api/v1/events", "no events yet"),
    ],
)
def test_empty_lists_say_so(fake, capsys, line, path, sentence):
    fake.table["GET", path] = Reply({"items": [], "next": None})
    assert main(line.split()) == 0
    assert sentence in capsys.readouterr().out
    assert main([*line.split(), "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_show(fake, capsys):
    attempt = {
        "id": OTHER, "number": 1, "state": "ENDED", "bot": "b", "offered_at": "2026-01-02T03:04:05.678Z",
        "streams": {"stdout": 2000}, "dropped": {"stdout": 5}, "exit_code": 1, "reason": "exit code 1",
    }  # fmt: skip
    outputs = [{"path": "a\x1b.log", "blob": "0" * 64, "size": 12}]
    fake.table["GET", ONE] = Reply(
        details(attempts=[attempt], outputs=outputs, dimensions={"os": ["linux"]}, tags=["t"])
    )
    assert main(["show", ID]) == 0
    out = capsys.readouterr().out
    for words in (
        "command     echo hi",
        "os=linux",
        "2.0 KiB (5 B dropped)",
        "a.log",
        "hard 1h, grace 30s",
    ):
        assert words in out
    assert main(["show", "--json", ID]) == 0
    assert json.loads(capsys.readouterr().out)["attempts"][0]["id"] == OTHER


def output_of(texts):
    def answer(seen):
        at = int(seen.query.get("offset", 0))
        text = texts[seen.path.rsplit("/", 1)[1]]
        head = {
            "swarmd-offset": str(at),
            "swarmd-end": str(len(text)),
            "swarmd-final": "true",
            "swarmd-attempt": OTHER,
        }
        return Reply(text[at:], headers=head)

    return answer


def test_logs_pass_bytes_unchanged(fake, capfdbinary):
    texts = {"stdout": b"\x1b[31m\xff\x00\r\n", "stderr": b"oh"}
    for stream in texts:
        fake.table["GET", f"{ONE}/output/{stream}"] = output_of(texts)
    assert main(["logs", ID]) == 0
    assert capfdbinary.readouterr() == (texts["stdout"], b"oh")
    assert main(["logs", ID, "--stream", "stderr", "--attempt", OTHER, "-f"]) == 0
    assert capfdbinary.readouterr() == (b"", b"oh")
    assert fake.seen[-1].query == {"attempt": OTHER, "limit": str(1 << 20), "offset": "0", "wait_s": "30.0"}


def test_logs_follow(fake, capsys):
    fake.table["GET", f"{ONE}/follow"] = sse(
        ("1", "output", {"stream": "stdout", "offset": 0, "data": "aGk=", "attempt": "a"}),
        ("2", "output", {"stream": "stderr", "offset": 0, "data": "b2g=", "attempt": "a"}),
        ("3", "end", {}),
    )
    assert main(["logs", "-f", ID, "--stream", "stdout"]) == 0
    assert capsys.readouterr() == ("hi", "")
    assert main(["logs", "-f", ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {
        "stream": "stdout",
        "offset": 0,
        "data": "aGk=",
    }


def kept(path, data=b"data", executable=False):
    return {
        "path": path,
        "blob": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "executable": executable,
    }


def test_outputs_are_downloaded_whole_and_never_replaced(fake, capsys, tmp_path):
    file = kept("a/b.sh", executable=True)
    fake.table["GET", ONE] = Reply(details(outputs=[file]))
    fake.table["GET", f"/api/v1/blobs/{file['blob']}"] = Reply(b"data")
    target = tmp_path / "to"
    assert main(["outputs", ID, "--to", str(target)]) == 0
    assert (target / "a/b.sh").read_bytes() == b"data" and (target / "a/b.sh").stat().st_mode & 0o100
    assert "a/b.sh" in capsys.readouterr().out
    assert main(["outputs", ID, "--to", str(target)]) == 1
    assert "give --force" in capsys.readouterr().err
    fake.table["GET", f"/api/v1/blobs/{file['blob']}"] = Reply(b"evil")
    assert main(["outputs", ID, "--to", str(target), "--force"]) == 1
    assert (target / "a/b.sh").read_bytes() == b"data" and len(list((target / "a").iterdir())) == 1


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "a\0b", "link/x"])
def test_outputs_never_leave_the_folder(fake, capsys, tmp_path, path):
    (tmp_path / "to").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "to/link").symlink_to(tmp_path / "outside")
    file = kept(path)
    fake.table["GET", ONE] = Reply(details(outputs=[kept("fine"), file]))
    fake.table["GET", f"/api/v1/blobs/{file['blob']}"] = Reply(b"data")
    assert main(["outputs", ID, "--to", str(tmp_path / "to")]) == 1
    assert sorted(found.name for found in tmp_path.rglob("*") if found.name != "fine") == [
        "link",
        "outside",
        "to",
    ]


@pytest.mark.parametrize(
    ("arguments", "items", "code"),
    [
        ([ID, OTHER], [info(), info(OTHER)], 0),
        ([ID, OTHER], [info(), info(OTHER, "KILLED")], 1),
        ([ID, OTHER, "--timeout", "0"], [info()], 124),
        ([ID, OTHER, "--any"], [info()], 0),
        ([ID, OTHER, "--any"], [info(ok=False)], 1),
        ([ID, "--any", "--timeout", "0s"], [], 124),
    ],
)
def test_wait(fake, capsys, arguments, items, code):
    fake.table["POST", f"{TASKS}/wait"] = Reply({"items": items, "pending": 0})
    assert main(["wait", "--json", *arguments]) == code
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["id"], line["state"]) for line in lines] == [(item["id"], item["state"]) for item in items]


def test_wait_takes_ids_from_standard_input(fake, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{ID}\n{OTHER}\n"))
    fake.table["POST", f"{TASKS}/wait"] = Reply({"items": [info(), info(OTHER)], "pending": 0})
    assert main(["wait", "-"]) == 0
    assert fake.seen[0].json["ids"] == [ID, OTHER]


def test_wait_for_a_graph(fake, capsys):
    graph = {
        "id": "g",
        "name": "",
        "open": False,
        "owner": "",
        "created_at": "2026-01-02T03:04:05.678Z",
        "ok": None,
    }
    path = "/api/v1/graphs/g"
    fake.table["GET", path] = [
        Reply({**graph, "counts": {"RUNNING": 1}, "done": False}),
        Reply({**graph, "counts": {"COMPLETED": 1}, "done": True, "ok": True}),
    ]
    fake.table["GET", TASKS] = [Reply({"items": [info(state="RUNNING")]}), Reply({"items": [info()]})]
    fake.table["POST", f"{TASKS}/wait"] = Reply({"items": [info()], "pending": 0})
    assert main(["wait", "--graph", "g", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == ID
    assert fake.seen[1].query["state"] == "BLOCKED,PENDING,RUNNING"


def test_explain_and_events(fake, capsys):
    fake.table["GET", f"{ONE}/explain"] = Reply(
        {"id": ID, "state": "PENDING", "reason": "no_bot", "sentence": "no bot\nhas it"}
    )
    assert main(["explain", ID]) == 0
    assert capsys.readouterr().out == "PENDING: no bot has it\n"
    events = [
        {"id": str(n), "at": "T", "kind": "task.done", "op": ID, "detail": {"why": "\x1b]0;x\x07"}}
        for n in (2, 1)
    ]
    fake.table["GET", f"{ONE}/events"] = Reply({"items": events})
    assert main(["events", "--task", ID]) == 0
    assert capsys.readouterr().out == f"T  task.done  task={ID} why=]0;x\n" * 2
    assert main(["events", "--task", ID, "--json"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]


def test_events_follow_until_ctrl_c(fake, capsys):
    def stream(seen):
        os.kill(os.getpid(), signal.SIGINT)
        return Reply(hang=True)

    event = {"id": "1", "at": "T", "kind": "bot.dead", "bot": "b"}
    fake.table["GET", "/api/v1/events/stream"] = lambda seen: (
        stream(seen) if "last-event-id" in seen.headers else sse(("1", "event", event))
    )
    assert main(["events", "-f", "--after", "0"]) == 130
    assert capsys.readouterr() == ("T  bot.dead  bot=b\n", "\n")
    assert fake.seen[0].query == {"after": "0"} and fake.seen[1].headers["last-event-id"] == "1"


# ------------------------------------------------------------------ changing


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ([ID, "--reason", "r"], {"filter": {"ids": [ID]}, "reason": "r"}),
        (
            ["--tag", "t", "--state", "pending", "--no-kill"],
            {"filter": {"tag": "t", "states": ["PENDING"]}, "kill": False},
        ),
        (["--all", "--yes"], {"filter": {"states": ["BLOCKED", "PENDING", "RUNNING"]}}),
    ],
)
def test_cancel(fake, capsys, arguments, body):
    fake.table["POST", f"{TASKS}/cancel"] = Reply({"matched": 3, "changed": 2, "ids": [ID]})
    assert main(["cancel", *arguments]) == 0
    assert fake.seen[0].json == body
    assert capsys.readouterr().out == "canceled 2 tasks; 1 had ended or were being stopped already\n"


def test_retry(fake, capsys):
    fake.table["POST", f"{TASKS}/retry"] = Reply({"matched": 1, "changed": 1, "ids": [OTHER]})
    assert main(["retry", "--failed", "--graph", ID, "--request-id", "r"]) == 0
    assert fake.seen[0].json == {"filter": {"failed": True, "graph": ID}, "request_id": "r"}
    assert capsys.readouterr().out == f"{OTHER}\n"


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("drain bot1", {"drain": True}),
        ("drain bot1 --undo", {"drain": False}),
        ("quarantine bot1 broken", {"quarantine": "broken"}),
        ("quarantine bot1 --undo", {"quarantine": None}),
        ("restart bot1", {"order": "restart"}),
        ("restart bot1 --undo", {"order": None}),
        ("terminate bot1", {"order": "terminate"}),
    ],
)
def test_orders_to_bots(fake, capsys, line, body):
    fake.table["PATCH", "/api/v1/bots/bot1"] = Reply(bot_info())
    assert main(line.split()) == 0
    assert fake.seen[0].json == body
    assert "status      idle" in capsys.readouterr().out


def test_bots_and_deleting_one(fake, capsys):
    fake.table["GET", "/api/v1/bots"] = Reply({"items": [bot_info(), bot_info(id="b2", status="dead")]})
    fake.table["DELETE", "/api/v1/bots/b2"] = Reply({})
    assert main(["bots"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["STATUS", "idle", "dead"]
    assert main(["delete-bot", "b2"]) == 0
    assert capsys.readouterr().out == "forgot b2\n"


def test_graphs_and_closing_one(fake, capsys):
    graph = {
        "id": ID, "name": "g", "open": True, "owner": "", "created_at": "2026-01-02T03:04:05.678Z",
        "counts": {"COMPLETED": 2, "RUNNING": 0}, "done": False, "ok": None,
    }  # fmt: skip
    fake.table["GET", "/api/v1/graphs"] = Reply({"items": [graph]})
    fake.table["POST", f"/api/v1/graphs/{ID}/close"] = Reply(
        {**graph, "open": False, "done": True, "ok": True}
    )
    assert main(["graphs"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == [ID, "open", "2", "COMPLETED"]
    assert main(["close", ID]) == 0
    assert capsys.readouterr().out == f"{ID} is closed; ok: 2 COMPLETED\n"


def test_backup_is_whole_or_not_there(fake, capsys, tmp_path):
    data = b"SQLite format 3\0" + bytes(100_000)
    target = tmp_path / "copy.db"
    fake.table["POST", "/api/v1/backup"] = [Reply(b"not a database"), Reply(data)]
    assert main(["backup", str(target)]) == 1
    assert "not a database" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    assert main(["backup", str(target)]) == 0
    assert target.read_bytes() == data and target.stat().st_mode & 0o777 == 0o600
    assert main(["backup", str(target)]) == 1
    assert "is there already" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


def test_a_torn_backup_is_not_kept(fake, capsys, tmp_path):
    fake.table["POST", "/api/v1/backup"] = Reply(b"SQLite format 3\0", cut=True)
    assert main(["backup", str(tmp_path / "copy.db")]) == 3
    assert "in the middle of the answer" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(fake):
    fake.table["GET", TASKS] = Reply({"items": [info() for _ in range(1000)], "next": None})
    line = f"{sys.executable} -m swarmd tasks --limit 1000 --json | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20)
    assert done.stderr == "" and json.loads(done.stdout)["id"] == ID
