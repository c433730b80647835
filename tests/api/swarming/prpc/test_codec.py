"""Messages and their bytes, in all encodings."""

from __future__ import annotations

import json

import pytest
from google.protobuf import timestamp_pb2
from google.rpc import status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmd.api.swarming.proto import bots_pb2, common_pb2, prpc_pb2, tasks_pb2
from swarmd.api.swarming.prpc.codec import JSON_PREFIX, BadMessage, decoded, encoded, packed
from swarmd.api.swarming.prpc.negotiation import Encoding
from tests.api.swarming.prpc.golden import GOLDEN
from tests.api.swarming.prpc.messages import all_types, messages

TYPES = {type.DESCRIPTOR.full_name: type for type in all_types()}


def body(message, encoding) -> bytes:
    """What a client would send: an answer without what only answers have around them."""
    data = encoded(message, encoding)
    if encoding is not Encoding.JSON:
        return data
    assert data.startswith(JSON_PREFIX) and data.endswith(b"\n") and data.count(b"\n") == 2
    return data[len(JSON_PREFIX) : -1]


# --------------------------------------------------------------------- golden examples


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: g.name)
def test_recorded_messages_mean_the_same_in_each_encoding(golden):
    message = decoded(golden.type, json.dumps(golden.json).encode(), Encoding.JSON)
    assert json.loads(body(message, Encoding.JSON)) == golden.json
    if golden.binary is not None:
        assert encoded(message, Encoding.BINARY) == bytes.fromhex(golden.binary)
        assert decoded(golden.type, bytes.fromhex(golden.binary), Encoding.BINARY) == message
    for encoding in Encoding:
        assert decoded(golden.type, body(message, encoding), encoding) == message


def test_there_is_an_example_with_bytes():
    assert sum(golden.binary is not None for golden in GOLDEN) == 8


# --------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", TYPES)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(name, data):
    message = data.draw(messages(TYPES[name]))
    for encoding in Encoding:
        assert decoded(TYPES[name], body(message, encoding), encoding) == message, encoding


def test_every_message_of_the_api_is_drawn():
    assert len([name for name in TYPES if name.startswith("swarming.v2.")]) == 59
    assert "swarming.v2.BatchGetResultResponse.ResultOrError" in TYPES and "luci.prpc.ErrorDetails" in TYPES


# --------------------------------------------------------------------- JSON

WRITTEN = {
    "a field at its default is left out": (tasks_pb2.TasksCount(count=0), {}),
    "64 bits are a string": (tasks_pb2.Digest(size_bytes=7), {"sizeBytes": "7"}),
    "32 bits are a number": (tasks_pb2.TasksCount(count=7), {"count": 7}),
    "an enum is its name": (tasks_pb2.TaskOutputResponse(state=112), {"state": "COMPLETED"}),
    "an unknown enum is its number": (tasks_pb2.TaskOutputResponse(state=113), {"state": 113}),
    "bytes are padded base64": (tasks_pb2.TaskOutputResponse(output=b"\xff\xfe"), {"output": "//4="}),
    "an empty message that is there": (tasks_pb2.NewTaskRequest(resultdb={}), {"resultdb": {}}),
    "whole seconds": (tasks_pb2.TasksCount(now={"seconds": 1}), {"now": "1970-01-01T00:00:01Z"}),
    "milliseconds": (
        tasks_pb2.TasksCount(now={"nanos": 500_000_000}), {"now": "1970-01-01T00:00:00.500Z"},
    ),
    "microseconds": (tasks_pb2.TasksCount(now={"nanos": 1_000}), {"now": "1970-01-01T00:00:00.000001Z"}),
    "nanoseconds": (tasks_pb2.TasksCount(now={"nanos": 1}), {"now": "1970-01-01T00:00:00.000000001Z"}),
    "a float as short as it can be": (tasks_pb2.OperationStats(duration=0.1), {"duration": 0.1}),
    "letters of all the world": (common_pb2.StringPair(key="ключ"), {"key": "ключ"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_json_is_written_as_every_reader_expects(name):
    message, expected = WRITTEN[name]
    assert json.loads(body(message, Encoding.JSON)) == expected


READ = {
    "lowerCamelCase": (b'{"taskId": "7"}', {"task_id": "7"}),
    "the original name": (b'{"task_id": "7"}', {"task_id": "7"}),
    "64 bits as a number": (b'{"length": 7}', {"length": 7}),
    "64 bits as a string": (b'{"length": "7"}', {"length": 7}),
    "a whole number with an exponent": (b'{"length": 7e0}', {"length": 7}),
    "null is unset": (b'{"length": null, "taskId": null}', {}),
    "unknown fields are ignored": (b'{"taskId": "7", "shiny": {"new": [1, {}]}}', {"task_id": "7"}),
    "white space around": (b' \r\n\t{"taskId": "7"}\n', {"task_id": "7"}),
}


@pytest.mark.parametrize("name", READ)
def test_json_is_read_leniently(name):
    given, expected = READ[name]
    kind = tasks_pb2.TaskIdWithOffsetRequest
    assert decoded(kind, given, Encoding.JSON) == kind(**expected)


@pytest.mark.parametrize("text", ["//4=", "//4", "__4=", "__4"])
def test_base64_is_read_in_all_its_forms(text):
    given = json.dumps({"secretBytes": text}).encode()
    assert decoded(tasks_pb2.TaskProperties, given, Encoding.JSON).secret_bytes == b"\xff\xfe"


@pytest.mark.parametrize("state", ["QUERY_ALL", 10, "10"])
def test_enums_are_read_by_name_or_number(state):
    given = json.dumps({"state": state}).encode()
    assert decoded(tasks_pb2.TasksCountRequest, given, Encoding.JSON).state == common_pb2.QUERY_ALL


def test_moments_are_read_with_an_offset():
    given = b'{"start": "2026-10-05T14:00:00.25+02:00"}'
    start = decoded(tasks_pb2.TasksCountRequest, given, Encoding.JSON).start
    assert start == timestamp_pb2.Timestamp(seconds=1_791_201_600, nanos=250_000_000)


BAD_JSON = {
    "nothing": b"", "no JSON": b"task", "a list": b"[]", "a null": b"null", "a text": b'"7"', "cut short": b'{"a"',
    "two in a row": b"{}{}", "no UTF-8": b'{"taskId": "\xff"}', "half a character": b'{"taskId": "\\ud800"}',
    "another type": b'{"taskId": 7}', "a fraction": b'{"length": 7.5}', "too large": b'{"length": 9223372036854775808}',
    "endless": b'{"length": Infinity}', "too many digits": b'{"length": ' + b"7" * 5_000 + b"}",
    "given twice": b'{"taskId": "7", "taskId": "8"}',
    "no list": b'{"offset": [7]}', "deep": b'{"a":' * 100_000, "deep lists": b'{"a":' + b"[" * 100_000,
    "an object for a text": b'{"taskId": {}}', "the prefix of an answer": JSON_PREFIX + b"{}",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JSON)
def test_what_is_no_json_of_the_message_is_refused(name):
    with pytest.raises(BadMessage) as caught:
        decoded(tasks_pb2.TaskIdWithOffsetRequest, BAD_JSON[name], Encoding.JSON)
    assert str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "given",
    [b'{"tags": [null]}', b'{"tags": "a"}', b'{"start": "yesterday"}', b'{"start": 7}', b'{"state": {}}'],
)
def test_parts_that_are_wrong_are_refused(given):
    with pytest.raises(BadMessage):
        decoded(tasks_pb2.TasksCountRequest, given, Encoding.JSON)


# --------------------------------------------------------------------- binary


def test_repeated_numbers_are_read_packed_and_one_by_one():
    packed_form, single = b"\x0a\x02\x70\x10", b"\x08\x70\x08\x10"
    for form in (packed_form, single):
        assert decoded(tasks_pb2.TaskStates, form, Encoding.BINARY).states == [112, 16]
    assert encoded(tasks_pb2.TaskStates(states=[112, 16]), Encoding.BINARY) == packed_form


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


BAD_BINARY = {
    "a length past the end": b"\x0a\x05abc",
    "a huge length": b"\x0a" + varint(2**31 - 1),
    "a length of 64 bits": b"\x0a" + varint(2**64 - 1),
    "a number without an end": b"\x08" + b"\xff" * 11,
    "a tag without a field": b"\x00\x01",
    "a wire type that is not": b"\x0f",
    "a group that is never closed": b"\x0b",
    "a group closed by another": b"\x0b\x14",
    "deep groups": b"\x0b" * 100_000,
    "half a fixed number": b"\x65\x00\x00",
    "no UTF-8": b"\x0a\x01\xff",
    "JSON": b'{"taskId": "7"}',
}


@pytest.mark.parametrize("name", BAD_BINARY)
def test_what_is_no_binary_message_is_refused(name):
    with pytest.raises(BadMessage) as caught:
        decoded(tasks_pb2.TaskIdRequest, BAD_BINARY[name], Encoding.BINARY)
    assert str(caught.value)


@pytest.mark.parametrize("name", TYPES)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data())
def test_a_damaged_message_is_a_message_or_refused(name, data):
    """Cut, bits flipped, bytes put in: nothing else than `BadMessage` is ever raised."""
    whole = encoded(data.draw(messages(TYPES[name])), Encoding.BINARY)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    at = data.draw(st.integers(0, len(cut)))
    damaged = cut[:at] + data.draw(st.binary(max_size=8)) + cut[at:]
    for encoding in Encoding:
        try:
            message = decoded(TYPES[name], damaged, encoding)
        except BadMessage:
            continue
        encoded(message, Encoding.BINARY)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_random_bytes_are_a_message_or_refused(data):
    for encoding in Encoding:
        try:
            decoded(tasks_pb2.NewTaskRequest, data, encoding)
        except BadMessage as error:
            assert str(error)


# --------------------------------------------------------------------- text, details


def test_text_is_for_people():
    message = bots_pb2.BotInfo(bot_id="b1", is_dead=True, first_seen_ts={"seconds": 7})
    assert (
        encoded(message, Encoding.TEXT) == b'bot_id: "b1"\nfirst_seen_ts {\n  seconds: 7\n}\nis_dead: true\n'
    )


@pytest.mark.parametrize("given", [b"bot_id: 7", b"shiny: 1", b"bot_id", b"\xff", b"first_seen_ts {" * 5_000])
def test_text_that_is_no_message_is_refused(given):
    with pytest.raises(BadMessage):
        decoded(bots_pb2.BotInfo, given, Encoding.TEXT)


def test_details_are_encoded_as_the_answer_but_without_its_prefix():
    detail = prpc_pb2.ErrorDetails(response_too_big={"response_size": 9, "response_limit": 7})
    binary = status_pb2.Status().details.add()
    binary.ParseFromString(packed(detail, Encoding.BINARY))
    assert binary.type_url == "type.googleapis.com/luci.prpc.ErrorDetails"
    assert binary.value == b"\n\x04\x08\t\x10\x07"
    told = json.loads(packed(detail, Encoding.JSON))
    assert told == {
        "@type": "type.googleapis.com/luci.prpc.ErrorDetails",
        "responseTooBig": {"responseSize": "9", "responseLimit": "7"},
    }
    assert b"luci.prpc.ErrorDetails" in packed(detail, Encoding.TEXT)
