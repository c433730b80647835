"""The routes of the Swarming bot API. Source: protocol reference, routes."""

from __future__ import annotations

from typing import Any

from swarmd.api.routes import MIB, Route, Verb
from swarmd.api.swarming import wire

API = "/swarming/api/v1/bot"
BODY_LIMIT = 16 * MIB  # an update carries 250,000 bytes of output in base64; states are some kilobytes
HELD_S = 50.0
TOK = "tok"  # query parameter with a bootstrap token


def _post(path: str, handler: str, request: Any, about: str, held_s: float = 0.0) -> Route:
    return Route(
        method="POST", path=f"{API}/{path}", handler=handler, about=about, verb=Verb.BE_IN_A_GROUP, request=request,
        body_limit=BODY_LIMIT, hot=True, held_s=held_s,
    )  # fmt: skip


def _get(path: str, handler: str, about: str, verb: Verb, produces: str) -> Route:
    return Route(
        method="GET",
        path=path,
        handler=handler,
        about=about,
        verb=verb,
        produces=produces,
        any_query=True,
        ticket="" if verb is Verb.OPEN else TOK,
        hot=True,
    )


TEXT = "text/plain; charset=utf-8"
JSON = "application/json; charset=utf-8"
ZIP = "application/octet-stream"

ROUTES: tuple[Route, ...] = (
    _get(f"{API}/server_ping", "swarming_ping", "Is the daemon up?", Verb.OPEN, TEXT),
    _get("/bot_code", "swarming_stable_code", "Where the bot's code is.", Verb.BE_IN_A_GROUP, TEXT),
    _get(
        f"{API}/bot_code/{{digest}}",
        "swarming_code",
        "The bot's code of one version.",
        Verb.BE_IN_A_GROUP,
        ZIP,
    ),
    _get(
        "/bootstrap",
        "swarming_bootstrap",
        "A script that fetches the bot and starts it.",
        Verb.BE_IN_A_GROUP,
        TEXT,
    ),
    _post("handshake", "swarming_handshake", wire.HandshakeCall, "A bot's process says hello."),
    _post("poll", "swarming_poll", wire.PollCall, "An idle bot asks what to do.", HELD_S),
    _post("claim", "swarming_claim", wire.ClaimCall, "A bot asks for the task behind a lease."),
    _post("event", "swarming_event", wire.EventCall, "A bot has something for its history."),
    _post("task_update", "swarming_task_update", wire.TaskUpdateCall, "Progress or end of a task."),
    _post("task_update/{task}", "swarming_task_update", wire.TaskUpdateCall, "Progress or end of a task."),
    _post("task_error", "swarming_task_error", wire.TaskErrorCall, "The bot failed at a task."),
    _post("task_error/{task}", "swarming_task_error", wire.TaskErrorCall, "The bot failed at a task."),
    _post("oauth_token", "swarming_oauth_token", wire.TokenCall, "An access token for a task."),
    _post("id_token", "swarming_id_token", wire.TokenCall, "An ID token for a task."),
    _get(
        "/.well-known/openid-configuration",
        "swarming_openid_configuration",
        "Who signs ID tokens, and how.",
        Verb.OPEN,
        JSON,
    ),
    _get(
        "/.well-known/jwks.json", "swarming_jwks", "The keys that ID tokens are signed with.", Verb.OPEN, JSON
    ),
    Route(
        method="GET",
        path="/task",
        handler="swarming_task_link",
        about="How a task stands: a link leads here.",
        verb=Verb.READ,
        produces=TEXT,
        any_query=True,
        hot=True,
    ),
    _post("rbe/session/create", "swarming_rbe_create", wire.RbeCreateCall, "A session for leases."),
    _post("rbe/session/update", "swarming_rbe_update", wire.RbeUpdateCall, "A bot asks for a lease.", HELD_S),
)
