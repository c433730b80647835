"""The whole daemon inside a test, for authors of bots and clients. With pytest and pytest-trio installed:

    async def test_my_client(swarmd):
        id = await swarmd.submit("make", "test")

See docs/testing.md. What this package offers is imported when it is first used: importing it costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarmd.testing.bots import Fault, NativeBot
    from swarmd.testing.fake_runner import FakeRunner, Script
    from swarmd.testing.faults import FailpointReached
    from swarmd.testing.lab import Lab, LabError, open_lab
    from swarmd.testing.remote_bots import RemoteBot
    from swarmd.testing.swarming_bots import SwarmingBot, SwarmingTask

_HOMES = {
    "Fault": "bots",
    "NativeBot": "bots",
    "FakeRunner": "fake_runner",
    "Script": "fake_runner",
    "FailpointReached": "faults",
    "Lab": "lab",
    "LabError": "lab",
    "RemoteBot": "remote_bots",
    "SwarmingBot": "swarming_bots",
    "SwarmingTask": "swarming_bots",
    "open_lab": "lab",
}

__all__ = [
    "FailpointReached", "FakeRunner", "Fault", "Lab", "LabError", "NativeBot", "RemoteBot", "Script", "SwarmingBot",
    "SwarmingTask", "open_lab",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
