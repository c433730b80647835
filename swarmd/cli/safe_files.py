"""Writing files whose names come from elsewhere: never outside the folder, never half."""

from __future__ import annotations

import os
import secrets
from types import TracebackType

import click

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_path(path: str) -> list[str]:
    """The parts of a relative path; raises `click.ClickException` for one that could lead out of its
    folder.
    """
    parts = path.split("/")
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise click.ClickException(f"the file {path!r} would lie outside the folder; nothing was written")
    return parts


class NewFile:
    """`with NewFile(folder, "a/b", …) as file: file.write(…); file.keep()`: appears whole, or not at all.

    Folders on the way are made; one that is a symbolic link is refused, so that no link leads out of
    `folder`. Raises `click.ClickException` when the file is there and `replace` is false.
    """

    def __init__(self, folder: str, path: str, executable: bool, replace: bool) -> None:
        self._shown = os.path.join(folder, path)
        self._replace = replace
        *parents, self._name = check_path(path)
        os.makedirs(folder, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for parent in parents:
                self._descend(parent)
            if not replace and self._exists():
                raise click.ClickException(f"{self._shown} is there already; give --force to replace it")
            self._temporary = f".{secrets.token_hex(8)}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            mode = 0o777 if executable else 0o666
            self._file = open(os.open(self._temporary, flags, mode, dir_fd=self._folder), "wb")  # noqa: SIM115
        except BaseException:
            os.close(self._folder)
            raise

    def _descend(self, parent: str) -> None:
        try:
            os.mkdir(parent, dir_fd=self._folder)
        except FileExistsError:
            pass
        try:
            inner = os.open(parent, FOLDER_FLAGS, dir_fd=self._folder)
        except OSError as error:
            raise click.ClickException(
                f"{self._shown}: {parent} is not a folder ({error.strerror})"
            ) from None
        os.close(self._folder)
        self._folder = inner

    def _exists(self) -> bool:
        try:
            os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def keep(self) -> None:
        """Gives the file its name; without this it is removed at the end of the `with`."""
        self._file.flush()
        try:
            os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except IsADirectoryError as error:
            raise click.ClickException(f"{self._shown} cannot be replaced: {error.strerror}") from None
        self._temporary = ""

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._temporary:
            os.unlink(self._temporary, dir_fd=self._folder)
        os.close(self._folder)
