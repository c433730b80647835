"""The environment of a command: a little of the bot's own, the facts of the task, and what the task sets."""

import sys
from collections.abc import Iterable, Mapping

KEPT = frozenset(("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL"))
KEPT_PREFIXES = ("LC_", "SSL_CERT_")
SECRETS = frozenset(("SWARMD_TOKEN", "SWARMD_TOKEN_FILE"))
MAX_NAME = 256  # characters of a variable's name


def command_environment(
    own: Mapping[str, str],
    *,
    keep: Iterable[str] = (),
    task_id: str,
    attempt: str,
    bot_id: str,
    url: str,
    index: int | None = None,
    line: str | None = None,
    task: Mapping[str, str | None] | None = None,
    frozen: bool = bool(getattr(sys, "frozen", False)),
) -> dict[str, str]:
    """All variables of a command, in the order in which they win: allow-list, facts, the task's own.

    `keep` names more of the bot's own variables (the operator's choice). In `task` None removes a variable
    and "" sets it to nothing. The bot's tokens never get there; a task that needs one brings its own.
    `frozen` says that the bot is a PyInstaller program: its LD_LIBRARY_PATH is replaced by the one it was
    started with. Raises `ValueError`, with a sentence, for a name that no environment can hold.
    """
    kept = KEPT | frozenset(keep)
    found = {
        name: value
        for name, value in own.items()
        if (name in kept or name.startswith(KEPT_PREFIXES)) and name not in SECRETS
    }
    if frozen:
        found.pop("LD_LIBRARY_PATH", None)
        if "LD_LIBRARY_PATH_ORIG" in own:
            found["LD_LIBRARY_PATH"] = own["LD_LIBRARY_PATH_ORIG"]
    found |= {
        "SWARMD_TASK_ID": task_id,
        "SWARMD_ATTEMPT": attempt,
        "SWARMD_BOT_ID": bot_id,
        "SWARMD_URL": url,
    }
    if index is not None:
        found["SWARMD_INDEX"] = str(index)
    if line is not None:
        found["SWARMD_LINE"] = line
    for name, value in (task or {}).items():
        check_variable(name, value)
        if value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return found


def check_variable(name: str, value: str | None) -> None:
    """Raises `ValueError` if the kernel cannot carry this variable."""
    if not name or len(name) > MAX_NAME or "=" in name or "\0" in name:
        raise ValueError(
            f"environment variable {name[:80]!r}: a name has 1 to {MAX_NAME} characters without '=' and NUL"
        )
    if value is not None and "\0" in value:
        raise ValueError(f"environment variable {name!r}: its value has a NUL; pass binary data in a file")
