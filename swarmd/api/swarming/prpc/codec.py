"""Messages as bytes, in three encodings. Everything that is raised for bytes of others is `BadMessage`."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf import any_pb2, json_format, text_format
from google.protobuf.message import DecodeError, Message

from swarmd.api.swarming.prpc.counting import MAX_FIELDS, has_too_many_fields
from swarmd.api.swarming.prpc.negotiation import Encoding

COUNTED_ABOVE = 256 << 10  # bytes of a message; what fewer can become is bounded by themselves
JSON_PREFIX = b")]}'\n"  # so that no page can read an answer by including it as a script

M = TypeVar("M", bound=Message)


class BadMessage(ValueError):
    """Bytes that are no message of the type."""


def decoded(type: type[M], data: bytes, encoding: Encoding) -> M:
    """Raises `BadMessage`."""
    try:
        if encoding is Encoding.BINARY:
            if len(data) > COUNTED_ABOVE and has_too_many_fields(data, type.DESCRIPTOR):
                raise BadMessage(f"it has more than {MAX_FIELDS} fields")
            return type.FromString(data)
        text = data.decode("utf-8")
        message = type()
        if encoding is Encoding.TEXT:
            text_format.Parse(text, message)
        elif not text.lstrip(" \t\r\n").startswith("{"):
            raise BadMessage("expected a JSON object")  # the library takes [] for an empty message
        else:
            json_format.Parse(text, message, ignore_unknown_fields=True)
        return message
    except BadMessage:
        raise
    except (DecodeError, json_format.ParseError, text_format.ParseError, UnicodeDecodeError) as error:
        raise BadMessage(_first_line(error)) from None
    except MemoryError:
        raise
    except Exception as error:
        # The JSON and text parsers let through whatever their parts raise: RecursionError, ValueError, TypeError, …
        raise BadMessage(f"{type.DESCRIPTOR.full_name}: {_first_line(error)}") from None


def encoded(message: Message, encoding: Encoding) -> bytes:
    """The body of an answer, before compression."""
    if encoding is Encoding.BINARY:
        return message.SerializeToString()
    return _told(message, encoding)


def packed(detail: Message, encoding: Encoding) -> bytes:
    """A detail of an error: an `Any` in the encoding of the answer, without what only bodies have around it."""
    any = any_pb2.Any()
    any.Pack(detail)
    if encoding is Encoding.BINARY:
        return any.SerializeToString()
    if encoding is Encoding.JSON:
        return _json(any)
    return _told(any, encoding)


def _told(message: Message, encoding: Encoding) -> bytes:
    if encoding is Encoding.JSON:
        return JSON_PREFIX + _json(message) + b"\n"
    return text_format.MessageToString(message, as_utf8=True).encode()


def _json(message: Message) -> bytes:
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False).encode()


def _first_line(error: Any) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:300]
