"""What the headers of a call mean."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.api.swarming.prpc.negotiation import (
    BadHeader,
    Encoding,
    answer_encoding,
    max_answer_size,
    request_encoding,
    takes_gzip,
    timeout_s,
)

BINARY, JSON, TEXT = Encoding.BINARY, Encoding.JSON, Encoding.TEXT

# One media type, in Content-Type and in Accept.
TYPES = {
    "": BINARY,
    "application/prpc": BINARY,
    "application/prpc; encoding=binary": BINARY,
    "application/prpc;encoding=binary": BINARY,
    'application/prpc; encoding="binary"': BINARY,
    "Application/PRPC; Encoding=binary": BINARY,
    "*/*": BINARY,
    "application/*": BINARY,
    "application/grpc": BINARY,
    "application/json": JSON,
    "application/json; charset=utf-8": JSON,
    "APPLICATION/JSON": JSON,
    "application/prpc; encoding=json": JSON,
    "application/prpc; encoding=text": TEXT,
    "application/prpc;": BINARY,
    "application/prpc; encoding=xml": None,
    "application/prpc; charset=utf-8": None,
    "application/prpc; encoding=json; charset=utf-8": None,
    "application/grpc-web": None,
    "text/html": None,
    "text/*": None,
    "application/x-protobuf": None,
    "json": None,
}


@pytest.mark.parametrize("text", TYPES)
def test_a_media_type_is_an_encoding_of_both_directions(text):
    assert request_encoding(text) is TYPES[text]
    assert answer_encoding(text) is TYPES[text]


ACCEPT = {
    "text/html, application/json": JSON,
    "application/json, application/prpc": BINARY,
    "application/prpc; encoding=text, application/json": JSON,
    "application/json; q=0.5, application/prpc; encoding=text": TEXT,
    "application/json;q=0.5,application/prpc;q=0.4": JSON,
    "application/json;q=1.0,*/*;q=0.001": JSON,
    "application/prpc;q=0": None,
    "application/prpc; encoding=binary; q=0, application/json; q=0.1": JSON,
    "application/json;q=1.": JSON,
    "text/html, image/png;q=0.9": None,
    ", ,application/json,,": JSON,
    'text/html; title="a, b; c", application/json': JSON,
    'text/html; title="a \\" b", application/json': JSON,
}


@pytest.mark.parametrize("text", ACCEPT)
def test_the_client_gets_what_it_likes_best(text):
    assert answer_encoding(text) is ACCEPT[text]


@pytest.mark.parametrize(
    "text",
    [
        "application/json;q=2", "application/json;q=high", "application/json;q=-1", "application/json;q=0.1234",
        "application/json;q=1.1", "application/json;q", "/json", "application/", "application/json; ;", ";",
        'text/html; a="b', "a/b c/d", "a/b; c=d; c=e", "a/b; q=1; q=1", "é/b", "a/b/c", "application/json;q=",
    ],
)  # fmt: skip
def test_a_malformed_accept_is_told(text):
    with pytest.raises(BadHeader) as caught:
        answer_encoding(text)
    assert "Accept" in str(caught.value)


@pytest.mark.parametrize("text", ["application/json, application/json", "/", "application/json; ="])
def test_a_malformed_content_type_is_told(text):
    with pytest.raises(BadHeader) as caught:
        request_encoding(text)
    assert "Content-Type" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False), ("gzip", True), ("GZIP", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("*", True),
        ("*;q=0", False), ("*, gzip;q=0", False), ("*;q=0, gzip", True), ("br", False), ("identity", False),
    ],
)  # fmt: skip
def test_gzip_is_sent_to_who_takes_it(text, expected):
    assert takes_gzip(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1H", 3600), ("2M", 120), ("90S", 90), ("1500m", 1.5), ("90000000u", 90), ("5n", 5e-9), ("0S", 0),
        ("999999999999999999H", 999999999999999999 * 3600),
    ],
)  # fmt: skip
def test_a_timeout_is_a_number_and_a_unit(text, expected):
    assert timeout_s(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "1", "S", "1s", "1h", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "1SS", "1" * 19 + "S", "١S"]
)
def test_any_other_timeout_is_told(text):
    with pytest.raises(BadHeader, match="X-Prpc-Grpc-Timeout"):
        timeout_s(text)


def test_a_size_is_a_positive_number():
    assert max_answer_size("33521664") == 33_521_664 and max_answer_size("1") == 1
    for text in ("", "0", "-1", "+1", "1.0", "1 ", "0x10", "1" * 19, "½"):
        with pytest.raises(BadHeader, match="X-Prpc-Max-Response-Size"):
            max_answer_size(text)


HEADER = st.text(st.sampled_from('ab/;=q01. ,*"\\\t'), max_size=60) | st.text(max_size=30)


@given(HEADER)
def test_any_header_is_understood_or_told(text):
    for read in (request_encoding, answer_encoding, takes_gzip, timeout_s, max_answer_size):
        try:
            read(text)
        except BadHeader as error:
            assert len(str(error)) < 300


@pytest.mark.parametrize(
    "unit", [" ", ";", ",", " ;", "a/b;", 'a/b;c="', "a/b,", "a" * 16, 'a/b;c="\\', "\t "]
)
def test_reading_a_long_header_takes_no_more_than_its_length(unit):
    """A pattern that tries each way to split a run of spaces would take minutes."""
    text = (unit * 16_384)[:16_384] + "é"
    began = time.process_time()
    with pytest.raises(BadHeader):
        answer_encoding(text)
    assert time.process_time() - began < 0.5
