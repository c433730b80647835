"""Progress on a terminal, for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOW_AFTER_S = 1.0


class Bar:
    """`with Bar("uploading", in_bytes=True) as bar: bar.update(done, total)`: a bar on standard error.

    Shown only on a terminal and only once a second has passed. `total` 0: not known.
    """

    def __init__(self, about: str, in_bytes: bool = False) -> None:
        self._about = about
        self._in_bytes = in_bytes
        self._started_at = time.monotonic()
        self.is_wanted = sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, total: int = 0) -> None:
        """Tells how far it is; returns at once."""
        if not self.is_wanted or (
            self._progress is None and time.monotonic() - self._started_at < SHOW_AFTER_S
        ):
            return
        if self._progress is None:
            self._progress, self._task = self._start()
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total or None)

    def _start(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )

        columns = [TextColumn("{task.description}"), BarColumn()]
        columns += [DownloadColumn(), TransferSpeedColumn()] if self._in_bytes else [MofNCompleteColumn()]
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        progress.start()
        return progress, progress.add_task(self._about, total=None)
