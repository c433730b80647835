"""Text of unknown origin (names of tasks, output, reasons) made harmless for a terminal."""

from __future__ import annotations

import codecs
import re
import unicodedata

_ESCAPES = re.compile(r"\x1b(\[[0-9;:]{0,64}m)?")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PENDING = re.compile(r"(\x1b(\[[0-9;:]{0,64})?|\r)\Z")
_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # it escapes those below 0x20
RESET = "\x1b[0m"


def one_line(text: str) -> str:
    """`text` on one line without control characters: those become spaces (white space) or are dropped."""
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp"):
            kept.append(" " if character.isspace() else "")
        elif category not in ("Cf", "Cs") or character == "\u200d":
            kept.append(character)
    return "".join(kept)


def shortened(text: str, width: int) -> str:
    """`one_line(text)` in at most `width` characters, an ellipsis at the end of what was cut."""
    text = one_line(text)
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def safe_json(text: str) -> str:
    """The same JSON, with characters escaped that a terminal might obey."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


class TerminalFilter:
    """Makes a stream of output bytes harmless for a terminal, piece by piece.

    Line ends, tabs and SGR colours pass; a lone CR becomes a line end; every other control character is
    shown in caret form (`^[`), so that output cannot move the cursor, set titles or answer for the user.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = ""
        self._coloured = False

    def feed(self, data: bytes, final: bool = False) -> str:
        """The harmless text of `data`; with `final` also what was held back, and the end of a colour left
        on.
        """
        text = self._pending + self._decode(data, final)
        held = None if final else _PENDING.search(text)
        self._pending = held.group() if held else ""
        text = text[: len(text) - len(self._pending)].replace("\r\n", "\n").replace("\r", "\n")
        text = _CONTROLS.sub(_caret, _ESCAPES.sub(self._escape, text))
        if final and self._coloured:
            text += RESET
        return text

    def _escape(self, found: re.Match[str]) -> str:
        if found.group(1) is None:
            return "^["
        self._coloured = found.group() not in (RESET, "\x1b[m")
        return found.group()


def _caret(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code > 0x9F:
        return f"<U+{code:04X}>"
    return "^" + chr(code ^ 0x40) if code < 0x80 else f"<{code:02X}>"
