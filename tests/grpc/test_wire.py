"""What the fields of a call say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.grpc.codes import Code, WireFault
from swarmd.grpc.wire import (
    MAX_DETAILS,
    head_of,
    is_grpc,
    metadata_fields,
    percent,
    status_fields,
    timeout_of,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"99999999n", 0.099999999),
        (b"0S", 0),
    ],
)
def test_timeouts(text, seconds):
    assert timeout_of(text) == pytest.approx(seconds)


@given(st.binary(max_size=12))
def test_any_bytes_are_a_timeout_or_a_fault(text):
    try:
        assert timeout_of(text) >= 0
    except WireFault as fault:
        assert fault.code is Code.INVALID_ARGUMENT


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b-bin", b"grpc-timeout", b"grpc-encoding", b"te"]), st.binary())
    )
)
def test_any_fields_are_a_head_or_a_fault(fields):
    try:
        head_of(fields)
    except WireFault as fault:
        assert fault.message.isprintable()


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"application/grpc", True), (b"application/grpc+proto", True), (b"Application/gRPC; a=b", True),
        (b"application/grpc-web", False), (b"application/grpc+json", False), (b"application/grpcx", False),
        (b"", False),
    ],
)  # fmt: skip
def test_which_requests_are_calls(content, answer):
    assert is_grpc([(b":method", b"POST"), (b"content-type", content)]) is answer
    assert not is_grpc([(b":method", b"GET"), (b"content-type", content)])


@given(st.text(max_size=300))
def test_messages_survive_as_printable_ascii(text):
    from urllib.parse import unquote

    raw = percent(text)
    assert all(0x20 <= byte <= 0x7E for byte in raw)
    if text.isprintable():
        assert unquote(raw.decode()) == text


def test_details_that_are_too_long_are_left_out():
    assert any(
        name == b"grpc-status-details-bin" for name, _ in status_fields(Code.ABORTED, "a", b"x" * MAX_DETAILS)
    )
    assert status_fields(Code.ABORTED, "a", b"x" * (MAX_DETAILS + 1)) == [
        (b"grpc-status", b"10"),
        (b"grpc-message", b"a"),
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        {"Upper": "a"},
        {"a b": "a"},
        {"a": "ü"},
        {"a": "b\r\nc: d"},
        {"a-bin": "text"},
        {"a": b"raw"},
        {"grpc-status": "0"},
    ],
)
def test_metadata_that_would_break_the_connection_is_refused(metadata):
    with pytest.raises(ValueError, match="bad"):
        metadata_fields(metadata)
