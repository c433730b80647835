"""The edge: every request passes here. One list of routes drives dispatch, limits, errors and the security checks.

Hot routes are answered on the raw ASGI path; all others by quart. Both call the same handlers with a `Call`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
import trio

from swarmd.api.budget import Budget, Share
from swarmd.api.calls import Call, Caller, Reply, json_reply, parse_query
from swarmd.api.grpc_edge import GrpcEdge
from swarmd.api.guard import Denied, Guard
from swarmd.api.problems import Handler, Package, TooLarge, problem_of
from swarmd.api.routes import Route
from swarmd.config import Config
from swarmd.core.errors import Refused
from swarmd.daemon.daemon import Daemon, Stopping
from swarmd.logs import printable

PIECE_S = 30.0  # for the next piece of a body to arrive
MAX_PATH = 4_096
MAX_QUERY = 16_384
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")


class Edge:
    """The ASGI application: the routes of all packages. The first one is at home where no other is."""

    def __init__(self, daemon: Daemon, packages: Sequence[Package]) -> None:
        """Raises `ConfigError` for a token file that cannot be used."""
        from swarmd.api.quart_side import quart_answers  # heavy: only when a server is made

        self.daemon = daemon
        self.budget = Budget()
        self.packages = tuple(packages)
        self.guard = self._guard(daemon.config)
        self.routes = tuple(route for package in packages for route in package.routes)
        self._handlers: dict[str, Handler] = {}
        for package in packages:
            assert not self._handlers.keys() & package.handlers.keys(), (
                f"{package.name}: a handler's name is taken"
            )
            self._handlers.update(package.handlers)
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        for route in self.routes:
            self._add(route)
        self._quart = quart_answers(self)
        self.grpc = GrpcEdge(self)  # what serves calls of gRPC

    def _add(self, route: Route) -> None:
        assert route.handler in self._handlers, f"no handler {route.handler}"
        assert route.hot or not route.raw_body, (
            f"{route.handler}: quart would read the whole body into memory"
        )
        if "{" not in route.path:
            methods = self._exact.setdefault(route.path, {})
        else:
            segments = tuple(route.path.strip("/").split("/"))
            patterns = self._patterns.setdefault(len(segments), [])
            methods = next((m for s, m in patterns if s == segments), {})
            if not methods:
                patterns.append((segments, methods))
        assert route.method not in methods, f"{route.method} {route.path} is listed twice"
        methods[route.method] = route

    def _guard(self, config: Config) -> Guard:
        return Guard(config, [package.lesser for package in self.packages if package.lesser is not None])

    async def reconfigure(self, config: Config) -> None:
        """Takes what a new configuration says of the edge. Raises `ConfigError`; then everything stays as it was."""
        guard = self._guard(config)
        takes = [await p.prepare(config) for p in self.packages if p.prepare is not None]
        for take in takes:
            take()
        self.guard = guard

    # ------------------------------------------------------------- the ASGI side

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            call = self._look(scope)
            if call.route.hot:
                reply = await self.answer(call, _raw_chunks(receive))
                await self._send(reply, send, scope["method"])
                return
        except BaseException as error:
            reply = self._error_reply(error, scope["path"])
            if reply is None:
                raise
            await self._send(reply, send, scope["method"])
            return
        await self._quart(call, scope, receive, send)

    async def _send(self, reply: Reply, send: Any, method: str) -> None:
        headers = reply_headers(reply, self.is_leaving)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body})

    @property
    def is_leaving(self) -> bool:
        """The daemon is stopping: each answer is the last one of its connection.

        Else thousands of bots, whose held calls are answered now, send the next one before they see that the connection
        is closed, and each is refused by a daemon that has enough to do.
        """
        return self.daemon.stopping.is_set()

    def _look(self, scope: Any) -> Call:
        """Checks everything that can be checked before the body. Raises what `error_reply` knows."""
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        if len(raw_path) > MAX_PATH or len(scope["query_string"]) > MAX_QUERY:
            raise Denied(
                414, "uri_too_long", f"the address has more than {MAX_PATH} bytes", "send less in the query"
            )
        client, path = scope.get("client"), raw_path.decode("latin-1").partition("?")[0]
        caller, path = self.guard.admit(scope["headers"], client[0] if client else None, path)
        scope["path"] = (
            path  # without a token: for the log of an answer that breaks off, and for whose path it is
        )
        route, params = self._find(scope["method"], path)
        caller = self._with_ticket(caller, route, scope["query_string"])
        self.guard.may(caller, route.verb)
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        _check_content_type(route, headers)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > route.body_limit:
            raise TooLarge(route.body_limit)
        query = _query(route, scope["query_string"])
        if self.daemon.stopping.is_set() and not route.verb.value == "open":
            raise Stopping
        return Call(route, params, query, headers, caller)

    def _find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        methods, params = self._exact.get(path), dict[str, str]()
        if methods is None:
            segments = path.strip("/").split("/")
            for pattern, found in self._patterns.get(len(segments), ()):
                if all(p == s or p[0] == "{" for p, s in zip(pattern, segments, strict=True)):
                    methods = found
                    params = {
                        p[1:-1]: unquote(s) for p, s in zip(pattern, segments, strict=True) if p[0] == "{"
                    }
                    break
        if methods is None:
            raise Denied(
                404, "unknown_route", f"there is nothing at {path[:200]!r}", "see /api/v1/openapi.json"
            )
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise Denied(
                405, "wrong_method", f"{path[:200]} takes {allowed}, not {method[:20]}", f"use {allowed}"
            )
        return route, params

    def _with_ticket(self, caller: Caller, route: Route, query: bytes) -> Caller:
        """The caller; one who may not call this route by itself, but shows a good ticket for it, may call this one.
        Raises `Denied` for a ticket that is none."""
        if not route.ticket or caller.trusted or route.verb in caller.verbs:
            return caller
        shown = dict(_pairs(query)).get(route.ticket)
        if not shown:
            return caller
        check = self._at_home(route.path).check_ticket
        assert check is not None, f"{route.path} takes a ticket that nobody can check"
        check(shown)
        return msgspec.structs.replace(caller, verbs=frozenset({route.verb}))

    # ------------------------------------------------------------- answering

    async def answer(self, call: Call, chunks: Callable[[], AsyncIterator[bytes]]) -> Reply:
        """Reads the body, calls the handler, makes its answer a reply. Errors are replies too."""
        try:
            route = call.route
            with self.budget.share() as call.share:
                if route.raw_body:
                    call.chunks = lambda: _limited(chunks(), route.body_limit)
                elif route.request is not None:
                    call.raw = await _read_all(chunks(), route.body_limit, call.share)
                    call.body = decode(call.raw, route.request)
                answer = await self._handlers[route.handler](call)
                return answer if isinstance(answer, Reply) else json_reply(answer, route.status)
        except BaseException as error:
            reply = self._error_reply(error, call.route.path)
            if reply is None:
                raise
            return reply

    def _error_reply(self, error: BaseException, path: str) -> Reply | None:
        """The answer to an error in the form of the protocol whose path it is; None for what is not ours to answer."""
        problem = problem_of(error)
        if problem is None:
            return None
        # Messages quote what was asked; it may be shown by a terminal that obeys what JSON does not escape.
        message, remedy = printable(problem.message), printable(problem.remedy)
        return self._at_home(path).form(msgspec.structs.replace(problem, message=message, remedy=remedy))

    def _at_home(self, path: str) -> Package:
        return next((p for p in self.packages if path.startswith(p.prefixes)), self.packages[0])


def _query(route: Route, raw: bytes) -> dict[str, Any]:
    pairs = _pairs(raw)
    return dict(pairs) if route.any_query else parse_query(route, pairs)


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise Refused(
            "bad_parameter", f"the query cannot be read: {error}", "encode it as UTF-8 with %XX"
        ) from None


def decode(raw: bytes, type: Any) -> Any:
    """The struct in a JSON body. Raises `Refused` that names the field."""
    try:
        return msgspec.json.decode(raw, type=type)
    except msgspec.ValidationError as error:
        raise Refused(
            "bad_field", f"the body is not as expected: {error}", "see /api/v1/openapi.json"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("bad_json", f"the body is not JSON: {error}", "send one JSON object") from None


async def _read_all(chunks: AsyncIterator[bytes], limit: int, share: Share) -> bytes:
    parts, size = [], 0
    async for chunk in _limited(chunks, limit):
        size += len(chunk)
        share.hold(size)
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _limited(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    while True:
        chunk = None
        with trio.move_on_after(PIECE_S) as scope:
            chunk = await anext(chunks, None)
        if scope.cancelled_caught:
            raise Denied(408, "body_too_slow", f"nothing of the body came for {PIECE_S:g} s", "send it again")
        if chunk is None:
            return
        size += len(chunk)
        if size > limit:
            raise TooLarge(limit)
        yield chunk


def _raw_chunks(receive: Any) -> Callable[[], AsyncIterator[bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Denied(400, "cut_off", "the body ended early", "send it again")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    return chunks


def _check_content_type(route: Route, headers: dict[str, str]) -> None:
    """JSON must say so: a browser cannot send that to another site without asking first."""
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if route.request is not None and given != "application/json":
        raise Denied(
            415,
            "wrong_content_type",
            f"the body's type is {given[:60] or 'not given'!r}; expected application/json",
            "send 'Content-Type: application/json'",
        )
    if given in FORM_TYPES:
        raise Denied(
            415,
            "wrong_content_type",
            f"{given} is never taken",
            "send 'Content-Type: application/octet-stream'",
        )


def reply_headers(reply: Reply, is_last: bool) -> list[tuple[bytes, bytes]]:
    """`is_last`: the client is told to close the connection."""
    own = {name for name, _ in reply.headers}
    usual = [header for header in SECURITY_HEADERS if header[0] not in own] if own else SECURITY_HEADERS
    headers = [(b"content-type", reply.content_type.encode()), *usual, *reply.headers]
    if is_last and b"connection" not in own:
        headers.append((b"connection", b"close"))
    if reply.stream is None and not any(name == b"content-length" for name, _ in reply.headers):
        headers.append((b"content-length", str(len(reply.body)).encode()))
    return headers
