"""Output of tasks on our own standard output and standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from swarmd.cli.table import print_json
from swarmd.cli.text import TerminalFilter

if TYPE_CHECKING:
    from swarmd.client import Client

STREAMS = ("stdout", "stderr")


class OutputWriter:
    """Writes bytes unchanged to a file or pipe; to a terminal, what could control it is neutralised."""

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._filters = {name: TerminalFilter() for name in STREAMS if getattr(sys, name).isatty()}

    def write(self, stream: str, offset: int, data: bytes) -> None:
        """Writes a piece of `stream` and flushes it."""
        if self._as_json:
            print_json({"stream": stream, "offset": offset, "data": data})
            sys.stdout.flush()
            return
        target = sys.stderr if stream == "stderr" else sys.stdout
        if stream in self._filters:
            target.write(self._filters[stream].feed(data))
        else:
            target.buffer.write(data)
        target.flush()

    def close(self) -> None:
        """Writes what was held back, and ends a colour that was left on."""
        for stream, filter in self._filters.items():
            target = sys.stderr if stream == "stderr" else sys.stdout
            target.write(filter.feed(b"", final=True))
            target.flush()


async def copy_live(
    client: Client, id: str, writer: OutputWriter, streams: tuple[str, ...] = STREAMS
) -> None:
    """Copies the output of `id` as it comes, of all its attempts, until the task has ended."""
    from swarmd.client import OutputEvent

    async with client.follow(id) as events:
        async for event in events:
            if isinstance(event, OutputEvent) and event.stream in streams:
                writer.write(event.stream, event.offset, event.data)
    writer.close()


async def copy_stream(
    client: Client, id: str, writer: OutputWriter, stream: str, attempt: str = "", follow: bool = False
) -> None:
    """Copies one stream of one attempt (by default the newest) from its start."""
    offset = 0
    async for data in client.output(id, stream, attempt=attempt, follow=follow):
        writer.write(stream, offset, data)
        offset += len(data)
