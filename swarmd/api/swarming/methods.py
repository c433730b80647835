"""The methods of the client API that are served. Any other one is answered as unknown (UNIMPLEMENTED).

`READ`: sees tasks and bots. `SUBMIT`: makes tasks. `CHANGE`: cancels them. `OPERATE`: acts on bots.
"""

from __future__ import annotations

from swarmd.api.routes import Route, Verb
from swarmd.api.swarming.prpc.layer import Method

SWARMING = "swarming.v2.Swarming"
DISCOVERY = "discovery.Discovery"
PREFIXES = ("/prpc/",)

METHODS: tuple[Method, ...] = (
    Method(SWARMING, "GetDetails", Verb.READ, "What the server is."),
    Method(SWARMING, "GetPermissions", Verb.READ, "What the caller may do."),
    Method(DISCOVERY, "Describe", Verb.READ, "The services, with all their messages."),
)
ROUTES: tuple[Route, ...] = tuple(method.route() for method in METHODS)
