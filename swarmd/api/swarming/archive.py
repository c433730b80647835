"""A Swarming bot as the operator gave it, a folder or a zip, and the zips that are made of it.

They differ in one file, which names the daemon. All the rest is read, packed and hashed once, so one more costs
milliseconds. Source: protocol reference, "Bot code, bootstrap, self-update".
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from swarmd.config import ConfigError

MAX_FILES = 5_000  # and as many folders
MAX_CODE_BYTES = 64 << 20
CONFIG = "config/config.json"
MAIN = "__main__.py"
LEFT_OUT = ("__pycache__", ".git")
DAY_ONE = (1980, 1, 1, 0, 0, 0)  # of all members: times are no part of a version
REMEDY = "give a folder or zip with a Swarming bot"
# What a damaged or strange zip ends in.
UNREADABLE = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
)


class Archive:
    """All files of a bot but `config/config.json`. Raises `ConfigError` for what is no bot."""

    def __init__(self, path: Path) -> None:
        files = read_code(path)
        names = sorted(files)
        self._hashed = hashlib.sha256()  # what is sorted before CONFIG
        for name in names:
            if name < CONFIG:
                self._hashed.update(_hash_form(name, files[name]))
        self._rest = b"".join(_hash_form(name, files[name]) for name in names if name > CONFIG)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(_member(name), files[name])
        self._packed = packed.getvalue()

    def version(self, config: bytes) -> str:
        """The version of the bot with this CONFIG, as it computes it itself: a digest of names and contents, sorted."""
        digest = self._hashed.copy()
        digest.update(_hash_form(CONFIG, config))
        digest.update(self._rest)
        return digest.hexdigest()

    def packed(self, config: bytes) -> bytes:
        """The bot with this CONFIG, as a zip that Python can execute."""
        target = io.BytesIO(self._packed)
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr(_member(CONFIG), config)
        return target.getvalue()


def _hash_form(name: str, content: bytes) -> bytes:
    return b"%d%b%d%b" % (len(name), name.encode("ascii"), len(content), content)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, DAY_ONE)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    return member


# ------------------------------------------------------------------ reading


def read_code(path: Path) -> dict[str, bytes]:
    """The files of a bot, by their names in the zip. Raises `ConfigError`."""
    files: dict[str, bytes] = {}
    size = 0
    try:
        for name, content in _of_zip(path) if path.is_file() else _of_folder(path):
            if not name.isascii():  # the bot counts characters in its version, others bytes
                raise ConfigError(
                    f"the bot code {path} has a file {name!r}", "give files with ASCII names only"
                )
            files[name] = content
            size += len(content)
            if len(files) > MAX_FILES or size > MAX_CODE_BYTES:
                raise _too_much(path)
    except UNREADABLE as error:
        raise ConfigError(f"cannot read the bot code {path}: {error}", REMEDY) from None
    if MAIN not in files:
        raise _no_bot(path)
    files.pop(CONFIG, None)
    return files


def _of_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_CODE_BYTES:
            raise _too_much(path)
        for member in members:
            yield member.filename, archive.read(member)  # at most as many bytes as `file_size` says


def _of_folder(root: Path) -> Iterator[tuple[str, bytes]]:
    """Links are followed, as a checkout has some; what is neither file nor folder raises `ConfigError`."""
    if not (root / MAIN).is_file():  # before all of a wrong folder is read
        raise _no_bot(root) if root.is_dir() else FileNotFoundError(f"{root} does not exist")
    folders: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]  # and the inodes of those around it
    seen = 0
    while folders:
        inside, around = folders.pop()
        here = os.stat(root / inside)
        if (here.st_dev, here.st_ino) in around:
            raise ConfigError(f"the bot code {root} has a link {inside!r} to a folder around it", REMEDY)
        seen += 1
        if seen > MAX_FILES:
            raise _too_much(root)
        for name in os.listdir(root / inside):
            if name in LEFT_OUT or name.endswith(".pyc"):
                continue
            path, mode = f"{inside}/{name}" if inside else name, os.stat(root / inside / name).st_mode
            if stat.S_ISDIR(mode):
                folders.append((path, (*around, (here.st_dev, here.st_ino))))
            elif stat.S_ISREG(mode):
                yield path, _content(root, path)
            else:
                raise ConfigError(f"the bot code {root} has {path!r}, which is no file or folder", REMEDY)


def _content(root: Path, name: str) -> bytes:
    with (root / name).open("rb") as file:
        content = file.read(MAX_CODE_BYTES + 1)
    if len(content) > MAX_CODE_BYTES:
        raise _too_much(root)
    return content


def _too_much(path: Path) -> ConfigError:
    return ConfigError(
        f"the bot code {path} has more than {MAX_FILES} files or {MAX_CODE_BYTES >> 20} MiB",
        "give the bot's own files only",
    )


def _no_bot(path: Path) -> ConfigError:
    return ConfigError(
        f"the bot code {path} has no {MAIN}", "give the folder whose files are the root of the bot's zip"
    )
