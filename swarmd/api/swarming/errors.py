"""An error as Swarming bots read it: JSON with one text under `error`.

JSON, because the bot takes a 404 of any other type for a passing failure and repeats the call for minutes. A 4xx is
final for it, a 408, 429 or 5xx is repeated. Source: protocol reference, "What the bot retries".
"""

from __future__ import annotations

from swarmd.api.calls import Reply
from swarmd.api.problems import Problem
from swarmd.api.swarming.context import reply

_STATUS = {415: 400}  # what their server says to a body of another type


def form(problem: Problem) -> Reply:
    text = f"{problem.message}; {problem.remedy}" if problem.remedy else problem.message
    answer = reply({"error": text, "code": problem.code}, _STATUS.get(problem.status, problem.status))
    answer.headers = problem.headers
    return answer
