"""Output on its way to the daemon, and an attempt that ends meanwhile."""

import random

import pytest
import trio

from swarmd.api.native.messages import OutputAnswer
from swarmd.bot.uploads import BULK_BYTES, PIECES_BYTES, Outputs

MUCH = bytes(range(256)) * (PIECES_BYTES // 128)


class KeepingWire:
    """Keeps what it gets, after a moment."""

    def __init__(self):
        self.kept = {}

    async def append_output(self, attempt, stream, offset, data):
        await trio.sleep(1)
        kept = self.kept.setdefault((attempt, stream), bytearray())
        assert len(kept) == offset, "a piece was lost or came twice"
        kept += data
        return OutputAnswer(end=len(kept), limit=1 << 40)


@pytest.fixture
async def printed(tmp_path, nursery, autojump_clock):
    """An attempt `a` that has printed too much for requests, and the wire that it goes over."""
    wire = KeepingWire()
    grown = trio.Event()
    outputs = Outputs(wire, random.Random(1), 1 << 40, grown.set)
    nursery.start_soon(outputs.run)
    await trio.testing.wait_all_tasks_blocked()
    (tmp_path / "stdout").write_bytes(MUCH)
    outputs.begin("a", tmp_path)
    await grown.wait()
    return outputs, wire


async def test_a_command_that_ends_as_its_output_starts_to_go_as_raw_bytes(printed):
    outputs, wire = printed
    assert outputs.pieces(PIECES_BYTES) == []
    tail, sentences = await outputs.end("a")
    assert bytes(wire.kept["a", "stdout"]) + b"".join(piece.data for piece in tail) == MUCH
    assert sentences == []


async def test_a_command_that_nobody_wants_as_its_output_starts_to_go_as_raw_bytes(printed):
    outputs, wire = printed
    assert outputs.pieces(PIECES_BYTES) == []
    outputs.forget("a")
    await trio.testing.wait_all_tasks_blocked()
    assert wire.kept == {} and not outputs.has_news


async def test_what_is_forgotten_ends_with_the_call_under_way(printed, tmp_path):
    outputs, wire = printed
    with open(tmp_path / "stdout", "ab") as file:
        file.write(bytes(2 * BULK_BYTES))
    assert outputs.pieces(PIECES_BYTES) == []
    await trio.testing.wait_all_tasks_blocked()
    outputs.forget("a")
    await trio.sleep(60)
    assert len(wire.kept["a", "stdout"]) == BULK_BYTES
