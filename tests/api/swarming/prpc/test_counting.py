"""Messages that would become too many objects."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.prpc import counting
from swarmd.api.swarming.prpc.codec import COUNTED_ABOVE, BadMessage, decoded
from swarmd.api.swarming.prpc.counting import MAX_FIELDS, has_too_many_fields
from swarmd.api.swarming.prpc.negotiation import Encoding
from tests.api.swarming.prpc.messages import all_types, messages

TYPES = {type.DESCRIPTOR.full_name: type for type in all_types()}
REQUEST = tasks_pb2.NewTaskRequest.DESCRIPTOR
TAG, SLICE = b"\x3a\x00", b"\x32\x00"
MORE = MAX_FIELDS + 1


def inside(*path: int, of: bytes) -> bytes:
    """A message in fields of messages, the outermost number first."""
    for number in reversed(path):
        of = tasks_pb2.TaskOutputResponse(output=of).SerializeToString()
        of = bytes([number << 3 | 2]) + of[1:]
    return of


MANY = {
    "tags": TAG * MORE, "slices": SLICE * MORE, "unknown numbers": b"\xf8\x7f\x01" * MORE,
    "words": inside(6, 1, of=b"\x1a\x00" * MORE), "dimensions": inside(6, 1, of=b"\x2a\x00" * MORE),
    "words of several slices": inside(6, 1, of=b"\x1a\x00" * (MAX_FIELDS // 4)) * 4,
    "in a group": b"\x0b" + TAG * MORE + b"\x0c",
    "words, and then nonsense": inside(6, 1, of=b"\x1a\x00" * MORE) + b"\x07",
}  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_what_has_too_many_fields_is_not_built(name):
    body = MANY[name]
    assert len(body) > COUNTED_ABOVE
    with pytest.raises(BadMessage):
        decoded(tasks_pb2.NewTaskRequest, body, Encoding.BINARY)


def test_the_limit_is_exact():
    assert not has_too_many_fields(TAG * MAX_FIELDS, REQUEST)
    assert has_too_many_fields(TAG * (MAX_FIELDS + 1), REQUEST)


def test_a_long_text_is_one_field():
    request = tasks_pb2.NewTaskRequest(name="x" * (20 << 20))
    assert decoded(tasks_pb2.NewTaskRequest, request.SerializeToString(), Encoding.BINARY) == request


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_no_message_is_taken_for_nonsense(name, data):
    message = data.draw(messages(TYPES[name]))
    assert not has_too_many_fields(message.SerializeToString(), message.DESCRIPTOR)


def test_what_is_refused_is_no_message(monkeypatch):
    """Nothing that the parser would take; with a fixed seed, since each finding is a row of this test."""
    dice = random.Random(17)
    monkeypatch.setattr(counting, "MAX_FIELDS", 1 << 10)
    whole = bytes.fromhex("12017832120a0b1a016138901c2a050a01701200280a3a03613a62")
    refused = 0
    for _ in range(20_000):
        body = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        try:
            has_too_many_fields(bytes(body), REQUEST)
        except ValueError:
            refused += 1
            with pytest.raises(DecodeError):
                tasks_pb2.NewTaskRequest.FromString(bytes(body))
    assert refused > 1_000
