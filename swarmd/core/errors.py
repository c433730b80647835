"""Errors of the core, named by what the caller can do about them."""

from __future__ import annotations


class CoreError(Exception):
    """Base: `code` is stable and listed in docs/errors.md; the message says what, which, expected, remedy."""

    def __init__(self, code: str, message: str, remedy: str = "", **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.details = details


class Refused(CoreError):
    """Your request is wrong; repeating it will not help."""


class Unknown(Refused):
    """Your request names something that does not exist (any more)."""


class Conflict(Refused):
    """Your request is fine but does not fit the state of things now."""


class NotYours(CoreError):
    """A stale attempt or session: somebody else holds it now. Nothing was changed."""


class Busy(CoreError):
    """Try again after `retry_after_s`."""

    def __init__(self, code: str, message: str, retry_after_s: float, remedy: str = "") -> None:
        super().__init__(code, message, remedy)
        self.retry_after_s = retry_after_s
