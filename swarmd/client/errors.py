"""What can go wrong for a caller of the client."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base of all errors of the client. `message` says what happened, `remedy` what to do; either may be
    shown as it is.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class BadSetting(ClientError):
    """An address or a token file that cannot be used; nothing was sent."""


class ApiError(ClientError):
    """The daemon refused. `code` is stable and listed in docs/errors.md; `status` is the HTTP status."""

    def __init__(
        self, status: int, code: str, message: str, remedy: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, remedy)
        self.status = status
        self.code = code
        self.details = details or {}

    @property
    def refused_caller(self) -> bool:
        """True when it is about who calls (token, network), not about what was asked."""
        return self.status in (401, 403)


class Unreachable(ClientError):
    """No answer came. `sent`: the request may have arrived; if it `changes` something, its outcome is not known."""

    def __init__(self, url: str, reason: str, sent: bool = False, changes: bool = True) -> None:
        if sent and changes:
            message = f"no answer from {url}: {reason}"
            remedy = (
                "whether the request took effect is not known; look, or repeat it with the same request id"
            )
        else:
            message = f"cannot reach {url}: {reason}"
            remedy = "is `swarmd serve` running? Set SWARMD_URL or --server to its address"
        super().__init__(message, remedy)
        self.url = url
        self.reason = reason
        self.sent = sent


class StrangeAnswer(ClientError):
    """Something answered, but not as a swarmd daemon of this version would."""
