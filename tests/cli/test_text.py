"""Text of unknown origin on a terminal, and the small types of options."""

from __future__ import annotations

import click
import pytest

from swarmd.cli.spans import AFTER, RANGE, SPAN
from swarmd.cli.table import age, size_text, span
from swarmd.cli.text import TerminalFilter, one_line, shortened


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\n\ttab", "plain\n\ttab"),
        (b"\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
        (b"\x1b[31mred", "\x1b[31mred\x1b[0m"),
        (b"\x1b[2J\x1b[H", "^[[2J^[[H"),
        (b"\x1b]0;title\x07", "^[]0;title^G"),
        (b"\x1b[6n", "^[[6n"),
        (b"a\r\nb\rc", "a\nb\nc"),
        (b"\x00\x08\x7f", "^@^H^?"),
        ("\x9b2J".encode(), "<9B>2J"),
        (b"\x9b2J\xff", "\ufffd2J\ufffd"),
        ("\u202eevil".encode(), "<U+202E>evil"),
        ("ä€🙂".encode(), "ä€🙂"),
        (b"\x1b", "^["),
        (b"\r", "\n"),
    ],
)
def test_terminal_filter(raw, shown):
    assert TerminalFilter().feed(raw, final=True) == shown
    piecewise = TerminalFilter()
    assert "".join(piecewise.feed(bytes([b])) for b in raw) + piecewise.feed(b"", final=True) == shown


def test_one_line():
    assert one_line("a\nb\tc\x1b[31m\u202e\u2028d👩\u200d🔧") == "a b c[31m d👩\u200d🔧"
    assert shortened("abcdef", 4) == "abc…" and shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("0.5s", 0.5),
        ("20ms", 0.02),
    ],
)
def test_spans(text, seconds):
    assert SPAN.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "x", "5w", "-5s", "5 m", "1h30", "inf", "1e9"])
def test_no_spans(text):
    with pytest.raises(click.UsageError):
        SPAN.convert(text, None, None)


def test_ranges_and_dependencies():
    assert RANGE.convert("1-100", None, None) == (1, 100, 1)
    assert RANGE.convert("0-90:10", None, None) == (0, 90, 10)
    assert AFTER.convert("x", None, None) == ("x", "succeeded")
    assert AFTER.convert("x:any", None, None) == ("x", "any")
    for text in ("1-5:0", "1:5", "-1-5", "a-b"):
        with pytest.raises(click.UsageError):
            RANGE.convert(text, None, None)


def test_short_forms():
    assert [span(s) for s in (None, 0.25, 3.0, 45, 119, 121, 7200, 200_000)] == [
        "-",
        "0.2s",
        "3s",
        "45s",
        "119s",
        "2m",
        "2h",
        "2d",
    ]
    assert [size_text(n) for n in (0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3072.0 GiB",
    ]
    assert age(None) == "-" and age("2020-01-01T00:00:00.000Z").endswith("d")
