"""Where the daemon is, and the token to show it: from arguments and the environment."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple
from urllib.parse import urlsplit

from swarmd.client.errors import BadSetting

DEFAULT_URL = "http://127.0.0.1:8710"
DEFAULT_PORT = 8710
MAX_TOKEN_BYTES = 4096


class Address(NamedTuple):
    """A parsed address. With `unix_path` host and port are not used; `prefix` stands before each path."""

    url: str
    host: str
    port: int
    unix_path: str
    prefix: str
    tls: bool = False

    @property
    def host_header(self) -> str:
        if self.unix_path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(url: str) -> Address:
    """The address of `http://HOST[:PORT][/PREFIX]`, the same with `https`, or `unix:PATH`; raises `BadSetting` for
    anything else."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        if not path:
            raise BadSetting(f"the address {url!r} names no socket", "write unix:/path/of/the/socket")
        return Address(url, "", 0, path, "")
    expected = f"write it as {DEFAULT_URL} or unix:/path/of/the/socket"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORT
    except ValueError as error:
        raise BadSetting(f"the address {url!r} cannot be read: {error}", expected) from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise BadSetting(f"the address {url!r} is not one of a server", expected)
    if parts.username is not None:
        raise BadSetting(
            "an address may hold no name or password", "put the token into a file: SWARMD_TOKEN_FILE"
        )
    return Address(url, host, port, "", parts.path.rstrip("/"), parts.scheme == "https")


def address_from_environment() -> Address:
    """The address that SWARMD_URL names, or the default one."""
    return parse_address(os.environ.get("SWARMD_URL") or DEFAULT_URL)


def read_token(path: str) -> str:
    """The token in a file, without white space around it; raises `BadSetting` for a file that others can
    read.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise BadSetting(f"the token file {path} can be read by everybody", f"run: chmod 600 {path}")
            raw = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadSetting(
            f"the token file {path} cannot be read: {reason}", "check SWARMD_TOKEN_FILE"
        ) from None
    token = raw.decode("ascii", "replace").strip()
    if not token or len(raw) > MAX_TOKEN_BYTES or not all("!" <= c <= "~" for c in token):
        raise BadSetting(
            f"the token file {path} does not hold one line of printable ASCII",
            "write the token alone into it",
        )
    return token


def token_from_environment() -> str | None:
    """The token in the file that SWARMD_TOKEN_FILE names, or None when that is not set."""
    path = os.environ.get("SWARMD_TOKEN_FILE")
    return read_token(path) if path else None
