"""Inputs into the work folder and outputs out of it, whatever links a command leaves there.

Every path is walked from an open folder, one component at a time, without following links blindly; a link
that stays inside is followed by its text. What is no regular file is reported and never opened for reading.
"""

import errno
import hashlib
import os
import re
import stat as stat_bits
from collections.abc import Iterable, Iterator

import msgspec

MAX_OUTPUT_FILES = 10_000  # of one attempt
MAX_ENTRIES = 200_000  # looked at for one attempt
MAX_PROBLEMS = 100  # sentences; more say nothing new
MAX_PATH = 4096  # bytes, as PATH_MAX
MAX_NAME = 255  # bytes, as NAME_MAX
MAX_LINKS = 40  # followed in one path, as in the kernel
HASH_CHUNK = 1 << 20

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat_bits.S_IFIFO: "a FIFO",
    stat_bits.S_IFSOCK: "a socket",
    stat_bits.S_IFCHR: "a device",
    stat_bits.S_IFBLK: "a device",
    stat_bits.S_IFDIR: "a folder",
}


class OutsideError(Exception):
    """A path leads out of the work folder."""


class Output(msgspec.Struct, frozen=True):
    """A regular file to keep; `path` is relative to the work folder."""

    path: str
    size: int
    executable: bool


class Collected(msgspec.Struct):
    """Files, sorted by path, and a sentence for each thing that was asked for and is not among them."""

    files: list[Output]
    problems: list[str]


def clean_path(text: str) -> tuple[str, ...]:
    """The components of a relative path, without "." and empty ones. Raises `ValueError` with a sentence."""
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise ValueError(f"path {text[:80]!r} is not valid Unicode; rename the file") from None
    if text.startswith("/"):
        why = "is absolute; give it relative to the work folder"
    elif not parts:
        why = "names no file"
    elif ".." in parts:
        why = "has a '..'; it must stay in the work folder"
    elif "\0" in text:
        why = "has a NUL character"
    elif sum(sizes) + len(sizes) > MAX_PATH or max(sizes) > MAX_NAME:
        why = f"is too long; at most {MAX_PATH} bytes, {MAX_NAME} in one name"
    else:
        return parts
    raise ValueError(f"path {text[:80]!r} {why}")


def create_input(root: int, path: str, *, executable: bool = False, replace: bool = False) -> int:
    """Opens a new file below the open folder `root` for writing, with mode 0644 or 0755; makes its folders.

    With `replace` a regular file that is there is emptied and keeps its mode; its owner must be allowed to write it.
    Raises `ValueError` for a bad path, one that is taken, or one that leads through a link or file.
    """
    *folders, name = clean_path(path)
    parent = os.dup(root)
    try:
        for folder in folders:
            try:
                os.mkdir(folder, 0o755, dir_fd=parent)
            except FileExistsError:
                pass
            inner = os.open(folder, _FOLDER, dir_fd=parent)
            os.close(parent)
            parent = inner
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=parent)
        except FileExistsError:
            if not replace:
                raise
            return _reopen(parent, name)
        os.fchmod(fd, 0o755 if executable else 0o644)  # whatever the umask of the bot is
        return fd
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            raise ValueError(f"input {path!r}: its place is taken; give each a path of its own") from None
        raise
    finally:
        os.close(parent)


def _reopen(parent: int, name: str) -> int:
    """Opens and empties a regular file; `OSError` for a link, and for a FIFO, which would block."""
    fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        if not stat_bits.S_ISREG(os.fstat(fd).st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def place_input(
    root: int, path: str, chunks: Iterable[bytes], *, executable: bool = False, replace: bool = False
) -> int:
    """Writes an input, see `create_input`; gives its size."""
    fd = create_input(root, path, executable=executable, replace=replace)
    with os.fdopen(fd, "wb", buffering=0) as file:
        size = 0
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                written = file.write(view)
                view, size = view[written:], size + written
    return size


def open_output(root: int, path: str) -> int:
    """Opens a regular file below `root` for reading; never blocks on a FIFO.

    Raises `OutsideError` for a link that leaves the folder, `ValueError` for what is no regular file,
    `OSError`.
    """
    pinned = _pin(root, clean_path(path))
    try:
        kind = stat_bits.S_IFMT(os.fstat(pinned).st_mode)
        if kind != stat_bits.S_IFREG:
            raise ValueError(f"output {path!r} is {_KINDS.get(kind, 'no regular file')}; only files are kept")
        # The pinned file itself is opened: nothing put in its place meanwhile is.
        return os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(pinned)


def sha256_of(fd: int) -> tuple[str, int]:
    """Hex SHA-256 and size of an open file, whole, in chunks. May run in a thread; moves no offset."""
    digest = hashlib.sha256()
    size = 0
    while chunk := os.pread(fd, HASH_CHUNK, size):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def collect(root: int, patterns: Iterable[str]) -> Collected:
    """The regular files below the open folder `root` that the patterns name.

    `*` and `?` match within a name (also one that begins with a dot), `**` any number of folders. A plain
    path that names a folder means all files below it. Patterns do not go through linked folders. Links to
    files inside are kept as files.
    """
    search = _Search(root)
    for pattern in patterns:
        try:
            search.add(pattern)
        except (ValueError, OutsideError, OSError) as error:
            search.report(str(error))
        if search.is_full:
            break
    return Collected(sorted(search.files.values(), key=lambda output: output.path), search.problems)


class _Search:
    """One `collect`: what was found, and how much was looked at."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.files: dict[str, Output] = {}
        self.problems: list[str] = []
        self.is_full = False
        self._looked_at = 0

    def report(self, sentence: str) -> None:
        if len(self.problems) < MAX_PROBLEMS and sentence not in self.problems:
            self.problems.append(sentence)

    def add(self, pattern: str) -> None:
        parts = clean_path(pattern)
        is_plain = not any("*" in part or "?" in part for part in parts)
        known = len(self.files) + len(self.problems)
        matched = False
        for path in [parts] if is_plain else self._matches(parts):
            matched = self._take(path, is_plain) or matched
            if self.is_full:
                return
        if not matched and known == len(self.files) + len(self.problems):
            self.report(f"output {pattern!r}: no such file; the command did not make it")

    def _take(self, parts: tuple[str, ...], is_plain: bool) -> bool:
        """Adds one file, or with `is_plain` all of a folder; true if something was there."""
        path = "/".join(parts)
        try:
            clean_path(path)
            pinned = _pin(self.root, parts)
        except OutsideError:
            self.report(f"output {path!r} is a link that leaves the work folder; copy the file")
            return True
        except FileNotFoundError:
            return False
        except ValueError as error:
            self.report(str(error))
            return True
        except OSError as error:
            self.report(f"output {path!r} could not be read: {error.strerror}")
            return True
        try:
            found = os.fstat(pinned)
        finally:
            os.close(pinned)
        if stat_bits.S_ISREG(found.st_mode):
            self._keep(Output(path, found.st_size, bool(found.st_mode & 0o111)))
        elif not stat_bits.S_ISDIR(found.st_mode):
            kind = _KINDS.get(stat_bits.S_IFMT(found.st_mode), "no regular file")
            self.report(f"output {path!r} is {kind}; only files are kept")
        elif is_plain:
            for inner in self._matches((*parts, "**")):
                self._take(inner, False)
                if self.is_full:
                    break
        return True

    def _keep(self, output: Output) -> None:
        if output.path not in self.files and len(self.files) >= MAX_OUTPUT_FILES:
            self.is_full = True
            self.problems.append(
                f"more than {MAX_OUTPUT_FILES} output files (MAX_OUTPUT_FILES); the rest is lost: pack them"
            )
            return
        self.files[output.path] = output

    def _matches(self, pattern: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """Paths of what is no folder and matches; one left out of it may be a link."""
        todo: list[tuple[tuple[str, ...], int]] = [((), 0)]
        seen = set(todo)
        while todo:
            folder, at = todo.pop()
            while at < len(pattern) - 1 and not set(pattern[at]) & set("*?"):
                folder, at = (*folder, pattern[at]), at + 1
            for name, is_folder in self._entries(folder):
                for step in _steps(pattern, at, name):
                    if step == len(pattern) and not is_folder:
                        yield (*folder, name)
                    elif step < len(pattern) and is_folder and ((*folder, name), step) not in seen:
                        seen.add(((*folder, name), step))
                        todo.append(((*folder, name), step))

    def _entries(self, parts: tuple[str, ...]) -> list[tuple[str, bool]]:
        """Names in a folder, and whether each is a folder itself (not a link to one)."""
        try:
            pinned = _pin(self.root, parts) if parts else os.dup(self.root)
            try:
                fd = os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            finally:
                os.close(pinned)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OutsideError:
            self.report(f"output folder {'/'.join(parts)!r} is a link that leaves the work folder")
            return []
        except OSError as error:
            self.report(f"output folder {'/'.join(parts)!r} could not be read: {error.strerror}")
            return []
        found: list[tuple[str, bool]] = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._looked_at += 1
                    if self._looked_at > MAX_ENTRIES:
                        self.is_full = True
                        self.report(f"more than {MAX_ENTRIES} files (MAX_ENTRIES); use narrower patterns")
                        break
                    found.append((entry.name, entry.is_dir(follow_symlinks=False)))
        finally:
            os.close(fd)
        return sorted(found)


def _steps(pattern: tuple[str, ...], at: int, name: str) -> set[int]:
    """Where in the pattern one may be after this name: `len(pattern)` means that it matches as a whole."""
    steps: set[int] = set()
    while at < len(pattern):
        if pattern[at] == "**":
            steps.add(at)  # it takes this name and stays
            if at == len(pattern) - 1:
                steps.add(len(pattern))
            at += 1  # or it takes nothing, and the next one must match
            continue
        if _name_pattern(pattern[at]).fullmatch(name):
            steps.add(at + 1)
        break
    return steps


def _name_pattern(text: str) -> re.Pattern[str]:
    collapsed = re.sub(r"\*+", "*", text)  # "***" would cost exponential time
    source = "".join({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)) for char in collapsed)
    return re.compile(source, re.DOTALL)


def _pin(root: int, parts: tuple[str, ...]) -> int:
    """A descriptor (O_PATH) of what the path names below `root`; follows links inside only.

    Raises `OutsideError`, `FileNotFoundError`, or another `OSError`. It cannot be read from and opens no
    device.
    """
    todo = list(reversed(parts))
    done: list[str] = []  # real folders from root to `here`
    links = 0
    here = os.dup(root)
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                if not done:
                    raise OutsideError("/".join(parts))
                done.pop()
                above = os.dup(root)
                for folder in done:
                    inner = os.open(folder, _PIN | os.O_DIRECTORY, dir_fd=above)
                    os.close(above)
                    above = inner
                os.close(here)
                here = above
                continue
            fd = os.open(name, _PIN, dir_fd=here)
            if stat_bits.S_ISLNK(os.fstat(fd).st_mode):
                try:
                    text = os.readlink("", dir_fd=fd)
                finally:
                    os.close(fd)
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if text.startswith("/"):
                    raise OutsideError("/".join(parts))
                todo += [part for part in reversed(text.split("/")) if part not in ("", ".")]
                continue
            os.close(here)
            here = fd
            done.append(name)
        pinned, here = here, -1
        return pinned
    finally:
        if here >= 0:
            os.close(here)
