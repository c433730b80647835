"""The quart application behind the edge: one rule for each route that is not hot.

The edge has checked the call already; quart reads bodies, streams answers and cancels a handler whose client is gone.
No page of the framework can appear: a request reaches it only with a route that it has a rule for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from quart import Response, request
from quart_trio import QuartTrio

from swarmd.api.calls import Call, Reply

if TYPE_CHECKING:
    from swarmd.api.edge import Edge


def quart_app(edge: Edge) -> QuartTrio:
    app = QuartTrio("swarmd", root_path=".", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = None  # each route has its own limit
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    async def view(**_: Any) -> Response:
        call: Call = request.scope["swarmd.call"]
        return _response(await edge.answer(call, _chunks()), call.route.method)

    # The edge has matched the path (and taken a token out of it), so one rule takes all.
    methods = sorted({route.method for route in edge.routes})
    app.add_url_rule("/", "root", view, methods=methods, provide_automatic_options=False)
    app.add_url_rule("/<path:rest>", "route", view, methods=methods, provide_automatic_options=False)
    return app


def _chunks() -> Callable[[], AsyncIterator[bytes]]:
    body = request.body

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in body:
            yield bytes(chunk)

    return chunks


def _response(reply: Reply, method: str) -> Response:
    from swarmd.api.edge import reply_headers

    body: Any = reply.stream if reply.stream is not None else reply.body
    if method == "HEAD":
        body = b""
    response = Response(body, status=reply.status)
    response.timeout = None
    response.headers.clear()
    for name, value in reply_headers(reply):
        response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
