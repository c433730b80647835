"""The rules for what a task finds on its bot: caches, CIPD packages, a tree in CAS; and for all paths.

Source: protocols of LUCI Swarming, NewTask; docs/swarming-clients.md, "What a task must be like".
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.proto import tasks_pb2

MAX_PATH = 256
MAX_CACHES = 32
MAX_CACHE_NAME = 128
MAX_PACKAGES = 64
MAX_PACKAGE_NAME = 256
MAX_CIPD_SERVER = 1_024

_CACHE_NAME = re.compile(r"[a-z0-9_]+")
_PACKAGE_NAME = re.compile(r"[a-z0-9_\-./${}=,]+")  # with ${platform}, ${os=linux,mac} and the like
_PINNED = re.compile(
    r"[a-z0-9_\-]+:[\x20-\x7e]+|[0-9a-f]{40}|[0-9A-Za-z_\-]{43}C"
)  # a tag, or an instance id
_REF = re.compile(r"[a-z0-9_./\-]{1,256}")
MAX_TAG = 400
_CAS_INSTANCE = re.compile(r"projects/[a-z0-9-]+/instances/[a-z0-9_-]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bad(field: str, what: str, remedy: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"bad request: {field}: {what}; {remedy}")


def check_path(path: str, limit: int, field: str, windows: bool = False) -> None:
    """Relative, below where it starts, and written in one way only. `windows`: `\\` is allowed, too."""
    if not 1 <= len(path) <= limit:
        raise bad(field, f"a path has {len(path)} characters", f"give 1 to {limit}")
    if "\0" in path or ("\\" in path and not windows):
        raise bad(field, f"{path[:80]!r} cannot be a path", r"use '/', no '\' and no NUL")
    if path[0] in "/\\":
        raise bad(field, f"{path[:80]!r} is absolute", "give it relative to the task's folder")
    if ".." in path and ".." in path.replace("\\", "/").split("/"):
        raise bad(field, f"{path[:80]!r} has a '..'", "stay inside the task's folder")
    clean = posixpath.normpath(path)
    if clean != path:
        raise bad(field, f"{path[:80]!r} is not normalized", f"write {clean[:80]!r}")


def check_caches(properties: tasks_pb2.TaskProperties, field: str) -> None:
    """Also that no cache and no package is inside another cache, nor a cache inside a package."""
    caches = properties.caches
    if len(caches) > MAX_CACHES:
        raise bad(f"{field}.caches", f"there are {len(caches)}", f"give at most {MAX_CACHES}")
    names: set[str] = set()
    for number, cache in enumerate(caches):
        where = f"{field}.caches[{number}]"
        name = cache.name
        if not 1 <= len(name) <= MAX_CACHE_NAME or not _CACHE_NAME.fullmatch(name):
            raise bad(
                f"{where}.name",
                f"it is {name[:80]!r}",
                f"use a-z, 0-9 and '_', 1 to {MAX_CACHE_NAME} of them",
            )
        if name in names:
            raise bad(f"{where}.name", f"{name!r} is there twice", "give each cache its own name")
        names.add(name)
        check_path(cache.path, MAX_PATH, f"{where}.path")
    if caches:
        packages = {package.path for package in properties.cipd_input.packages}
        _check_apart([cache.path for cache in caches], packages, f"{field}.caches")


def _check_apart(caches: list[str], packages: Iterable[str], field: str) -> None:
    # Packages at "." and caches below are common, and go together: only what is installed in a subfolder counts.
    taken: list[tuple[str, bool]] = [(path, True) for path in caches]
    taken += [(path, False) for path in packages if path != "."]
    for number, (path, _) in enumerate(taken[: len(caches)]):
        for other, is_cache in taken[number + 1 :]:
            if _is_in(path, other) or _is_in(other, path):
                what = "cache" if is_cache else "package"
                raise bad(
                    field, f"{path[:80]!r} and the path of a {what}, {other[:80]!r}, contain one another",
                    "give each a folder of its own",
                )  # fmt: skip


def _is_in(path: str, folder: str) -> bool:
    return folder == "." or path == folder or path.startswith(folder + "/")


def check_cipd(properties: tasks_pb2.TaskProperties, field: str) -> None:
    if not properties.HasField("cipd_input"):
        return
    asked, field = properties.cipd_input, f"{field}.cipd_input"
    if asked.server and not _is_safe(asked.server):
        raise bad(
            f"{field}.server", f"it is {asked.server[:80]!r}",
            f"give an https:// address, or http:// on this machine, at most {MAX_CIPD_SERVER} characters",
        )  # fmt: skip
    if asked.HasField("client_package"):
        client, where = asked.client_package, f"{field}.client_package"
        if client.path:
            raise bad(f"{where}.path", f"it is {client.path[:80]!r}", "leave it out")
        _check_package(client, where)
    packages = asked.packages
    if len(packages) > MAX_PACKAGES:
        raise bad(f"{field}.packages", f"there are {len(packages)}", f"give at most {MAX_PACKAGES}")
    seen: set[tuple[str, str]] = set()
    for number, package in enumerate(packages):
        where = f"{field}.packages[{number}]"
        _check_package(package, where)
        if not package.path:  # as the `swarming` command sends it for a package without a folder
            raise bad(f"{where}.path", "it is missing", "give a folder, or '.' for the task's own")
        check_path(package.path, MAX_PATH, f"{where}.path")
        if properties.idempotent and not _is_pinned(package.version):
            raise bad(
                f"{where}.version", f"{package.version!r} can change, but the task is idempotent",
                "give a tag such as version:1.2, or an instance id",
            )  # fmt: skip
        place = (package.package_name, package.path)
        if place in seen:
            raise bad(where, f"{place[0]!r} is twice in {place[1]!r}", "leave one out")
        seen.add(place)


def _check_package(package: tasks_pb2.CipdPackage, field: str) -> None:
    name, version = package.package_name, package.version
    if not 1 <= len(name) <= MAX_PACKAGE_NAME or not _PACKAGE_NAME.fullmatch(name):
        raise bad(
            f"{field}.package_name", f"it is {name[:80]!r}",
            f"give a name such as infra/tools/x/${{platform}}, at most {MAX_PACKAGE_NAME} characters",
        )  # fmt: skip
    if not _is_pinned(version) and not _REF.fullmatch(version):
        raise bad(f"{field}.version", f"it is {version[:80]!r}", "give a ref, a tag, or an instance id")


def _is_pinned(version: str) -> bool:
    return len(version) <= MAX_TAG and _PINNED.fullmatch(version) is not None


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    schemes = ("http", "https") if host in _LOOPBACK else ("https",)
    return len(url) <= MAX_CIPD_SERVER and bool(host) and parts.scheme in schemes and url.isprintable()


def check_cas(properties: tasks_pb2.TaskProperties, field: str) -> None:
    if not properties.HasField("cas_input_root"):
        return
    root, field = properties.cas_input_root, f"{field}.cas_input_root"
    if not _CAS_INSTANCE.fullmatch(root.cas_instance):
        raise bad(
            f"{field}.cas_instance", f"it is {root.cas_instance[:80]!r}",
            "give one as projects/PROJECT/instances/INSTANCE",
        )  # fmt: skip
    if not root.digest.hash or root.digest.size_bytes < 0:
        raise bad(f"{field}.digest", "it has no hash, or a negative size", "give both, as cas prints them")
