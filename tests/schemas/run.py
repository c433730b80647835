"""schemathesis against a daemon that lives: what the OpenAPI file says is what the daemon does.

Every request that the file allows is sent in many forms, alone and in sequences that feed ids of answers into
later requests; so are many that it does not allow. No answer may be a server error, have a status, a content
type, a header or a form that the file does not name, take what the file forbids, or refuse what it allows.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import trio

from swarmd.api.native.routes import ROUTES
from swarmd.client import open_client
from swarmd.store.check import check_file

from .life import Ids, keep_alive, stage

ROOT = Path(__file__).parents[2]
READY_S = 30.0
END_S = 60.0  # for schemathesis beyond its own limit, and for the daemon

# Where ids go: a parameter, or a place in a body.
PLACES = {
    "path.id": "task", "path.bot": "bot", "path.session": "session", "path.attempt": "attempt",
    "path.sha256": "digest", "query.graph": "graph", "query.attempt": "attempt", "query.bot": "bot",
    "query.cursor": "task", "query.after": "task", "body.ids[*]": "task", "body.filter.ids[*]": "task",
    "body.filter.graph": "graph", "body.filter.bot": "bot", "body.tasks[*].parent": "task",
    "body.tasks[*].after[*]": "task", "body.after[*]": "task", "body.keeps[*]": "attempt",
    "body.running[*]": "attempt", "body.queued[*]": "attempt", "body.finished[*].attempt": "attempt",
    "body.output[*].attempt": "attempt", "body.digests[*]": "digest",
}  # fmt: skip
FRESH = "fresh.json"  # as in hooks.py
GRAPH_OPERATIONS = ["get_graph", "add_to_graph", "close_graph"]  # where `id` is a graph's

CONFIG = """\
max-time = {seconds}
seed = {seed}
request-timeout = 20
continue-on-failure = true
hooks = "tests.schemas.hooks"
warnings = false

[generation]
database = "none"

[output.sanitization]
enabled = false  # a fault must be repeatable; there is no secret

[reports.junit]
path = "faults.xml"

[reports.json]
path = "counts.json"

[[operations]]  # streams that do not end: what came in half a second is looked at
include-operation-id = ["stream_events", "follow_output"]
request-timeout = 0.5
max-stream-events = 5

[[operations]]  # each answer is the whole file
include-operation-id = "backup"
generation.max-examples = 5
"""


@dataclass
class Report:
    """What one run did and found. A fault names the check, the operation and the curl line."""

    seed: int
    seconds: float = 0.0
    calls: int = 0
    operations: int = 0
    taken: list[str] = field(default_factory=list)  # operations that were done at least once
    answers: dict[str, int] = field(default_factory=dict)  # by status
    faults: list[str] = field(default_factory=list)


def run_schemas(folder: Path, *, seconds: float, seed: int) -> Report:
    """Runs for about `seconds` in `folder`, with a daemon and a schemathesis of its own, and ends both."""
    report, started = Report(seed), time.monotonic()
    daemon, url = _serve(folder)
    try:
        trio.run(_drive, folder, url, seconds, seed)
    finally:
        report.faults += _end(daemon, folder)
    _read(folder, report)
    report.faults += [f"swarmd check: {f.name}: {f.sentence}" for f in check_file(folder / "swarmd.db")]
    report.seconds = round(time.monotonic() - started, 1)
    return report


async def _drive(folder: Path, url: str, seconds: float, seed: int) -> None:
    async with open_client(url, patience_s=5.0) as client:
        (folder / "openapi.json").write_bytes(msgspec.json.encode(await client.openapi()))
        (folder / "schemathesis.toml").write_text(_config(await stage(client), seconds, seed))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive, client, folder / FRESH)
            with trio.move_on_after(seconds + END_S), open(folder / "schemathesis.log", "wb") as log:
                await trio.run_process(
                    [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url,
                     "--checks", "all", "--no-color"],
                    cwd=folder, env=_environment(), stdout=log, stderr=log, check=False,
                )  # fmt: skip
            nursery.cancel_scope.cancel()


def _config(ids: Ids, seconds: float, seed: int) -> str:
    """The file for schemathesis: `CONFIG`, and at half of the places that want an id a real one."""
    lines = [CONFIG.format(seconds=max(1, int(seconds)), seed=seed)]
    for kind, values in ids.items():
        lines.append(f"[dictionaries.{kind}s]\nvalues = {json.dumps(values)}\n")
    lines.append("[parameters]")
    lines += [
        f'"{place}" = {{ dictionary = "{kind}s", probability = 0.5 }}' for place, kind in PLACES.items()
    ]
    lines.append(f"\n[[operations]]\ninclude-operation-id = {json.dumps(GRAPH_OPERATIONS)}")
    lines.append('parameters = { "path.id" = { dictionary = "graphs", probability = 0.5 } }')
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------- the daemon


def _serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A daemon that keeps sessions for an hour, so that bots which only stand there are not taken for dead."""
    (folder / "swarmd.toml").write_text('durability = "process"\nsession_deadline_s = 3600\n')
    with open(folder / "daemon.log", "wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "swarmd", "serve", "--db", str(folder / "swarmd.db"), "--listen", "127.0.0.1:0",
             "--config", str(folder / "swarmd.toml"), "--log-level", "error"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment(),
        )  # fmt: skip
    assert daemon.stdout is not None
    line = daemon.stdout.readline()
    if not line.startswith("swarmd ready"):
        daemon.kill()
        raise RuntimeError(f"the daemon did not start: {(folder / 'daemon.log').read_text()[-2000:]}")
    return daemon, line.removeprefix("swarmd ready ").strip()


def _end(daemon: subprocess.Popen[str], folder: Path) -> list[str]:
    """Stops the daemon. What is wrong with how it ended, or what it has logged."""
    faults = []
    if daemon.poll() is not None:
        faults.append(f"the daemon ended by itself with {daemon.returncode}")
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        faults.append(f"the daemon did not stop within {END_S:g} s")
        daemon.kill()
        daemon.communicate()
    if daemon.returncode:
        faults.append(f"the daemon's exit code is {daemon.returncode}")
    logged = (folder / "daemon.log").read_text(errors="replace")
    return faults + ([f"the daemon logged errors: {logged[:2000]}"] if logged else [])


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SWARMD_", "SCHEMATHESIS_"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


# --------------------------------------------------------------------- what was found


def _read(folder: Path, report: Report) -> None:
    """Fills `report` from what schemathesis has written."""
    log = (folder / "schemathesis.log").read_text(errors="replace")
    counts, found = folder / "counts.json", folder / "faults.xml"
    if not counts.exists() or not found.exists():
        report.faults.append(f"schemathesis did not end well: {log[-2000:]}")
        return
    told = json.loads(counts.read_text())
    report.calls = told["test_cases"]["generated"]
    report.operations = told["operations"]["tested"]
    for name, count in json.loads((folder / "answers.json").read_text()).items():
        operation, status = name.split()
        report.answers[status] = report.answers.get(status, 0) + count
        if status.startswith("2") and operation not in report.taken:
            report.taken.append(operation)
    for case in ElementTree.parse(found).iter("testcase"):
        for kind in ("failure", "error"):
            for entry in case.iter(kind):
                for part in re.split(
                    r"\n(?=\d+\. Test Case ID)", (entry.text or entry.get("message") or "").strip()
                ):
                    report.faults.append(f"{case.get('name')}: {part.strip()}")
    if told["exit_code"] and not report.faults:
        report.faults.append(f"schemathesis ended with {told['exit_code']}: {log[-2000:]}")
    left_out = len(ROUTES) - report.operations
    if left_out:
        report.faults.append(f"{left_out} of {len(ROUTES)} operations were not tried")
