"""A call, whatever transport it came by, and what may be answered to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from msgspec import Struct

from swarmd.api.budget import Share
from swarmd.api.routes import Route, Verb
from swarmd.core.errors import Refused, Unknown
from swarmd.core.ids import from_text

Headers = tuple[tuple[bytes, bytes], ...]
MAX_NESTING = 64  # of lists and objects in what is kept for others to read: they must not run out of stack


class Caller(Struct, frozen=True):
    """Who calls: a peer of this machine, one that showed the token, or one of a listed network; all are trusted.

    A caller that showed a lesser secret has a `name`, and may do what `verbs` says even when it is not trusted.
    `prefix` stood in front of its path: `/` and the token, when it was shown there.
    """

    peer: str
    trusted: bool
    name: str = ""
    verbs: frozenset[Verb] = frozenset()
    prefix: str = ""

    def may(self, verb: Verb) -> bool:
        return verb is Verb.OPEN or self.trusted or verb in self.verbs


class Call:
    """One request. `body` is decoded for routes with a request type; `chunks` streams the bytes of a raw body."""

    __slots__ = ("body", "caller", "chunks", "headers", "params", "query", "raw", "route", "share")

    def __init__(
        self,
        route: Route,
        params: dict[str, str],
        query: dict[str, Any],
        headers: dict[str, str],
        caller: Caller,
    ) -> None:
        self.route = route
        self.params = params
        self.query = query
        self.headers = headers  # names in lower case
        self.caller = caller
        self.body: Any = None
        self.raw = b""  # the body as it came, for routes with a request type
        self.chunks: Callable[[], AsyncIterator[bytes]] | None = None
        # Of the memory for large requests: who keeps what `chunks` gives says so.
        self.share: Share | None = None

    def id_param(self, name: str, kind: str) -> int:
        """The id in the path. Raises `Unknown`: a text that is no id names nothing."""
        return id_of(self.params[name], kind)


def id_of(text: str, kind: str) -> int:
    """The number behind an id's text. Raises `Unknown` for a text that is no id."""
    id = from_text(text)
    if id is None:
        raise Unknown(
            f"unknown_{kind}",
            f"there is no {kind} {text[:40]!r}: ids have 13 characters of base 32",
            "give an id as the daemon gave it",
        )
    return id


def cursor_of(call: Call) -> int | None:
    """The id behind the query parameter `cursor`, None at the start of a list. Raises `Refused`."""
    text = call.query["cursor"]
    if not text:
        return None
    id = from_text(text)
    if id is None:
        raise Refused(
            "bad_cursor",
            f"query parameter cursor is {text[:40]!r}, expected the 'next' of an earlier answer",
            "begin without a cursor",
        )
    return id


def kept_json(value: dict[str, Any], name: str) -> bytes:
    """JSON of any form that a caller sent, to be kept. Raises `Refused` when it is nested too deeply.

    Not for a step of the engine: what is refused there must have been looked at before.
    """
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return msgspec.json.encode(value)
    raise Refused("bad_field", f"{name} is nested more than {MAX_NESTING} levels deep", "send it flatter")


def ids_of(texts: list[str], kind: str) -> list[int]:
    return [id_of(text, kind) for text in texts]


class Reply:
    """What is answered: JSON of a struct, bytes, or a stream of them."""

    __slots__ = ("body", "content_type", "headers", "status", "stream")

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Headers = (),
        stream: AsyncIterator[bytes] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers
        self.stream = stream


def json_reply(value: Any, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(msgspec.json.encode(value), status=status, headers=headers)


def parse_query(route: Route, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """The query parameters of a call, with defaults. Raises `Refused` for unknown, doubled or wrong ones."""
    known = {q.name: q for q in route.query}
    found: dict[str, Any] = {q.name: q.default for q in route.query}
    seen = set()
    for name, text in pairs:
        query = known.get(name)
        if query is None:
            expected = f"known ones: {', '.join(known)}" if known else "it takes none"
            raise Refused("unknown_parameter", f"{route.path} has no query parameter {name[:40]!r}", expected)
        if name in seen:
            raise Refused("bad_parameter", f"query parameter {name} is given twice", "give it once")
        seen.add(name)
        try:
            value: Any = text
            if query.type is not str:
                value = {"true": True, "false": False}.get(text, text) if query.type is bool else text
                value = msgspec.convert(value, query.type, strict=False)
            found[name] = value
        except msgspec.ValidationError as error:
            raise Refused(
                "bad_parameter", f"query parameter {name} is {text[:40]!r}: {error}", query.about
            ) from None
    return found
