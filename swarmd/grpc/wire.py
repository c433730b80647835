"""What the fields of a gRPC call say, and those of its answer. Nothing here waits."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from swarmd.grpc.codes import Code, WireFault
from swarmd.grpc.framing import CODINGS

Fields = list[tuple[bytes, bytes]]

TYPES = (b"application/grpc", b"application/grpc+proto")
MAX_MESSAGE = 2_000  # characters of an error's text: a client refuses an answer whose fields are too long
MAX_DETAILS = 4_096  # bytes of its details; longer ones are left out
UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_NAME = re.compile(r"[0-9a-z_.-]+")
_PLAIN = re.compile(r"[ -~]*")
# Of the transport, or a secret that is the guard's affair.
_NOT_METADATA = frozenset(
    (b"te", b"content-type", b"content-length", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"host",
     b"authorization")
)  # fmt: skip


class Head(Struct, frozen=True):
    """What the fields of a call say beside its path."""

    timeout_s: float | None
    coding: str  # of the request's messages
    takes_gzip: bool
    metadata: dict[str, str]
    binary: dict[str, bytes]  # of fields whose names end in `-bin`


def is_grpc(fields: Fields) -> bool:
    """Whether a request is a call of gRPC. (`application/grpc-web` and other encodings of messages are not.)"""
    method = content = b""
    for name, value in fields:
        if name == b":method":
            method = value
        elif name == b"content-type":
            content = value
    return method == b"POST" and content.partition(b";")[0].strip().lower() in TYPES


def head_of(fields: Fields) -> Head:
    """Raises `WireFault`."""
    timeout_s, coding, takes_gzip = None, "identity", False
    texts: dict[str, str] = {}
    binary: dict[str, bytes] = {}
    for name, value in fields:
        if name == b"grpc-timeout":
            timeout_s = timeout_of(value)
        elif name == b"grpc-encoding":
            coding = value.decode("latin-1")
        elif name == b"grpc-accept-encoding":
            takes_gzip = b"gzip" in value.replace(b" ", b"").split(b",")
        elif name[:1] == b":" or name in _NOT_METADATA:
            continue
        elif name.endswith(b"-bin"):
            binary[name.decode("latin-1")] = _bytes_of(name, value)
        else:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            texts[key] = f"{texts[key]},{text}" if key in texts else text
    if coding not in CODINGS:
        known = ", ".join(CODINGS)
        raise WireFault(Code.UNIMPLEMENTED, f"grpc-encoding is {coding[:40]!r}; this server reads {known}")
    return Head(timeout_s, coding, takes_gzip, texts, binary)


def timeout_of(value: bytes) -> float:
    """Seconds. Raises `WireFault`."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise WireFault(
            Code.INVALID_ARGUMENT,
            f"grpc-timeout is {value[:40].decode('latin-1')!r}, expected at most 8 digits and one of H, M, S, m, u, n",
        )
    return int(match[1]) * UNITS_S[match[2].decode()]


def _bytes_of(name: bytes, value: bytes) -> bytes:
    """Of several values under one name, the last."""
    text = value.rpartition(b",")[2].strip()
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise WireFault(Code.INTERNAL, f"{name[:40].decode('latin-1')} is not base64") from None


def status_fields(code: Code, message: str = "", details: bytes = b"") -> Fields:
    """How a call ended. `details` is a serialized `google.rpc.Status`."""
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", percent(message)))
    if details and len(details) <= MAX_DETAILS:
        fields.append((b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")))
    return fields


def percent(message: str) -> bytes:
    """Text as `grpc-message` carries it: UTF-8, in which all but printable ASCII is `%XX`."""
    raw = message[:MAX_MESSAGE].encode("utf-8", "backslashreplace")
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw
    )


def metadata_fields(metadata: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]) -> Fields:
    """Metadata of an answer. Bytes need a name that ends in `-bin`, texts are printable ASCII.

    Raises `ValueError` for anything else: it would break the connection's state.
    """
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    fields: Fields = []
    for name, value in pairs:
        if (
            not _NAME.fullmatch(name)
            or name.startswith("grpc-")
            or name.endswith("-bin") != isinstance(value, bytes)
        ):
            raise ValueError(f"bad name of metadata {name!r}")
        if isinstance(value, bytes):
            fields.append((name.encode(), base64.b64encode(value).rstrip(b"=")))
        elif not _PLAIN.fullmatch(value):
            raise ValueError(f"bad value of metadata {name!r}")
        else:
            fields.append((name.encode(), value.strip().encode()))
    return fields
