"""What the headers of a pRPC call say: encodings of request and answer, the time that the client has, the size it
takes. Needs no protobuf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

from swarmd.grpc.wire import UNITS_S

BINARY_TYPES = ("*/*", "application/*", "application/grpc")
PRPC = "application/prpc"
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_MEDIA_TYPE = re.compile(rf"\s*({TOKEN}(?:/{TOKEN})?)")
_PARAMETER = re.compile(rf'\s*;\s*({TOKEN})\s*=\s*({TOKEN}|"(?:[^"\\]|\\.)*")')
_END = re.compile(r"\s*(?:;\s*)?(?:,|$)")
_SPAN = re.compile(r"([0-9]{1,18})([HMSmun])")
_SIZE = re.compile(r"[0-9]{1,18}")


class Encoding(Enum):
    """In the order of preference, where a client likes several equally. The value is the answer's media type."""

    BINARY = "application/prpc; encoding=binary"
    JSON = "application/json"
    TEXT = "application/prpc; encoding=text"


_NAMED = {"": Encoding.BINARY, "binary": Encoding.BINARY, "json": Encoding.JSON, "text": Encoding.TEXT}
_ORDER = {encoding: place for place, encoding in enumerate(Encoding)}


class BadHeader(ValueError):
    """A header that cannot be read. The text says which, and why."""


def request_encoding(content_type: str) -> Encoding | None:
    """The encoding of a request's body, None for a type that is none of ours. Raises `BadHeader`."""
    if not content_type.strip():
        return Encoding.BINARY
    items = list(_items("Content-Type", content_type))
    if len(items) != 1:
        raise BadHeader(f"Content-Type is {_shown(content_type)}, expected one media type")
    return _encoding_of(*items[0])


def answer_encoding(accept: str) -> Encoding | None:
    """The encoding that a client likes best, None when it takes none of ours. Raises `BadHeader`."""
    if not accept.strip():
        return Encoding.BINARY
    liked: list[tuple[float, int, Encoding]] = []
    for media_type, parameters in _items("Accept", accept):
        quality = _quality("Accept", parameters.pop("q", "1"))
        encoding = _encoding_of(media_type, parameters)
        if encoding is not None and quality > 0:
            liked.append((-quality, _ORDER[encoding], encoding))
    return min(liked)[2] if liked else None


def takes_gzip(accept_encoding: str) -> bool:
    """Whether the answer may be compressed. Raises `BadHeader`."""
    if not accept_encoding.strip():
        return False
    qualities = {
        coding: _quality("Accept-Encoding", parameters.get("q", "1"))
        for coding, parameters in _items("Accept-Encoding", accept_encoding)
    }
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def timeout_s(text: str) -> float:
    """The time that a client gives the call, in seconds. Raises `BadHeader`."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise BadHeader(
            f"X-Prpc-Grpc-Timeout is {_shown(text)}, expected a number and one of H, M, S, m, u, n"
        )
    return int(match[1]) * UNITS_S[match[2]]


def max_answer_size(text: str) -> int:
    """The bytes of an answer, before compression, that a client takes. Raises `BadHeader`."""
    if not _SIZE.fullmatch(text) or not int(text):
        raise BadHeader(f"X-Prpc-Max-Response-Size is {_shown(text)}, expected a positive number")
    return int(text)


def _encoding_of(media_type: str, parameters: dict[str, str]) -> Encoding | None:
    if media_type == PRPC:
        name = parameters.pop("encoding", "")
        return None if parameters else _NAMED.get(name)
    if media_type == "application/json":
        return Encoding.JSON
    return Encoding.BINARY if media_type in BINARY_TYPES else None


def _items(header: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The media types of a list, in lower case, with their parameters. Empty places in the list are skipped."""
    at = 0
    while at < len(text):
        if end := _END.match(text, at):
            at = end.end()
            if end[0].strip() in ("", ","):
                continue
            raise BadHeader(f"{header} is {_shown(text)}: it has a parameter of nothing")
        media_type = _MEDIA_TYPE.match(text, at)
        if media_type is None:
            raise BadHeader(f"{header} is {_shown(text)}: it is no list of media types")
        at = media_type.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, at):
            name, value = parameter[1].lower(), parameter[2]
            if name in parameters:
                raise BadHeader(f"{header} is {_shown(text)}: {_shown(name)} is given twice")
            parameters[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
            at = parameter.end()
        end = _END.match(text, at)
        if end is None:
            raise BadHeader(f"{header} is {_shown(text)}: it is no list of media types")
        at = end.end()
        yield media_type[1].lower(), parameters


def _quality(header: str, text: str) -> float:
    if not re.fullmatch(r"[01](?:\.[0-9]{0,3})?", text) or float(text) > 1:
        raise BadHeader(f"{header} has the quality {_shown(text)}, expected 0 to 1")
    return float(text)


def _shown(text: str) -> str:
    return repr(text[:80])
