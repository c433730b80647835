"""`swarming trigger`: what is asked for is kept as it was said, and run; what cannot be is refused at once."""

from __future__ import annotations

import base64

import pytest

from swarmd.testing import SwarmingBot
from tests.interop.cli import Cli
from tests.interop.real_lab import WAITING, RealLab

BENCH, POOL = {"key": "bench", "value": "idle"}, {"key": "pool", "value": "default"}
# What tasks are tagged with unless they say otherwise.
USUAL_TAGS = [
    "authenticated:anonymous:anonymous", "pool:default", "priority:200", "realm:default:default",
    "service_account:none", "swarming.pool.task_template:none", "swarming.pool.version:1",
]  # fmt: skip


async def test_a_task_of_few_words(cli: Cli):
    made = await cli.trigger(*WAITING, "--", "make", "test")
    properties = {
        "command": ["make", "test"], "dimensions": [BENCH, POOL],
        "execution_timeout_secs": 3600, "grace_period_secs": 30, "io_timeout_secs": 1200,
        "containment": {"containment_type": "NONE"},
    }  # fmt: skip
    assert made["request"] == {
        "task_id": made["task_id"], "expiration_secs": 21600, "name": "alice/bench=idle_pool=default", "priority": 200,
        "properties": properties, "task_slices": [{"properties": properties, "expiration_secs": 21600}],
        "tags": sorted([*USUAL_TAGS, "bench:idle", "user:alice"]),
        "created_ts": made["task_result"]["created_ts"], "user": "alice", "service_account": "none",
        "authenticated": "anonymous:anonymous", "realm": "default:default", "resultdb": {},
        "bot_ping_tolerance_secs": 1200,
    }  # fmt: skip
    assert made["task_result"]["state"] == "PENDING"
    assert (await cli("request-show", made["task_id"])).json == made["request"]


async def test_every_flag_is_in_the_request(cli: Cli):
    (cli.folder / "secret").write_bytes(b"\0not for readers")
    made = await cli.trigger(
        *WAITING, "-d", "os=Linux|Mac",
        "-optional-dimension", "rack=7:40", "-expiration", "300", "-env", "B=2", "-env", "A=1=1",
        "-env-prefix", "PATH=bin", "-env-prefix", "PATH=tools/bin", "-named-cache", "git=cache/git",
        "-relative-cwd", "src/app", "-idempotent", "-hard-timeout", "120", "-io-timeout", "60", "-grace-period", "5",
        "-secret-bytes-path", "secret", "-containment-type", "auto", "-realm", "lab:try",
        "-service-account", "builder@lab.example", "-priority", "30", "-user", "bob", "-task-name", "build it",
        "-tag", "purpose:smoke", "-tag", "url:http://x/?a=b", "--", "make", "a b", "$HOME", "",
    )  # fmt: skip
    request = made["request"]
    base = {
        "idempotent": True, "relative_cwd": "src/app", "command": ["make", "a b", "$HOME", ""],
        "dimensions": [BENCH, {"key": "os", "value": "Linux|Mac"}, POOL],
        "env": [{"key": "A", "value": "1=1"}, {"key": "B", "value": "2"}],
        "env_prefixes": [{"key": "PATH", "value": ["bin", "tools/bin"]}],
        "caches": [{"name": "git", "path": "cache/git"}], "execution_timeout_secs": 120, "io_timeout_secs": 60,
        "grace_period_secs": 5, "containment": {"containment_type": "AUTO"},
        "secret_bytes": base64.b64encode(b"<REDACTED>").decode(),
    }  # fmt: skip
    first = {**base, "dimensions": [*base["dimensions"], {"key": "rack", "value": "7"}]}
    assert request["task_slices"] == [
        {"properties": first, "expiration_secs": 40}, {"properties": base, "expiration_secs": 260},
    ]  # fmt: skip
    assert request["properties"] == first and request["expiration_secs"] == 300
    assert {name: request[name] for name in ("name", "priority", "user", "realm", "service_account")} == {
        "name": "build it", "priority": 30, "user": "bob", "realm": "lab:try",
        "service_account": "builder@lab.example",
    }  # fmt: skip
    assert {"purpose:smoke", "url:http://x/?a=b", "os:Linux", "os:Mac", "rack:7", "user:bob"} <= set(
        request["tags"]
    )
    assert (await cli("request-show", made["task_id"])).json == request


async def test_the_bundled_bot_runs_it_as_it_was_said(cli: Cli, lab: RealLab):
    made = await cli.trigger(
        "-env", "GREETING=hello  there", "-relative-cwd", "deep/down", "-d", "id=b1", "--", "/bin/sh", "-c",
        'printf "%s|" "$@" "$GREETING" "${PWD##*/work/}" "$SWARMD_BOT_ID"; exit 7', "sh", "a b", "$HOME", "*", "",
    )  # fmt: skip
    await lab.ended(made["task_id"])
    [one] = (await cli.collect("-task-output-stdout", "json", made["task_id"])).values()
    words = one["output"].split("|")
    assert words[:5] == ["a b", "$HOME", "*", "", "hello  there"] and words[5].endswith("deep/down")
    assert words[6:] == ["b1", ""]
    result = one["results"]
    assert (result["state"], result["exit_code"], result["failure"], result["bot_id"]) == (
        "COMPLETED",
        "7",
        True,
        "b1",
    )


async def test_a_swarming_bot_runs_it_as_it_was_said(cli: Cli, lab: RealLab):
    """With all that only such a bot can do."""
    (cli.folder / "secret").write_bytes(b"\0hidden")
    made = await cli.trigger(
        "-env", "A=1", "-env-prefix", "PATH=bin", "-named-cache", "git=cache/git", "-relative-cwd", "src",
        "-secret-bytes-path", "secret", "-containment-type", "job_object", "-realm", "lab:try",
        "-hard-timeout", "120", "-io-timeout", "60", "-grace-period", "5", "--", "make", "test",
    )  # fmt: skip
    bot = SwarmingBot(lab.url, "s1", dimensions={"bench": ["real"]})
    await bot.handshake()
    task = await bot.take()
    assert task is not None and task.id == made["task_id"][:-1] + "1"
    manifest = task.manifest
    assert (manifest["command"], manifest["env"]["A"], manifest["relative_cwd"]) == (
        ["make", "test"],
        "1",
        "src",
    )
    assert manifest["env_prefixes"] == {"PATH": ["bin"]}
    assert [(c["name"], c["path"]) for c in manifest["caches"]] == [("git", "cache/git")]
    assert base64.b64decode(manifest["secret_bytes"]) == b"\0hidden"
    assert manifest["containment"]["containment_type"] == "JOB_OBJECT"
    assert [manifest[name] for name in ("hard_timeout", "io_timeout", "grace_period")] == [120, 60, 5]
    await task.start()
    await task.write(b"built\n")
    await task.end(3)
    await bot.event("bot_shutdown")
    summary = await cli.collect("-task-output-stdout", "json", "-perf", made["task_id"])
    one = summary[made["task_id"]]
    assert one["output"] == "built\n"
    assert {name: one["results"][name] for name in ("state", "exit_code", "bot_id", "run_id")} == {
        "state": "COMPLETED", "exit_code": "3", "bot_id": "s1", "run_id": task.id,
    }  # fmt: skip
    assert one["results"]["performance_stats"]["bot_overhead"] == 0.5
    assert one["results"]["costs_usd"][0] > 0


async def test_an_idempotent_task_is_answered_by_an_earlier_one(cli: Cli, lab: RealLab):
    words = ("-idempotent", "-env", "ROUND=1", "--", "/bin/sh", "-c", "echo $ROUND")
    first = await cli.trigger(*words)
    await lab.ended(first["task_id"])
    again = await cli.trigger("-user", "bob", "-task-name", "again", *words)
    assert again["task_id"] != first["task_id"]
    result = again["task_result"]
    assert (result["state"], result["deduped_from"]) == ("COMPLETED", first["task_id"][:-1] + "1")
    [one] = (await cli.collect("-task-output-stdout", "json", again["task_id"])).values()
    assert one["output"] == "1\n" and one["results"]["name"] == "again"
    other = await cli.trigger("-idempotent", "-env", "ROUND=2", "--", "/bin/sh", "-c", "echo $ROUND")
    assert other["task_result"]["state"] == "PENDING"


# ------------------------------------------------------------------ what is refused

ROOT = "a" * 64 + "/12"
LAB_CAS = ("-cas-instance", "projects/lab/instances/default_instance")
REFUSED = {
    "files of CAS": (
        ("-digest", ROOT, *LAB_CAS), "FailedPrecondition desc = task_slices[0].properties.cas_input_root: "
        "there is no CAS here; let the command fetch its files, or submit with 'swarmd run --input'",
    ),
    "packages": (
        ("-cipd-package", ".:infra/x=latest"), "FailedPrecondition desc = task_slices[0].properties.cipd_input: "
        "bots install no CIPD packages here; leave them out, or let the operator set [swarming] cipd = true",
    ),
    "a package without a folder": (
        ("-cipd-package", "infra/x=latest"), "cipd_input.packages[0].path: it is missing; give a folder, or '.' for "
        "the task's own",
    ),
    "ResultDB": (
        ("-enable-resultdb", "-realm", "lab:try"), "FailedPrecondition desc = resultdb.enable: "
        "there is no ResultDB here; leave it out (flag -enable-resultdb)",
    ),
    "outputs and a cache": (
        ("-output", "log", "-named-cache", "git=git"), "FailedPrecondition desc = task_slices[0].properties.outputs: "
        "Swarming bots cannot keep files without CAS, and only they know caches; leave out one of both",
    ),
    "a priority of 0": (("-priority", "0"), "priority: it is 0; give 1 to 255"),
    "a priority of 256": (("-priority", "256"), "priority: it is 256; give 1 to 255"),
    "a tag without a key": (("-tag", "smoke"), "tags[0]: it is 'smoke'; write KEY:VALUE"),
    "a tag of the server": (("-tag", "swarming.terminate:1"), "call TerminateBot"),
    "a short limit": (("-hard-timeout", "29"), "execution_timeout_secs: it is 29; give 30 to 601140"),
    "no limit": (("-hard-timeout", "0"), "execution_timeout_secs: it is 0; give 30 to 601140"),
    "a short silence": (("-io-timeout", "29"), "io_timeout_secs: it is 29; give 30 to 601140, or 0 for none"),
    "a long grace": (("-grace-period", "3601"), "grace_period_secs: it is 3601; give 0 to 3600"),
    "a short patience": (("-expiration", "29"), "expiration_secs: it is 29; give 30 to 604800"),
    "a hasty slice": (("-optional-dimension", "rack=7:29"), "task_slices[0].expiration_secs: it is 29"),
    "a folder above": (("-relative-cwd", "../x"), "relative_cwd: '../x' has a '..'; stay inside the task's folder"),
    "an absolute folder": (("-relative-cwd", "/x"), "relative_cwd: '/x' is absolute; give it relative"),
    "an absolute output": (("-output", "/x"), "outputs[0]: '/x' is absolute; give it relative"),
    "a variable": (("-env", "1A=b"), "env: '1A' cannot be the name of a variable; use letters, digits and '_'"),
    "a prefix": (("-env-prefix", "PATH=/bin"), "env_prefixes: '/bin' is absolute; give it relative"),
    "a cache": (("-named-cache", "A b=c"), "caches[0].name: it is 'A b'; use a-z, 0-9 and '_'"),
    "a realm": (("-realm", "try"), "realm: it is 'try'; write it as PROJECT:REALM, or leave it out"),
    "an account": (("-service-account", "a b"), "service_account: 'a b' is no account; give none, bot, or a name"),
    "a dimension": (("-d", "os="), "'' cannot be a value of dimension os; give 1 to 256 printable characters"),
    "a dimension twice": (("-d", "os=Linux|Linux"), "os has an alternative twice in 'Linux|Linux'; leave one out"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_is_refused_at_once(cli: Cli, case: str):
    flags, sentence = REFUSED[case]
    told = await cli.refused("trigger", "-d", "pool=default", *flags, "--", "make")
    assert sentence in told


async def test_a_task_without_a_pool_is_refused_at_once(cli: Cli):
    told = await cli.refused("trigger", "-d", "os=Linux", "--", "make")
    assert "dimensions: pool is missing; give dimension pool exactly once, with one value" in told
