"""BuildGrid's own messages and stubs, as it publishes them, against the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from swarmd.api.remoteworkers.proto import bots_pb2, command_pb2, worker_pb2
from swarmd.core.model import Payload
from swarmd.offthread import in_thread
from swarmd.testing import Lab
from tests.interop.go_programs import CannotGet
from tests.interop.python_packages import package

pytest.importorskip("grpc", reason="needs grpcio, see the extra test")

ROOT = Path(__file__).parents[2]
BUILDGRID = ("buildgrid", "0.4.4")
ACTION = "type.googleapis.com/build.bazel.remote.execution.v2.Action"
CONFIG = {"remoteworkers": {"instances": {"builds": {"payloads": [ACTION]}}}}
NEWER = {"BotStatus": 2, "Worker": 1}  # values and fields of newer definitions, beyond BuildGrid's


@pytest.mark.swarmd(tcp=True, real_time=True, config=CONFIG)
async def test_a_bot_made_of_its_modules_runs_an_action(swarmd: Lab):
    try:
        folder = await in_thread(package, *BUILDGRID)
    except CannotGet as reason:
        pytest.skip(str(reason))
    id = await swarmd.submit(payload=Payload(ACTION, b"\x38\x01"))  # do_not_cache
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-m", "tests.interop.buildgrid_bot", urlsplit(swarmd.url).netloc], cwd=ROOT, check=False,
            env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}, capture_stdout=True, stderr=subprocess.STDOUT,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()
    told = json.loads(done.stdout.splitlines()[-1])
    shapes = told.pop("shapes")
    assert told.pop("name").startswith("builds/")
    assert told == {"version": "1", "lease": 2, "is_action": True, "do_not_cache": True, "left": 0}
    task = await swarmd.check_state(id, "COMPLETED")
    assert (task.ok, task.exit_code) == (False, 3)
    await swarmd.check_output(id, b"from an action\n")
    _check_shapes(shapes)


def _check_shapes(theirs: dict[str, list[list[object]]]) -> None:
    """Our messages have all that theirs have, under the same names and numbers."""
    seen = 0
    for module in (bots_pb2, worker_pb2, command_pb2):
        for name, message in module.DESCRIPTOR.message_types_by_name.items():
            seen += 1
            ours = [
                [f.number, f.name, f.type, (f.message_type or f.enum_type or f).full_name]
                for f in message.fields
            ]
            known = theirs[message.full_name]
            assert [field for field in known if field not in ours] == []
            assert len(ours) - len(known) == NEWER.get(name, 0), name
        for name, enum in module.DESCRIPTOR.enum_types_by_name.items():
            seen += 1
            known = theirs[enum.full_name]
            assert [value for value in known if value not in [[v.number, v.name] for v in enum.values]] == []
            assert len(enum.values) - len(known) == NEWER.get(name, 0), name
    assert seen == 18, seen
