"""The methods of the client API that are served. Any other one is answered as unknown (UNIMPLEMENTED).

`READ`: sees tasks and bots. `SUBMIT`: makes tasks. `CHANGE`: cancels them. `OPERATE`: acts on bots.
"""

from __future__ import annotations

from swarmd.api.routes import Route, Verb
from swarmd.api.swarming.prpc.layer import MAX_BODY, Method

TASKS = "swarming.v2.Tasks"
BOTS = "swarming.v2.Bots"
SWARMING = "swarming.v2.Swarming"
DISCOVERY = "discovery.Discovery"
PREFIXES = ("/prpc/",)

METHODS: tuple[Method, ...] = (
    Method(TASKS, "NewTask", Verb.SUBMIT, "Makes a task.", MAX_BODY),
    Method(TASKS, "GetRequest", Verb.READ, "What a task was asked to be."),
    Method(TASKS, "GetResult", Verb.READ, "How a task stands."),
    Method(TASKS, "BatchGetResult", Verb.READ, "How up to 1,000 tasks stand."),
    Method(TASKS, "ListTaskStates", Verb.READ, "The states of up to 1,000 tasks."),
    Method(TASKS, "GetStdout", Verb.READ, "A page of what a task has printed."),
    Method(TASKS, "CancelTask", Verb.CHANGE, "Cancels a task."),
    Method(TASKS, "ListTasks", Verb.READ, "The results of tasks that match."),
    Method(TASKS, "ListTaskRequests", Verb.READ, "The requests of tasks that match."),
    Method(TASKS, "CountTasks", Verb.READ, "How many tasks match."),
    Method(TASKS, "CancelTasks", Verb.CHANGE, "Cancels the tasks that match."),
    Method(BOTS, "GetBot", Verb.READ, "One bot; of a deleted one what its history tells."),
    Method(BOTS, "ListBots", Verb.READ, "Bots by id, those that match."),
    Method(BOTS, "CountBots", Verb.READ, "How many bots match, by how they are."),
    Method(BOTS, "GetBotDimensions", Verb.READ, "All dimensions that bots have."),
    Method(BOTS, "DeleteBot", Verb.OPERATE, "Forgets a bot that is gone."),
    Method(BOTS, "ListBotEvents", Verb.READ, "What happened to a bot, newest first."),
    Method(BOTS, "ListBotTasks", Verb.READ, "What ran on a bot, newest first."),
    Method(BOTS, "TerminateBot", Verb.OPERATE, "Makes the task that ends a bot."),
    Method(SWARMING, "GetDetails", Verb.READ, "What the server is."),
    Method(SWARMING, "GetPermissions", Verb.READ, "What the caller may do."),
    Method(SWARMING, "GetToken", Verb.OPERATE, "A token that opens the bot code for an hour."),
    Method(DISCOVERY, "Describe", Verb.READ, "The services, with all their messages."),
)
ROUTES: tuple[Route, ...] = tuple(method.route() for method in METHODS)
