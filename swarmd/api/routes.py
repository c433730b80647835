"""What a route is. Every package under `api/` lists its routes as `Route` values; `api/edge.py` joins the
lists.

Dispatch, the OpenAPI file, the limits and the security tests are all driven by these values, so that a new
route
cannot be forgotten by any of them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

MIB = 1 << 20


class Verb(StrEnum):
    """What a caller wants to do, for `may(caller, verb, pool)`."""

    READ = "read"  # look at tasks, bots, events, output
    SUBMIT = "submit"  # add work, upload blobs
    CHANGE = "change"  # cancel, retry, close
    OPERATE = "operate"  # bots: drain, quarantine, delete; backup
    BE_A_BOT = "be a bot"  # sessions and what they report
    BE_IN_A_GROUP = "be a bot of a group"  # the same, where bots have groups with secrets of their own
    OPEN = "open"  # health: anybody who may connect


class Query(Struct, frozen=True):
    """A query parameter: `type` is a JSON schema type or a msgspec type."""

    name: str
    type: Any
    about: str
    default: Any = None


class Header(Struct, frozen=True):
    """A header of a request, or one that every good answer has. `type` as for `Query`."""

    name: str
    type: Any
    about: str


class Route(Struct, frozen=True, kw_only=True):
    """One route. `path` has `{name}` for a segment. `handler` is looked up in the package's handler
    classes."""

    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]
    path: str
    handler: str
    about: str  # one sentence, shown in the OpenAPI file
    verb: Verb
    request: Any = None  # type of the JSON body, None: no body
    answer: Any = None  # type of the JSON answer, None: see `produces`
    status: int = 200
    query: tuple[Query, ...] = ()
    headers: tuple[Header, ...] = ()  # of the request; all may be left out
    answer_headers: tuple[Header, ...] = ()
    body_limit: int = 16 * MIB
    raw_body: bool = False  # the body is bytes, read as a stream
    produces: str = "application/json"
    events: dict[str, Any] = {}  # types of the JSON in its server-sent events, by kind; "": any kind
    hot: bool = (
        False  # taken by the raw ASGI path, in front of quart (which reads bodies ahead without bound)
    )
    held_s: float = 0.0  # how long an answer may be held at most
    any_query: bool = False  # query parameters are the handler's own affair
    ticket: str = ""  # name of a query parameter: a good secret in it opens this route, and no other
