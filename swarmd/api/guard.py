"""Who may call: Host, Origin and peer checks, for every method of every route, before anything else is looked at.

A daemon on loopback is not safe by itself: any web page can make a browser send requests to it. So the
`Host` header must name this daemon (a page that rebinds its own name cannot send that), and a browser's
`Origin` and `Sec-Fetch-Site`, where they are sent, must be our own. Source: docs/operating.md,
"Security".
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from swarmd.api.calls import Caller
from swarmd.api.routes import Verb
from swarmd.config import Config, ConfigError, is_loopback

MAX_TOKEN_BYTES = 4_096
MIN_TOKEN_CHARACTERS = 16
Lesser = Callable[
    [str], "tuple[str, frozenset[Verb]] | None"
]  # a secret to who shows it, and what that opens
OWN_SITES = ("same-origin", "none")  # Sec-Fetch-Site; `none`: typed in by a person


class Denied(Exception):
    """The call is refused before it is looked at."""

    def __init__(self, status: int, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.remedy = remedy


class Guard:
    """Made once from the configuration. Raises `ConfigError` for a token file that cannot be used.

    `lesser`: each knows secrets that open less than the daemon's token does (a group of bots, a running task), and says
    who shows one.
    """

    def __init__(self, config: Config, lesser: Sequence[Lesser] = ()) -> None:
        self._lesser = tuple(lesser)
        self._only_loopback = all(is_loopback(host) for host, _ in config.addresses)
        self._hosts = {host.lower() for host in config.allow_host}
        self._networks = config.networks
        self._token = read_token(Path(config.token_file)) if config.token_file else ""
        self._trust_loopback = config.trust_loopback

    def admit(
        self, raw_headers: list[tuple[bytes, bytes]], peer: str | None, path: str
    ) -> tuple[Caller, str]:
        """The caller, and the path without a token in it. `peer` None: a Unix socket. Raises `Denied`."""
        self._check_browser(raw_headers, peer)
        bearer = _bearer(raw_headers)
        before, path, shown = self._shown_token(bearer, path)
        trusted = shown or peer is None or self._trusts(peer)
        name, verbs = "", frozenset[Verb]()
        if bearer and not shown:
            name, verbs = next((known for lesser in self._lesser if (known := lesser(bearer))), (name, verbs))
        return Caller(peer or "unix", trusted, name, verbs, before), path

    def may(self, caller: Caller, verb: Verb, pool: str | None = None) -> None:
        """The one function that says whether a caller may act on a thing. Raises `Denied`."""
        if not caller.may(verb):
            raise Denied(
                401,
                "token_needed",
                f"{caller.peer} may not {verb.value} here without a token",
                "send 'Authorization: Bearer TOKEN' (SWARMD_TOKEN_FILE for swarmd's own commands), or list its network",
            )

    def _check_browser(self, raw_headers: list[tuple[bytes, bytes]], peer: str | None) -> None:
        hosts = [value for name, value in raw_headers if name.lower() == b"host"]
        if len(hosts) != 1:
            raise Denied(400, "bad_host", f"the request has {len(hosts)} Host headers", "send exactly one")
        host = hosts[0].decode("latin-1").strip().lower()
        if peer is not None and not self._knows_host(host):
            raise Denied(
                421,
                "wrong_host",
                f"this daemon is not {host[:80]!r}",
                "use the address it listens on, or add the name to allow_host in the configuration",
            )
        for name, value in raw_headers:
            if name.lower() == b"origin" and not _same_origin(value.decode("latin-1").strip().lower(), host):
                raise _foreign(
                    f"its Origin is {value.decode('latin-1')[:80]!r}, expected one with host {host[:80]!r}"
                )
            if name.lower() == b"sec-fetch-site" and value.decode("latin-1").strip().lower() not in OWN_SITES:
                raise _foreign(
                    f"Sec-Fetch-Site is {value.decode('latin-1')[:40]!r}, expected same-origin or none"
                )

    def _knows_host(self, host: str) -> bool:
        bare, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not bare or (port and not (port.isascii() and port.isdigit())):
            bare = host
        if "%" in bare:  # a zone may be any text, and what the host is goes into what bots are sent
            return False
        if is_loopback(bare) or bare.strip("[]") in self._hosts:
            return True
        # An address written as numbers cannot be rebound; a name can.
        return not self._only_loopback and _is_address(bare.strip("[]"))

    def _shown_token(self, bearer: str, path: str) -> tuple[str, str, bool]:
        """Whether the token was shown, in a header or as the first segment of the path: that part of the path, and the
        rest of it."""
        if not self._token:
            return "", path, False
        first, _, rest = path.removeprefix("/").partition("/")
        if hmac.compare_digest(first.encode(), self._token.encode()):
            return "/" + first, "/" + rest, True
        return "", path, bool(bearer) and hmac.compare_digest(bearer.encode(), self._token.encode())

    def _trusts(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_loopback:
            return self._trust_loopback
        return any(mapped in network for network in self._networks if network.version == mapped.version)


def _bearer(raw_headers: list[tuple[bytes, bytes]]) -> str:
    """The secret in an Authorization header, or nothing."""
    for name, value in raw_headers:
        if name.lower() == b"authorization":
            scheme, _, text = value.decode("latin-1").strip().partition(" ")
            if scheme.lower() == "bearer":
                return text.strip()
    return ""


def _foreign(which: str) -> Denied:
    return Denied(
        403,
        "foreign_origin",
        f"a page of another site may not call this daemon: {which}",
        "open the daemon's own address, or call it with a program instead of a browser",
    )


def read_token(path: Path) -> str:
    """The secret in a token file. Raises `ConfigError`: missing, too short, or readable by others."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_TOKEN_BYTES:
            raise ConfigError(
                f"token file {path} is not a small regular file", "give a file with one line in it"
            )
        if info.st_mode & 0o077:
            raise ConfigError(f"others may read the token file {path}", f"chmod 600 {path}", "token_exposed")
        if info.st_uid not in (os.geteuid(), 0):
            raise ConfigError(
                f"token file {path} belongs to user {info.st_uid}", f"chown {os.geteuid()} {path}"
            )
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read the token file {path}: {error.strerror}", "make it: openssl rand -hex 32"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"token file {path} holds more than ASCII letters", "make it: openssl rand -hex 32"
        ) from None
    if len(token) < MIN_TOKEN_CHARACTERS or not token.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(
            f"the token in {path} is too short or has other characters than letters, digits, '-' and '_'",
            f"use at least {MIN_TOKEN_CHARACTERS}: openssl rand -hex 32",
        )
    return token


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _same_origin(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc == host
