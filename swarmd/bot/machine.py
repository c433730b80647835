"""The dimensions that a bot finds on its machine, and those that its operator gives it."""

import os
import platform
import re
import socket
from collections.abc import Mapping
from pathlib import Path

MAX_KEY = 64  # characters
MAX_VALUE = 256  # characters
KEY = re.compile(r"[a-zA-Z\-_.][0-9a-zA-Z\-_.]*")
CPUS = {
    "x86_64": ["x86", "x86-64"],
    "amd64": ["x86", "x86-64"],
    "i386": ["x86", "x86-32"],
    "i686": ["x86", "x86-32"],
    "aarch64": ["arm", "arm64"],
    "arm64": ["arm", "arm64"],
}
OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))  # os-release(5), in this order


def machine_dimensions() -> dict[str, list[str]]:
    """`os`, `cpu`, `cores`, `hostname`, `python`, `kernel` and `memory_gib` of this machine.

    Values go from the general to the particular: os ["Linux", "Debian", "Debian-12"].
    """
    found = {
        "os": os_names(platform.system(), read_os_release()),
        "cpu": CPUS.get(platform.machine().lower(), [platform.machine() or "unknown"]),
        "cores": [str(usable_cores())],
        "hostname": [socket.gethostname() or "unknown"],
        "python": version_steps(platform.python_version()),
        "kernel": [platform.release() or "unknown"],
        "memory_gib": [str(memory_gib())],
    }
    for key, values in found.items():
        for value in values:
            check_dimension(key, value)
    return found


def usable_cores() -> int:
    """Cores that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)))


def memory_gib() -> int:
    """Physical memory in whole GiB, rounded to the nearest (firmware keeps a little of it), at least 1."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return max(1, round(pages * page / (1 << 30)))


def version_steps(version: str) -> list[str]:
    """3.11.7 gives ["3", "3.11", "3.11.7"], so that a task can require as much of it as it needs."""
    parts = version.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def read_os_release() -> dict[str, str]:
    """The fields of the machine's os-release file; none without one."""
    for path in OS_RELEASE:
        try:
            return parse_os_release(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
    return {}


def parse_os_release(text: str) -> dict[str, str]:
    """NAME=value lines, with or without quotes; other lines are ignored."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            fields[name] = value.strip().strip("\"'")
    return fields


def os_names(system: str, release: Mapping[str, str]) -> list[str]:
    """The system, its distribution, and that with its version: ["Linux", "Ubuntu", "Ubuntu-24.04"]."""
    names = [system or "unknown"]
    distribution = release.get("NAME", "").split(" ")[0] or release.get("ID", "").capitalize()
    distribution = re.sub(r"[^0-9a-zA-Z_.\-]", "", distribution)
    version = re.sub(r"[^0-9a-zA-Z_.\-]", "", release.get("VERSION_ID", ""))
    if distribution and distribution not in names:
        names.append(distribution)
        if version:
            names.append(f"{distribution}-{version}")
    return names


def parse_dimension(text: str) -> tuple[str, str]:
    """Key and value of `key=value`, as an operator gives it. Raises `ValueError` with a sentence."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"dimension {text[:80]!r} has no '='; write it as key=value, like gpu=h100")
    if key == "id":
        raise ValueError(f"dimension {text[:80]!r}: the id is not a dimension to choose here; use --id")
    check_dimension(key, value)
    return key, value


def check_dimension(key: str, value: str) -> None:
    """Raises `ValueError`, with a sentence, for a key or value that no bot may have."""
    if len(key) > MAX_KEY or not KEY.fullmatch(key):
        raise ValueError(
            f"dimension key {key[:80]!r}: 1 to {MAX_KEY} letters, digits, '-', '_' and '.', not a digit first"
        )
    if not 1 <= len(value) <= MAX_VALUE or value != value.strip():
        raise ValueError(
            f"value {value[:80]!r} of dimension {key!r}: 1 to {MAX_VALUE} characters, no blanks around them"
        )
    if "|" in value:
        raise ValueError(f"value {value[:80]!r} of dimension {key!r}: no '|', it means 'or' in a requirement")
