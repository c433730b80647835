"""The quart application behind the edge, for each route that is not hot.

The edge has checked the call already; quart reads bodies, streams answers and cancels a handler whose client is gone.
No page of the framework can appear: whatever was asked reaches it as a request for "/" of "localhost", the only one
that it has a rule for. (Its own matching knows no line ends in a path, and fails at a host that is no name.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from quart import Response, request
from quart_trio import QuartTrio

from swarmd.api.calls import Call, Reply

if TYPE_CHECKING:
    from swarmd.api.edge import Edge

THE_REQUEST = {"path": "/", "raw_path": b"/", "query_string": b"", "headers": [(b"host", b"localhost")]}


def quart_answers(edge: Edge) -> Callable[[Call, Any, Any, Any], Awaitable[None]]:
    """Gives what answers `(call, scope, receive, send)`."""
    app = QuartTrio("swarmd", root_path=".", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = None  # each route has its own limit
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    async def view() -> Response:
        call: Call = request.scope["swarmd.call"]
        return _response(await edge.answer(call, _chunks()), call.route.method, edge.is_leaving)

    methods = sorted({route.method for route in edge.routes})
    app.add_url_rule("/", "root", view, methods=methods, provide_automatic_options=False)

    async def answer(call: Call, scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, **THE_REQUEST, "swarmd.call": call}, receive, send)

    return answer


def _chunks() -> Callable[[], AsyncIterator[bytes]]:
    body = request.body

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in body:
            yield bytes(chunk)

    return chunks


def _response(reply: Reply, method: str, is_last: bool) -> Response:
    from swarmd.api.edge import reply_headers

    body: Any = reply.stream if reply.stream is not None else reply.body
    if method == "HEAD":
        body = b""
    response = Response(body, status=reply.status)
    response.timeout = None
    response.headers.clear()
    for name, value in reply_headers(reply, is_last):
        response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
