"""The page of a task: LUCI's clients print its address for each task that they make."""

from __future__ import annotations

from swarmd.api.calls import Call, Reply
from swarmd.api.swarming.context import Context
from swarmd.api.swarming.ids import parse
from swarmd.core.errors import Refused, Unknown
from swarmd.core.ids import to_text
from swarmd.logs import printable
from swarmd.store.selecting import ops_by_id


class LinkHandlers:
    def __init__(self, context: Context) -> None:
        self._daemon = context.daemon

    async def swarming_task_link(self, call: Call) -> Reply:
        """How the task stands, in a few lines of text, and where more is."""
        text = call.query.get("id", "")
        parsed = parse(text)
        if parsed is None:
            raise Refused(
                "bad_parameter", f"{text[:40]!r} is no id of a task", "give id=ID, as it was printed"
            )
        rows = await self._daemon.read(lambda conn: ops_by_id(conn, [parsed[0]]))
        row = rows.get(parsed[0])
        if row is None:
            raise Unknown(
                "unknown_task", f"there is no task {text}", "swarmd tasks lists those that are known"
            )
        id = to_text(row.id)
        lines = [f"{row.name or 'task'}: {row.state.name}"]
        lines += [f"bot: {row.bot}"] if row.bot else []
        lines += [f"exit code: {row.exit_code}"] if row.exit_code is not None else []
        lines += [row.reason] if row.reason else []
        lines += ["", f"swarmd show {id}", f"swarmd logs {id}", f"swarmd explain {id}"]
        page = "".join(printable(line) + "\n" for line in lines)
        return Reply(page.encode(), content_type="text/plain; charset=utf-8")
